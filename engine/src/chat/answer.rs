//! Questions with one short answer: how they are asked, and where the answer stands.

/// The question with the request that the authors recommend for reasoning tasks.
pub fn reasoning_prompt(question: &str) -> String {
    format!("{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}.")
}

/// What stands in the last `\boxed{…}`, braces balanced (`\{` and `\}` do not count); or after the
/// last `\boxed 5`, up to a space or `$`. `None` if there is none, or the last one is unfinished.
pub fn boxed_answer(text: &str) -> Option<&str> {
    const COMMAND: &str = "\\boxed";
    let is_longer_command = |after: &str| after.starts_with(|c: char| c.is_ascii_alphabetic());
    let after = text
        .rmatch_indices(COMMAND)
        .map(|(start, _)| &text[start + COMMAND.len()..])
        .find(|after| !is_longer_command(after))?;
    let argument = after.trim_start();
    let Some(inside) = argument.strip_prefix('{') else {
        let end = argument.find(|c: char| c.is_whitespace() || c == '$');
        return Some(&argument[..end.unwrap_or(argument.len())]).filter(|word| !word.is_empty());
    };
    let mut depth = 1;
    let mut is_escaped = false;
    for (index, byte) in inside.bytes().enumerate() {
        match byte {
            _ if is_escaped => {
                is_escaped = false;
                continue;
            }
            b'\\' => is_escaped = true,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&inside[..index]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_the_recommended_one() {
        assert_eq!(
            reasoning_prompt("1+1=?"),
            "1+1=?\nPlease reason step by step, and put your final answer within \\boxed{}."
        );
    }

    #[test]
    fn the_last_box_is_read() {
        for (text, answer) in [
            ("no box", None),
            ("", None),
            ("so \\boxed{42}.", Some("42")),
            ("\\boxed{1} or rather \\boxed{2}", Some("2")),
            ("\\boxed{\\frac{1}{2}} units", Some("\\frac{1}{2}")),
            ("\\boxed{\\boxed{5}}", Some("5")),
            ("\\boxed{\\{1,2\\}}", Some("\\{1,2\\}")),
            ("\\boxed{\\}}", Some("\\}")),
            ("\\boxed{a\\\\}", Some("a\\\\")),
            ("\\boxed{a\\", None),
            ("\\boxed{}", Some("")),
            ("\\boxed {7}", Some("7")),
            ("$\\boxed 5$ is it", Some("5")),
            ("\\boxed 5", Some("5")),
            ("\\boxed{1} then \\boxed{2", None),
            ("\\boxed", None),
            ("\\boxed $x", None),
            ("\\boxed{3} by \\boxedsomething", Some("3")),
            ("\\boxed{日本}", Some("日本")),
        ] {
            assert_eq!(boxed_answer(text), answer, "{text:?}");
        }
    }
}
