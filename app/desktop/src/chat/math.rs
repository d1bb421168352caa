//! LaTeX as Unicode text: not typesetting, but readable.
//!
//! [`replace_math`] finds the formulas of a Markdown text and leaves code alone; [`to_unicode`]
//! rewrites one formula. Only characters that egui's own fonts have are used, see [`add_glyphs`], so
//! `x^n` stays as it is: those fonts have superscript digits and no superscript letters.

mod find;
mod symbols;

use std::iter::Peekable;
use std::str::Chars;

use egui::{FontDefinitions, FontFamily};

pub(super) use find::code_len;
pub use find::replace_math;
use symbols::{ACCENTS, FUNCTIONS, SUBSCRIPTS, SUPERSCRIPTS, SYMBOLS, TEXTS};

/// Longer formulas are shown as they were written.
const MAX_FORMULA_BYTES: usize = 16 << 10;

/// Deeper groups are shown as they were written.
const MAX_DEPTH: usize = 48;

/// Lets the proportional font fall back on the monospaced one, which has the operators.
pub fn add_glyphs(fonts: &mut FontDefinitions) {
    let monospace = fonts.families.get(&FontFamily::Monospace).cloned();
    let proportional = fonts.families.entry(FontFamily::Proportional).or_default();
    for font in monospace.unwrap_or_default() {
        if !proportional.contains(&font) {
            proportional.push(font);
        }
    }
}

/// The formula as text. Commands that are not known stay as they were written.
pub fn to_unicode(tex: &str) -> String {
    if tex.len() > MAX_FORMULA_BYTES {
        return tex.to_owned();
    }
    let mut reader = Reader {
        chars: tex.chars().peekable(),
        depth: 0,
    };
    let text = reader.group(None);
    // Commands that vanish leave their spaces behind.
    let lines = text.split('\n').map(|line| {
        let mut tidy = String::with_capacity(line.len());
        for c in line.trim().chars() {
            if c != ' ' || !tidy.ends_with(' ') {
                tidy.push(c);
            }
        }
        tidy
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    depth: usize,
}

impl Reader<'_> {
    /// Everything up to `end`, which is taken; to the end of the formula without one.
    fn group(&mut self, end: Option<char>) -> String {
        let mut out = String::new();
        self.depth += 1;
        while let Some(c) = self.chars.next() {
            if Some(c) == end {
                break;
            }
            self.one(c, &mut out);
        }
        self.depth -= 1;
        out
    }

    fn one(&mut self, c: char, out: &mut String) {
        match c {
            '{' if self.depth < MAX_DEPTH => out.push_str(&self.group(Some('}'))),
            '\\' => self.command(out),
            '^' => {
                trim_spaces(out);
                let argument = self.argument();
                script(out, '^', &argument, SUPERSCRIPTS);
            }
            '_' => {
                trim_spaces(out);
                let argument = self.argument();
                script(out, '_', &argument, SUBSCRIPTS);
            }
            '\'' => out.push('′'),
            '~' | '\n' | '\r' | '\t' => out.push(' '),
            '&' => out.push(' '),
            '}' => {}
            other => out.push(other),
        }
    }

    /// What a command or a script applies to: a group, a command, or one character.
    fn argument(&mut self) -> String {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut out = String::new();
        if let Some(c) = self.chars.next() {
            if self.depth >= MAX_DEPTH {
                out.push(c);
            } else {
                self.depth += 1;
                self.one(c, &mut out);
                self.depth -= 1;
            }
        }
        out.trim().to_owned()
    }

    /// The characters of a group as they are, for names.
    fn raw_group(&mut self) -> String {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut out = String::new();
        if self.chars.next_if_eq(&'{').is_none() {
            return out;
        }
        let mut depth = 0;
        for c in self.chars.by_ref() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                _ => {}
            }
            out.push(c);
        }
        out
    }

    /// An argument in square brackets, if there is one.
    fn option(&mut self) -> Option<String> {
        self.chars.next_if_eq(&'[')?;
        Some(self.group(Some(']')).trim().to_owned())
    }

    fn command(&mut self, out: &mut String) {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(char::is_ascii_alphabetic) {
            name.push(c);
        }
        if name.is_empty() {
            match self.chars.next() {
                Some('\\') => {
                    // `\\[2pt]` asks for space between lines.
                    let _ = self.option();
                    trim_spaces(out);
                    out.push('\n');
                }
                Some(',' | ';' | ':' | ' ' | '\n') => out.push(' '),
                Some('!' | '(' | ')') => {}
                Some('|') => out.push_str("||"),
                Some(c) => out.push(c),
                None => out.push('\\'),
            }
            return;
        }
        match name.as_str() {
            "frac" | "dfrac" | "tfrac" | "cfrac" => {
                let (above, below) = (self.argument(), self.argument());
                out.push_str(&format!("{}/{}", factor(&above), factor(&below)));
            }
            "binom" | "dbinom" | "tbinom" => {
                let (n, k) = (self.argument(), self.argument());
                out.push_str(&format!("C({n}, {k})"));
            }
            "sqrt" => {
                let degree = self.option();
                let radicand = self.argument();
                match degree.as_deref() {
                    None | Some("2" | "") => {}
                    Some(degree) => match mapped(degree, SUPERSCRIPTS) {
                        Some(degree) => out.push_str(&degree),
                        None => out.push_str(&format!("{degree}-th ")),
                    },
                }
                out.push('√');
                out.push_str(&factor(&radicand));
            }
            "boxed" | "fbox" => out.push_str(&format!("[{}]", self.argument())),
            "not" => match self.argument().as_str() {
                "=" => out.push('≠'),
                "∈" => out.push('∉'),
                other => out.push_str(&format!("not {other}")),
            },
            "begin" => self.environment(out),
            // An end without its begin.
            "end" => drop(self.raw_group()),
            "overset" | "underset" | "stackrel" => {
                let (_, base) = (self.argument(), self.argument());
                out.push_str(&base);
            }
            "color" | "label" | "hspace" | "vspace" => drop(self.raw_group()),
            "textcolor" => {
                let _ = self.raw_group();
                out.push_str(&self.argument());
            }
            other if TEXTS.contains(&other) => {
                // Spaces count in text.
                if self.chars.next_if_eq(&'{').is_some() {
                    out.push_str(&self.group(Some('}')));
                } else {
                    out.push_str(&self.argument());
                }
            }
            other if FUNCTIONS.contains(&other) => {
                if out.ends_with(|c: char| c.is_alphanumeric()) {
                    out.push(' ');
                }
                out.push_str(other);
                if self.chars.peek().is_some_and(|c| *c == '\\') {
                    out.push(' ');
                }
            }
            other => self.symbol(other, out),
        }
    }

    fn symbol(&mut self, name: &str, out: &mut String) {
        if let Some((_, text)) = SYMBOLS.iter().find(|row| row.0 == name) {
            // `\left.` is a bracket that is not there.
            if matches!(name, "left" | "right") {
                self.chars.next_if_eq(&'.');
            }
            // `x^{\circ}` is a degree sign already.
            out.push_str(text);
        } else if let Some((_, letters, composed)) = ACCENTS.iter().find(|row| row.0 == name) {
            let argument = self.argument();
            match mapped(&argument, (letters, composed)) {
                Some(composed) if argument.chars().count() == 1 => out.push_str(&composed),
                _ => out.push_str(&format!("{name}({argument})")),
            }
        } else {
            out.push('\\');
            out.push_str(name);
        }
    }

    /// `\begin{…}` was read: rows of a matrix in brackets, other rows as lines.
    fn environment(&mut self, out: &mut String) {
        let name = self.raw_group();
        if name == "array" || name == "tabular" {
            let _ = self.raw_group();
        }
        let is_matrix = name.ends_with("matrix") || name == "array";
        let mut rows = vec![vec![String::new()]];
        self.depth += 1;
        while let Some(c) = self.chars.next() {
            let row = rows.last_mut().expect("there is a row from the start");
            let cell = row.last_mut().expect("a row has a cell from the start");
            match c {
                '&' => row.push(String::new()),
                '\\' if self.chars.next_if_eq(&'\\').is_some() => {
                    let _ = self.option();
                    rows.push(vec![String::new()]);
                }
                '\\' if self.at_end(&name) => break,
                '{' | '\\' if self.depth >= MAX_DEPTH => cell.push(c),
                c => self.one(c, cell),
            }
        }
        self.depth -= 1;
        let between = if is_matrix { ", " } else { " " };
        let rows: Vec<String> = rows
            .iter()
            .map(|row| {
                let cells: Vec<_> = row.iter().map(|cell| cell.trim()).collect();
                cells.join(between).trim().to_owned()
            })
            .filter(|row| !row.is_empty())
            .collect();
        if is_matrix {
            out.push_str(&format!("[{}]", rows.join("; ")));
        } else {
            out.push_str(&rows.join("\n"));
        }
    }

    /// Takes `end{name}` if it comes next.
    fn at_end(&mut self, name: &str) -> bool {
        let mut ahead = self.chars.clone();
        let wanted = format!("end{{{name}}}");
        for expected in wanted.chars() {
            if ahead.next() != Some(expected) {
                return false;
            }
        }
        self.chars = ahead;
        true
    }
}

fn trim_spaces(out: &mut String) {
    while out.ends_with(' ') {
        out.pop();
    }
}

/// All characters of `text` replaced after `table`, or `None` if one is not in it.
fn mapped(text: &str, (from, to): (&str, &str)) -> Option<String> {
    let replaced = |c| {
        from.chars()
            .position(|f| f == c)
            .and_then(|i| to.chars().nth(i))
    };
    text.chars().map(replaced).collect()
}

fn script(out: &mut String, mark: char, argument: &str, table: (&str, &str)) {
    if mark == '^' && (argument == "°" || argument.chars().all(|c| c == '′')) {
        out.push_str(argument);
    } else if let Some(small) = mapped(argument, table) {
        out.push_str(&small);
    } else if argument.chars().count() == 1 {
        out.push(mark);
        out.push_str(argument);
    } else {
        out.push_str(&format!("{mark}({argument})"));
    }
}

/// `text`, in brackets if it would come apart beside a `/` or under a root.
fn factor(text: &str) -> String {
    let is_one = text
        .chars()
        .all(|c| c.is_alphanumeric() || "′°∞.²³".contains(c));
    let is_bracketed = text.starts_with('(') && text.find(')') == Some(text.len() - 1);
    if is_one || is_bracketed {
        text.to_owned()
    } else {
        format!("({text})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_text() {
        for (tex, text) in [
            ("", ""),
            ("x", "x"),
            (r"\frac{1}{2}", "1/2"),
            (r"\frac{a+b}{2c}", "(a+b)/2c"),
            (r"\frac12", "1/2"),
            (r"\dfrac{\frac{a}{b}}{c}", "(a/b)/c"),
            (r"\sqrt{2}", "√2"),
            (r"\sqrt{x + 1}", "√(x + 1)"),
            (r"\sqrt[3]{8}", "³√8"),
            (r"\sqrt[n]{x}", "n-th √x"),
            (r"\boxed{42}", "[42]"),
            (r"\boxed{\frac{3}{4}}", "[3/4]"),
            ("x^2", "x²"),
            ("x^{10}", "x¹⁰"),
            ("x^{-1}", "x⁻¹"),
            ("x^n", "x^n"),
            ("e^{i\\pi} + 1 = 0", "e^(iπ) + 1 = 0"),
            ("a_1 + a_{12}", "a₁ + a₁₂"),
            ("a_{ij}", "a_(ij)"),
            ("a_i^2", "a_i²"),
            ("x_{k}", "x_k"),
            ("f'(x)", "f′(x)"),
            ("f''", "f′′"),
            ("90^\\circ", "90°"),
            ("90^{\\circ}", "90°"),
            (r"\alpha\beta\Gamma\Omega", "αβΓΩ"),
            (r"a \le b \neq c \approx d", "a ≤ b ≠ c ≈ d"),
            (r"\sum_{i=1}^{10} i", "∑_(i=1)¹⁰ i"),
            (r"\sum_{1}^{2} i", "∑₁² i"),
            (r"\int_0^1 x\,dx", "∫₀¹ x dx"),
            (r"\lim_{x \to 0} \sin x", "lim_(x → 0) sin x"),
            (r"2\cdot 3 \times 4", "2· 3 × 4"),
            (r"\left( \frac{1}{2} \right)", "( 1/2 )"),
            (r"\left. x \right|_{0}", "x |₀"),
            (r"x \in \mathbb{R}", "x ∈ R"),
            (r"\text{if } x > 0", "if x > 0"),
            (r"\mathrm{softmax}(x)", "softmax(x)"),
            (r"\operatorname{tr} A", "tr A"),
            (r"\hat{a}, \hat x, \vec{v}", "â, hat(x), vec(v)"),
            (r"\binom{n}{k}", "C(n, k)"),
            (r"\{1, 2\}", "{1, 2}"),
            (r"50\% \$3 \_", "50% $3 _"),
            (r"A \Rightarrow B \iff C", "A ⇒ B ⇔ C"),
            (
                r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
                "[1, 2; 3, 4]",
            ),
            (
                r"\begin{aligned} x &= 1 \\ y &= 2 \end{aligned}",
                "x = 1\ny = 2",
            ),
            (
                r"f = \begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
                "f = 1 x > 0\n0 else",
            ),
            (r"a \\ b", "a\nb"),
            // What is not known stays.
            (r"\foo{x} + \bar", r"\foox + bar()"),
            (r"\unknown", r"\unknown"),
            (r"\not\in S", "∉ S"),
            // Unfinished formulas, as they come while an answer streams.
            (r"\frac{1}{", "1/"),
            (r"\frac", "/"),
            (r"\sqrt[", "√"),
            ("x^", "x"),
            (r"\", r"\"),
            ("{{{", ""),
            ("}}}", ""),
            (r"\begin{pmatrix} 1 & 2", "[1, 2]"),
            (r"\begin", ""),
            (r"\end{x}", ""),
        ] {
            assert_eq!(to_unicode(tex), text, "of {tex:?}");
        }
    }

    #[test]
    fn formulas_are_found_and_money_is_not() {
        for (markdown, text) in [
            ("no math", "no math"),
            ("so $x^2$ is", "so x² is"),
            (r"so \(x_1\) is", "so x₁ is"),
            ("$$x = 1$$", "\n\nx = 1\n\n"),
            (r"\[a < b\]", "\n\na \\< b\n\n"),
            ("$a_b * c$", "a\\_b \\* c"),
            ("$$-x$$", "\n\n\\-x\n\n"),
            // Money.
            ("$5 and $6", "$5 and $6"),
            ("from $5-$6 a day", "from $5-$6 a day"),
            ("pay $5 or 6$ to me", "pay $5 or 6$ to me"),
            ("costs $5, not 10$.", "costs $5, not 10$."),
            ("$ 5 $", "$ 5 $"),
            ("$HOME and $PATH", "$HOME and $PATH"),
            ("US$5 and AU$6", "US$5 and AU$6"),
            (r"\$5 and $x$", r"\$5 and x"),
            ("$$", "$$"),
            ("$$$$", "$$$$"),
            ("$", "$"),
            ("$10$ apples", "10 apples"),
            // Code.
            ("`$x^2$` and $x^2$", "`$x^2$` and x²"),
            ("``a ` $x^2$``", "``a ` $x^2$``"),
            ("```\n$x^2$\n```\n$x^2$", "```\n$x^2$\n```\nx²"),
            ("~~~\n$x^2$\n", "~~~\n$x^2$\n"),
            ("```\n$x^2$", "```\n$x^2$"),
            ("` $x^2$", "` x²"),
            ("~~$x^2$~~", "~~x²~~"),
            // Unfinished.
            ("$x^2", "$x^2"),
            ("$x\n\ny$", "$x\n\ny$"),
            (r"\(x", r"\(x"),
            (r"\", r"\"),
            ("ünï $é^2$ ö", "ünï é² ö"),
            ("\\é$x^2$", "\\éx²"),
        ] {
            assert_eq!(replace_math(markdown), text, "of {markdown:?}");
        }
    }

    #[test]
    fn nothing_goes_too_deep_or_takes_too_long() {
        for tex in [
            "{".repeat(100_000),
            "^".repeat(100_000),
            r"\frac".repeat(3000),
            r"\sqrt[".repeat(2000),
            r"\begin{matrix}".repeat(1000),
            "\\hat{".repeat(2000),
        ] {
            let _ = to_unicode(&tex);
            let _ = replace_math(&format!("$${tex}$$"));
            let _ = replace_math(&format!("${tex}"));
        }
        let _ = replace_math(&"$a".repeat(50_000));
        let _ = replace_math(&"`".repeat(100_000));
        let _ = replace_math(&"` ``".repeat(20_000));
    }

    #[test]
    fn every_symbol_has_a_glyph() {
        let mut definitions = FontDefinitions::default();
        add_glyphs(&mut definitions);
        let ctx = egui::Context::default();
        ctx.set_fonts(definitions);
        let _ = ctx.run_ui(egui::RawInput::default(), |_| {});
        let font = egui::FontId::proportional(14.0);
        let mut missing = Vec::new();
        let texts = SYMBOLS.iter().map(|row| row.1);
        let texts = texts.chain(ACCENTS.iter().map(|row| row.2));
        let texts = texts.chain([SUPERSCRIPTS.1, SUBSCRIPTS.1, "√′≠∉"]);
        for text in texts {
            let is_there = ctx.fonts_mut(|fonts| fonts.has_glyphs(&font, text));
            if !is_there {
                missing.push(text);
            }
        }
        assert!(missing.is_empty(), "no glyphs for {missing:?}");
    }
}
