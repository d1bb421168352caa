use super::*;

const NASTY: &str = "<b>&\"it's\",\u{0}\n一二 ▁é";

fn picture() -> Picture {
    let caption = Caption {
        title: NASTY.to_owned(),
        lines: vec!["model tiny".to_owned(), NASTY.to_owned()],
    };
    let (mut picture, y) = Picture::new(&caption);
    let red = Color32::from_rgb(200, 0, 0);
    let y = picture.legend(y, &[(red, "a".to_owned()), (INK, NASTY.to_owned())]);
    let bar = |value| Bar {
        name: "token".to_owned(),
        parts: vec![(value, red)],
        words: format!("{value}"),
    };
    let y = picture.bars(
        y,
        "ms",
        2.0,
        &[bar(1.0), bar(f64::NAN), bar(f64::INFINITY), bar(-1.0)],
    );
    let matrix = Matrix {
        width: 3,
        height: 2,
        colors: &[red, red, INK, INK, INK, INK],
        row_name: &|row| row.to_string(),
        row_axis: "layer",
        column_axis: "position",
        ticks: &[(0.0, "0".to_owned()), (1.0, "3".to_owned())],
    };
    picture.matrix(y, &matrix);
    picture
}

#[test]
fn svg_escapes_what_is_markup_and_what_xml_forbids() {
    let svg = picture().to_svg();
    assert!(svg.contains("&lt;b&gt;&amp;&quot;it&#39;s&quot;,\u{FFFD} 一二 ▁é"));
    assert!(!svg.contains("<b>") && !svg.contains('\u{0}'));
    assert!(
        !svg.contains("NaN\"") && !svg.contains("inf\""),
        "no coordinate that is none"
    );
    // Every element is closed: as many `<` as `>`, one root.
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
}

#[test]
fn runs_of_one_colour_become_one_rectangle() {
    let picture = picture();
    let rects = picture
        .shapes
        .iter()
        .filter(
            |shape| matches!(shape, Shape::Rect { rect, .. } if rect[0] >= LEFT && rect[3] == 22.0),
        )
        .count();
    assert_eq!(rects, 3);
}

fn pixels(picture: &Picture, scale: f32) -> image::RgbImage {
    let png = picture.to_png(scale).unwrap();
    image::load_from_memory(&png).unwrap().to_rgb8()
}

#[test]
fn png_has_rectangles_where_they_belong() {
    let mut picture = Picture {
        width: 40.0,
        height: 20.0,
        title: String::new(),
        shapes: Vec::new(),
    };
    let blue = Color32::from_rgb(0, 0, 255);
    picture.rect([10.0, 4.0, 5.0, 3.0], blue);
    // Thinner than a pixel, and partly outside.
    picture.rect([30.0, 0.0, 0.01, 20.0], blue);
    picture.rect([38.0, 18.0, 100.0, 100.0], blue);
    picture.height = 20.0;
    let image = pixels(&picture, 2.0);
    assert_eq!(image.dimensions(), (80, 40));
    assert_eq!(image.get_pixel(20, 8).0, [0, 0, 255]);
    assert_eq!(image.get_pixel(29, 13).0, [0, 0, 255]);
    assert_eq!(image.get_pixel(30, 13).0, [255, 255, 255]);
    assert_eq!(image.get_pixel(60, 5).0, [0, 0, 255]);
    assert_eq!(image.get_pixel(79, 39).0, [0, 0, 255]);
}

#[test]
fn png_has_legible_text_at_its_anchor() {
    for (anchor, from, to) in [
        (Anchor::Start, 100, 200),
        (Anchor::Middle, 50, 150),
        (Anchor::End, 0, 100),
    ] {
        let mut picture = Picture {
            width: 200.0,
            height: 40.0,
            title: String::new(),
            shapes: Vec::new(),
        };
        picture.text([100.0, 25.0], anchor, 14.0, Color32::BLACK, "selection");
        let image = pixels(&picture, 1.0);
        let dark: Vec<(u32, u32)> = image
            .enumerate_pixels()
            .filter(|(_, _, pixel)| pixel.0[0] < 100)
            .map(|(x, y, _)| (x, y))
            .collect();
        assert!(dark.len() > 60, "{anchor:?}: {} dark pixels", dark.len());
        for &(x, y) in &dark {
            assert!((from..=to).contains(&x), "{anchor:?}: ink at {x}");
            // Nothing of this word goes below the base line.
            assert!((10..=26).contains(&y), "{anchor:?}: ink at height {y}");
        }
    }
}

#[test]
fn lines_are_drawn_in_every_direction() {
    for to in [[30.0, 10.0], [10.0, 30.0], [30.0, 30.0], [10.0, 10.0]] {
        let mut picture = Picture {
            width: 40.0,
            height: 40.0,
            title: String::new(),
            shapes: Vec::new(),
        };
        picture.line([10.0, 10.0], to, 2.0, Color32::BLACK);
        let image = pixels(&picture, 1.0);
        assert!(image.get_pixel(10, 10).0[0] < 128);
        let middle = [(10.0 + to[0]) / 2.0, (10.0 + to[1]) / 2.0].map(|c| c as u32);
        assert!(image.get_pixel(middle[0], middle[1]).0[0] < 128, "{to:?}");
        assert_eq!(image.get_pixel(35, 5).0, [255; 3]);
    }
}

#[test]
fn a_picture_too_large_is_an_error() {
    let mut picture = picture();
    picture.height = 1e6;
    let error = picture.to_png(1.0).unwrap_err().to_string();
    assert!(error.contains("expected 1 to 16384"), "{error}");
    picture.height = 0.0;
    assert!(picture.to_png(1.0).is_err());
}

fn table() -> Table {
    Table {
        title: "Logits".to_owned(),
        about: vec![("model".to_owned(), NASTY.to_owned())],
        columns: vec![
            Column::new("text", ""),
            Column::new("id", ""),
            Column::new("time", "ms"),
        ],
        rows: vec![
            vec![NASTY.into(), 7usize.into(), 0.5f64.into()],
            vec![" red".into(), Field::Missing, f32::NAN.into()],
            vec!["a".into(), 1u32.into(), f64::NEG_INFINITY.into()],
        ],
    }
}

#[test]
fn csv_quotes_what_needs_it_and_names_units() {
    let csv = table().to_csv();
    let expected = "text,id,time (ms)\r\n\
        \"<b>&\"\"it's\"\",\u{0}\n一二 ▁é\",7,0.5\r\n\
        \" red\",,NaN\r\na,1,-inf\r\n";
    assert_eq!(csv, expected);
}

#[test]
fn json_is_valid_and_says_what_is_no_number() {
    let value: serde_json::Value = serde_json::from_str(&table().to_json()).unwrap();
    assert_eq!(value["about"]["model"], NASTY);
    assert_eq!(value["columns"][2]["unit"], "ms");
    assert_eq!(value["rows"][0]["text"], NASTY);
    assert_eq!(value["rows"][1]["id"], serde_json::Value::Null);
    assert_eq!(value["rows"][1]["time"], "NaN");
    assert_eq!(value["rows"][2]["time"], "-inf");
}

#[test]
fn shortening_counts_characters() {
    assert_eq!(shortened("一二三", 3), "一二三");
    assert_eq!(shortened("一二三四", 3), "一二…");
    assert_eq!(shortened("", 0), "");
}
