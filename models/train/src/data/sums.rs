//! Sums of numbers below 100, with the steps a person would take and without.

use super::dice::Dice;
use super::names::{BOYS, GIRLS};
use super::talk::{Reply, Turn};
use super::words::COUNTED;

/// A question, the steps to its answer, and the answer.
pub(super) struct Sum {
    pub(super) question: String,
    pub(super) steps: String,
    pub(super) answer: i64,
    /// The answer in a sentence.
    pub(super) sentence: String,
}

/// Every eighth pair of numbers is never added or subtracted in training.
fn is_held_out(a: i64, b: i64) -> bool {
    (a * 31 + b * 17) % 8 == 3
}

/// A sum of two terms, sometimes three. `held_out`: two terms that training never shows together.
pub(super) fn sum(dice: &mut Dice, held_out: bool) -> Sum {
    let mut sum = draw(dice);
    while sum.1 != held_out {
        sum = draw(dice);
    }
    sum.0
}

fn draw(dice: &mut Dice) -> (Sum, bool) {
    let small = dice.percent(30);
    let number = |dice: &mut Dice| dice.between(1, if small { 20 } else { 99 }) as i64;
    let (mut a, mut b) = (number(dice), number(dice));
    match dice.below(10) {
        0..4 => (added(dice, a, b), is_held_out(a, b)),
        4..7 => {
            if a < b {
                std::mem::swap(&mut a, &mut b);
            }
            (subtracted(dice, a, b), is_held_out(a, b))
        }
        7..9 => {
            if a < b {
                std::mem::swap(&mut a, &mut b);
            }
            (told(dice, a, b), is_held_out(a, b))
        }
        _ => {
            let c = number(dice);
            let (first, total) = (a + b, a + b + c);
            let expression = format!("{a} + {b} + {c}");
            let sum = Sum {
                question: asked(dice, &expression),
                steps: format!("{} {}", add_steps(a, b), add_steps(first, c)),
                answer: total,
                sentence: format!("{expression} = \\boxed{{{total}}}."),
            };
            (sum, is_held_out(a, b))
        }
    }
}

fn added(dice: &mut Dice, a: i64, b: i64) -> Sum {
    let expression = format!("{a} + {b}");
    Sum {
        question: asked(dice, &expression),
        steps: add_steps(a, b),
        answer: a + b,
        sentence: format!("{expression} = \\boxed{{{}}}.", a + b),
    }
}

fn subtracted(dice: &mut Dice, a: i64, b: i64) -> Sum {
    let expression = format!("{a} - {b}");
    Sum {
        question: asked(dice, &expression),
        steps: subtract_steps(a, b),
        answer: a - b,
        sentence: format!("{expression} = \\boxed{{{}}}.", a - b),
    }
}

fn asked(dice: &mut Dice, expression: &str) -> String {
    let plain = expression
        .replace(" + ", " plus ")
        .replace(" - ", " minus ");
    match dice.below(8) {
        0..3 => format!("What is {expression}?"),
        3 => format!("{expression} = ?"),
        4 => format!("What is {plain}?"),
        5 => format!("How much is {expression}?"),
        6 => format!("Calculate {expression}."),
        _ => format!("{}=?", expression.replace(' ', "")),
    }
}

/// Tens, ones, and both together.
fn add_steps(a: i64, b: i64) -> String {
    let (tens, ones) = (a / 10 * 10 + b / 10 * 10, a % 10 + b % 10);
    let has_no_ones = |n: i64| n % 10 == 0;
    if (a < 10 || has_no_ones(a)) && (b < 10 || has_no_ones(b)) {
        return format!("{a} + {b} = {}.", a + b);
    }
    let mut steps = format!("{a} + {b}:");
    if a < 10 || b < 10 {
        // One of them is the tens already.
    } else {
        steps += &format!(" {} + {} = {tens},", a / 10 * 10, b / 10 * 10);
    }
    steps += &format!(" {} + {} = {ones},", a % 10, b % 10);
    steps += &format!(" {tens} + {ones} = {}.", a + b);
    steps
}

/// First the tens are taken away, then the ones.
fn subtract_steps(a: i64, b: i64) -> String {
    let tens = b / 10 * 10;
    if b < 10 || b % 10 == 0 {
        return format!("{a} - {b} = {}.", a - b);
    }
    format!(
        "{a} - {b}: {a} - {tens} = {}, {} - {} = {}.",
        a - tens,
        a - tens,
        b % 10,
        a - b
    )
}

/// A problem in words; `a` is not less than `b`.
fn told(dice: &mut Dice, a: i64, b: i64) -> Sum {
    let is_she = dice.percent(50);
    let name = dice.pick(if is_she { GIRLS } else { BOYS });
    let other = dice.pick(if is_she { BOYS } else { GIRLS });
    let (one, many) = dice.pick(COUNTED);
    let he = if is_she { "She" } else { "He" };
    let of = |n: i64| format!("{n} {}", if n == 1 { one } else { many });
    let boxed = |n: i64| format!("\\boxed{{{n}}} {}", if n == 1 { one } else { many });
    let (total, rest) = (a + b, a - b);
    let (question, steps, answer, sentence) = match dice.below(6) {
        0 => (
            format!(
                "{name} has {}. {other} gives {name} {b} more. How many {many} does {name} have now?",
                of(a)
            ),
            add_steps(a, b),
            total,
            format!("{name} has {}.", boxed(total)),
        ),
        1 => (
            format!(
                "{name} has {} and {other} has {}. How many {many} do they have together?",
                of(a),
                of(b)
            ),
            add_steps(a, b),
            total,
            format!("They have {}.", boxed(total)),
        ),
        2 => (
            format!(
                "{name} had {}. {he} gave {b} to {other}. How many {many} does {name} have left?",
                of(a)
            ),
            subtract_steps(a, b),
            rest,
            format!("{name} has {} left.", boxed(rest)),
        ),
        3 => (
            format!(
                "There are {} in a box. {name} takes {b} of them out. How many {many} are left in the box?",
                of(a)
            ),
            subtract_steps(a, b),
            rest,
            format!(
                "{} {} left.",
                boxed(rest),
                if rest == 1 { "is" } else { "are" }
            ),
        ),
        4 => (
            format!(
                "{name} found {} in the morning and {b} in the evening. How many {many} did {name} find?",
                of(a)
            ),
            add_steps(a, b),
            total,
            format!("{name} found {}.", boxed(total)),
        ),
        _ => (
            format!(
                "{name} has {} and {other} has {}. How many more {many} does {name} have than {other}?",
                of(a),
                of(b)
            ),
            subtract_steps(a, b),
            rest,
            format!(
                "{name} has \\boxed{{{rest}}} more {}.",
                if rest == 1 { one } else { many }
            ),
        ),
    };
    Sum {
        question,
        steps,
        answer,
        sentence,
    }
}

/// A question about a sum and the reply to it.
pub(super) fn turn(dice: &mut Dice, held_out: bool, is_thinking: bool) -> Turn {
    let sum = sum(dice, held_out);
    let question = if is_thinking && dice.percent(25) {
        engine::chat::reasoning_prompt(&sum.question)
    } else {
        sum.question
    };
    Turn {
        question,
        reply: Reply {
            reasoning: is_thinking.then_some(sum.steps),
            text: sum.sentence,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_right() {
        for n in 0..5000u32 {
            let sum = sum(&mut Dice::new(&[&n.to_le_bytes()]), n % 2 == 0);
            let box_ = engine::chat::boxed_answer(&sum.sentence).map(str::parse);
            assert_eq!(box_, Some(Ok(sum.answer)), "{}", sum.sentence);
            assert!(sum.answer >= 0 && sum.answer < 300);
            let mut last = None;
            for step in sum
                .steps
                .split(['.', ',', ':'])
                .filter(|step| step.contains('='))
            {
                let (left, right) = step.split_once('=').unwrap_or_default();
                let right: i64 = right.trim().parse().unwrap_or(-1);
                let words: Vec<&str> = left.split_whitespace().collect();
                let number = |word: &str| word.parse::<i64>().unwrap_or(-1000);
                let (a, b) = (number(words[0]), number(words[2]));
                assert_eq!(
                    if words[1] == "+" { a + b } else { a - b },
                    right,
                    "{}",
                    sum.steps
                );
                last = Some(right);
            }
            assert_eq!(last, Some(sum.answer), "{} {}", sum.question, sum.steps);
        }
    }

    #[test]
    fn about_an_eighth_of_the_pairs_is_held_out() {
        let n = (1..100).flat_map(|a| (1..100).map(move |b| (a, b)));
        let held_out = n.filter(|&(a, b)| is_held_out(a, b)).count();
        assert!((1100..1350).contains(&held_out), "{held_out}");
    }
}
