//! Colours that carry meaning, chosen to survive colour blindness.
//!
//! Categories are those of Okabe and Ito (<https://jfly.uni-koeln.de/color/>); numbers from nothing to much use
//! cividis on dark ground and ColorBrewer's YlGnBu on light ground; numbers around a middle use PuOr.
//! Colours of widgets are the theme's business.

use eframe::egui::Color32;

/// The eight colours of Okabe and Ito, black left out.
pub const CATEGORIES: [Color32; 7] = [
    Color32::from_rgb(0xE6, 0x9F, 0x00),
    Color32::from_rgb(0x56, 0xB4, 0xE9),
    Color32::from_rgb(0x00, 0x9E, 0x73),
    Color32::from_rgb(0xF0, 0xE4, 0x42),
    Color32::from_rgb(0x00, 0x72, 0xB2),
    Color32::from_rgb(0xD5, 0x5E, 0x00),
    Color32::from_rgb(0xCC, 0x79, 0xA7),
];

/// Cividis at ten even steps.
const CIVIDIS: [[u8; 3]; 10] = [
    [0x00, 0x22, 0x4E],
    [0x12, 0x35, 0x70],
    [0x3B, 0x49, 0x6C],
    [0x57, 0x5D, 0x6D],
    [0x70, 0x71, 0x73],
    [0x8A, 0x86, 0x78],
    [0xA5, 0x9C, 0x74],
    [0xC3, 0xB3, 0x69],
    [0xE1, 0xCC, 0x55],
    [0xFE, 0xE8, 0x38],
];

/// ColorBrewer's YlGnBu with nine classes.
const YELLOW_TO_BLUE: [[u8; 3]; 9] = [
    [0xFF, 0xFF, 0xD9],
    [0xED, 0xF8, 0xB1],
    [0xC7, 0xE9, 0xB4],
    [0x7F, 0xCD, 0xBB],
    [0x41, 0xB6, 0xC4],
    [0x1D, 0x91, 0xC0],
    [0x22, 0x5E, 0xA8],
    [0x25, 0x34, 0x94],
    [0x08, 0x1D, 0x58],
];

/// ColorBrewer's PuOr with nine classes.
const ORANGE_TO_PURPLE: [[u8; 3]; 9] = [
    [0xB3, 0x58, 0x06],
    [0xE0, 0x82, 0x14],
    [0xFD, 0xB8, 0x63],
    [0xFE, 0xE0, 0xB6],
    [0xF7, 0xF7, 0xF7],
    [0xD8, 0xDA, 0xEB],
    [0xB2, 0xAB, 0xD2],
    [0x80, 0x73, 0xAC],
    [0x54, 0x27, 0x88],
];

/// PuOr turned inside out, for dark ground: the middle is dark, the ends are bright.
const ORANGE_TO_PURPLE_DARK: [[u8; 3]; 9] = [
    [0xFD, 0xB8, 0x63],
    [0xE0, 0x82, 0x14],
    [0x9A, 0x50, 0x0A],
    [0x55, 0x33, 0x14],
    [0x2B, 0x2B, 0x2B],
    [0x37, 0x33, 0x55],
    [0x5C, 0x52, 0x8A],
    [0x8F, 0x84, 0xBB],
    [0xC4, 0xBE, 0xE0],
];

/// What a cell of a selection map stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Outside the picture: later than the query.
    Outside = 0,
    /// It could be read and was not.
    NotSelected = 1,
    /// Nothing is known of it.
    NotRecorded = 2,
    /// The layer has no indexer and reads it with everything else.
    Everything = 3,
    /// Selected among the first positions.
    Sink = 4,
    /// Selected among the last positions.
    Recent = 5,
    /// Selected by the indexer from afar.
    Retrieved = 6,
}

impl Role {
    /// Every role that a legend explains, with its words.
    pub const LEGEND: [(Self, &'static str); 6] = [
        (Self::Retrieved, "retrieved"),
        (Self::Recent, "recent"),
        (Self::Sink, "sink"),
        (Self::Everything, "reads everything"),
        (Self::NotSelected, "not selected"),
        (Self::NotRecorded, "not recorded"),
    ];

    /// The role of a class of [`crate::heatmap::Cell`].
    pub fn from_class(class: u8) -> Self {
        match class {
            1 => Self::NotSelected,
            2 => Self::NotRecorded,
            3 => Self::Everything,
            4 => Self::Sink,
            5 => Self::Recent,
            6 => Self::Retrieved,
            _ => Self::Outside,
        }
    }

    /// Its name in files and read-outs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::NotSelected => "not selected",
            Self::NotRecorded => "not recorded",
            Self::Everything => "reads everything",
            Self::Sink => "sink",
            Self::Recent => "recent",
            Self::Retrieved => "retrieved",
        }
    }
}

/// The colours on one ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Palette {
    /// Whether the ground is dark.
    pub dark: bool,
}

impl Palette {
    /// The palette for these visuals.
    pub fn of(visuals: &eframe::egui::Visuals) -> Self {
        Self {
            dark: visuals.dark_mode,
        }
    }

    /// For pictures on white paper.
    pub const PAPER: Self = Self { dark: false };

    /// The ground that maps and pictures are drawn on.
    pub fn ground(self) -> Color32 {
        if self.dark {
            Color32::from_gray(24)
        } else {
            Color32::from_gray(255)
        }
    }

    /// Text and lines on the ground.
    pub fn ink(self) -> Color32 {
        readable_on(self.ground())
    }

    /// Lines that stand back: grids, axes.
    pub fn faint(self) -> Color32 {
        mix(self.ground(), self.ink(), 0.25)
    }

    /// From nothing (0) to much (1). A NaN gets [`Palette::no_number`].
    pub fn sequential(self, share: f32) -> Color32 {
        if share.is_nan() {
            self.no_number()
        } else if self.dark {
            from_table(&CIVIDIS, share)
        } else {
            from_table(&YELLOW_TO_BLUE, share)
        }
    }

    /// From −1 over a neutral middle (0) to 1. A NaN gets [`Palette::no_number`].
    pub fn diverging(self, share: f32) -> Color32 {
        let t = 0.5 + 0.5 * share;
        if share.is_nan() {
            self.no_number()
        } else if self.dark {
            from_table(&ORANGE_TO_PURPLE_DARK, t)
        } else {
            from_table(&ORANGE_TO_PURPLE, t)
        }
    }

    /// For a value that is not a number.
    pub fn no_number(self) -> Color32 {
        if self.dark {
            Color32::from_rgb(0x6B, 0x4A, 0x5C)
        } else {
            Color32::from_rgb(0xDD, 0xC4, 0xD2)
        }
    }

    /// For bars: what this picture is about.
    pub fn accent(self) -> Color32 {
        if self.dark {
            CATEGORIES[1]
        } else {
            CATEGORIES[4]
        }
    }

    /// For bars of what is compared with it.
    pub fn other(self) -> Color32 {
        CATEGORIES[0]
    }

    /// For what is marked: the hovered position, the token taken.
    pub fn mark(self) -> Color32 {
        CATEGORIES[5]
    }

    /// A role at full strength.
    pub fn role(self, role: Role) -> Color32 {
        match role {
            Role::Outside => self.ground(),
            Role::NotSelected => mix(self.ground(), self.ink(), 0.10),
            Role::NotRecorded => self.no_number(),
            Role::Everything => CATEGORIES[2],
            Role::Sink => CATEGORIES[6],
            Role::Recent => self.accent(),
            Role::Retrieved => CATEGORIES[0],
        }
    }

    /// A role at a strength between 0 and 1. Even at 0 it differs from [`Role::NotSelected`]; a NaN (nothing
    /// known of the strength) is drawn in the middle.
    pub fn role_at(self, role: Role, strength: f32) -> Color32 {
        if role < Role::Everything {
            return self.role(role);
        }
        let strength = if strength.is_nan() { 0.5 } else { strength };
        mix(
            self.role(Role::NotSelected),
            self.role(role),
            0.35 + 0.65 * strength.clamp(0.0, 1.0),
        )
    }
}

/// Black or white, whichever reads better on `ground`. One of them always has a contrast above 4.5.
pub fn readable_on(ground: Color32) -> Color32 {
    if contrast(ground, Color32::BLACK) >= contrast(ground, Color32::WHITE) {
        Color32::BLACK
    } else {
        Color32::WHITE
    }
}

/// Contrast of two opaque colours, 1 to 21, as WCAG 2.2 defines it.
pub fn contrast(a: Color32, b: Color32) -> f32 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Relative luminance of an opaque colour, 0 to 1, as WCAG 2.2 defines it.
pub fn luminance(color: Color32) -> f32 {
    let channel = |c: u8| {
        let c = f32::from(c) / 255.0;
        if c <= 0.04045 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * channel(color.r()) + 0.7152 * channel(color.g()) + 0.0722 * channel(color.b())
}

/// `share` of `b` in `a`, opaque.
pub fn mix(a: Color32, b: Color32, share: f32) -> Color32 {
    let channel = |a: u8, b: u8| {
        (f32::from(a) + (f32::from(b) - f32::from(a)) * share.clamp(0.0, 1.0)).round() as u8
    };
    Color32::from_rgb(
        channel(a.r(), b.r()),
        channel(a.g(), b.g()),
        channel(a.b(), b.b()),
    )
}

fn from_table<const N: usize>(table: &[[u8; 3]; N], t: f32) -> Color32 {
    let place = t.clamp(0.0, 1.0) * (N - 1) as f32;
    let below = (place as usize).min(N - 2);
    let color = |[r, g, b]: [u8; 3]| Color32::from_rgb(r, g, b);
    mix(
        color(table[below]),
        color(table[below + 1]),
        place - below as f32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Palette; 2] = [Palette { dark: false }, Palette { dark: true }];
    /// What WCAG 2.2 asks of text (success criterion 1.4.3).
    const READABLE: f32 = 4.5;

    fn tints(palette: Palette) -> Vec<Color32> {
        let mut tints = vec![palette.no_number(), palette.ground()];
        for step in 0..=200 {
            let t = step as f32 / 200.0;
            tints.push(palette.sequential(t));
            tints.push(palette.diverging(2.0 * t - 1.0));
            for class in 0..7 {
                tints.push(palette.role_at(Role::from_class(class), t));
            }
        }
        tints.extend(CATEGORIES);
        tints
    }

    #[test]
    fn text_is_readable_on_every_tint() {
        for palette in BOTH {
            for tint in tints(palette) {
                let reached = contrast(tint, readable_on(tint));
                assert!(reached >= READABLE, "{tint:?}: {reached}");
            }
        }
    }

    #[test]
    fn contrast_is_that_of_the_standard() {
        assert!((contrast(Color32::BLACK, Color32::WHITE) - 21.0).abs() < 1e-3);
        assert!((contrast(Color32::WHITE, Color32::WHITE) - 1.0).abs() < 1e-6);
        // 4.54 is the well-known value of #767676 on white.
        let grey = contrast(Color32::from_gray(0x76), Color32::WHITE);
        assert!((grey - 4.54).abs() < 0.01, "{grey}");
    }

    #[test]
    fn more_always_goes_the_same_way_in_luminance() {
        for palette in BOTH {
            let steps: Vec<_> = (0..=50)
                .map(|step| luminance(palette.sequential(step as f32 / 50.0)))
                .collect();
            for pair in steps.windows(2) {
                assert!((pair[1] > pair[0]) == palette.dark, "{pair:?}");
            }
            let middle = luminance(palette.diverging(0.0));
            for end in [-1.0, 1.0] {
                assert!((luminance(palette.diverging(end)) > middle) == palette.dark);
            }
        }
    }

    #[test]
    fn numbers_outside_the_scale_and_nan_have_a_colour() {
        for palette in BOTH {
            assert_eq!(palette.sequential(f32::INFINITY), palette.sequential(1.0));
            assert_eq!(palette.sequential(-3.0), palette.sequential(0.0));
            assert_eq!(palette.diverging(f32::NAN), palette.no_number());
            assert_ne!(palette.sequential(0.0), palette.no_number());
        }
    }

    #[test]
    fn the_weakest_selected_position_differs_from_one_that_was_not_selected() {
        for palette in BOTH {
            for role in [Role::Sink, Role::Recent, Role::Retrieved, Role::Everything] {
                let (weak, not) = (palette.role_at(role, 0.0), palette.role(Role::NotSelected));
                let distance: i32 = [
                    i32::from(weak.r()) - i32::from(not.r()),
                    i32::from(weak.g()) - i32::from(not.g()),
                    i32::from(weak.b()) - i32::from(not.b()),
                ]
                .iter()
                .map(|d| d.abs())
                .sum();
                assert!(distance > 40, "{role:?}: {weak:?} against {not:?}");
                assert_eq!(Role::from_class(role as u8), role);
            }
        }
    }
}
