//! Lists that are said again: the shortest way to teach copying.

use super::dice::Dice;
use super::words::{ANIMALS, COLOURS, OBJECTS, VALUES};

/// One to three lists of 4 to 24 words or numbers, each given twice.
pub(super) fn document(dice: &mut Dice) -> String {
    let mut text = String::new();
    for n in 0..dice.between(1, 3) {
        if n > 0 {
            text.push('\n');
        }
        let separator = dice.pick(&[" ", ", "]);
        let list = list(dice).join(separator);
        text += &format!("List: {list}.\nAgain: {list}.");
    }
    text
}

fn list(dice: &mut Dice) -> Vec<String> {
    let length = dice.between(4, 24);
    // Lists of few different words repeat themselves: more than the last word has to be matched.
    let n_words = if dice.percent(25) {
        dice.between(3, 6)
    } else {
        60
    };
    let all = dice.pick(&[VALUES, VALUES, ANIMALS, COLOURS, OBJECTS]);
    let pool = dice.sample(all, n_words);
    let percent_numbers = dice.pick(&[0, 0, 20, 100]);
    let item = |dice: &mut Dice| {
        if dice.percent(percent_numbers) {
            dice.below(100).to_string()
        } else {
            (dice.pick(&pool)).to_owned()
        }
    };
    (0..length).map(|_| item(dice)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_said_twice() {
        for n in 0..200u32 {
            let text = document(&mut Dice::new(&[&n.to_le_bytes()]));
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.len().is_multiple_of(2) && lines.len() <= 6);
            for pair in lines.chunks(2) {
                let list = pair[0].strip_prefix("List: ").unwrap_or_default();
                assert_eq!(pair[1].strip_prefix("Again: "), Some(list));
                assert!(
                    (4..=24).contains(&list.split_whitespace().count()),
                    "{list}"
                );
            }
        }
    }
}
