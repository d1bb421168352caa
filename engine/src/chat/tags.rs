//! The tags of tool calls: what stands at the beginning of a text, as far as the text goes.
//!
//! Tags are read with `｜DSML｜` and without, since a decoder that leaves out special tokens leaves it
//! out, and models forget it. What the tags mean is for [`super::parse`].

use super::DSML;

/// A tag's attributes end within so many bytes, or it is no tag.
const LONGEST_ATTRIBUTES: usize = 1024;
/// White space between the tag of a block and its first call, in bytes.
const LONGEST_GAP: usize = 64;

/// Whether something stands at the beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match<T> {
    /// It does, and takes so many bytes.
    Yes(T, usize),
    /// It does not, whatever follows.
    No,
    /// That depends on what follows.
    More,
}

impl<T> Match<T> {
    /// The same, when nothing follows.
    pub(super) fn at_end(self) -> Self {
        match self {
            Self::More => Self::No,
            known => known,
        }
    }

    /// What follows is read by `next`, from the given byte on.
    pub(super) fn then<U>(self, next: impl FnOnce(T, usize) -> Match<U>) -> Match<U> {
        match self {
            Self::Yes(found, length) => next(found, length),
            Self::No => Match::No,
            Self::More => Match::More,
        }
    }

    /// This, or else the other. The two exclude each other.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes(found, length), _) | (_, Self::Yes(found, length)) => {
                Self::Yes(found, length)
            }
            (Self::No, Self::No) => Self::No,
            _ => Self::More,
        }
    }
}

/// How a tag is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With `｜DSML｜`.
    Marked,
    /// Without it.
    Plain,
}

impl Form {
    pub(super) const ALL: [Self; 2] = [Self::Marked, Self::Plain];

    fn mark(self) -> &'static str {
        match self {
            Self::Marked => DSML,
            Self::Plain => "",
        }
    }

    /// The closing tag of this form.
    pub(super) fn closing_tag(self, name: &str) -> String {
        format!("</{}{name}>", self.mark())
    }
}

/// The opening tag of a call or of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) form: Form,
    /// Of the function, or of the parameter.
    pub(super) name: String,
    /// What the attribute `string` says, if it is there.
    pub(super) is_string: Option<bool>,
}

/// The beginning of tool calls, up to and with the opening tag of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// The form of the tag around the calls; `None` if the first call stands there without.
    pub(super) block: Option<Form>,
    pub(super) call: Opening,
    /// Where the tag of the call begins.
    pub(super) call_start: usize,
}

/// The beginning of tool calls. Without `｜DSML｜` it has to begin a line, and so has a call without
/// a block around it, which has to have the mark: a text may speak of tags.
pub(super) fn beginning(text: &str, begins_line: bool) -> Match<Beginning> {
    let in_block = |form: Form| {
        literal(text, &format!("<{}function_calls>", form.mark())).then(|(), start| {
            let gap = text[start..].len() - text[start..].trim_start().len();
            if gap > LONGEST_GAP {
                return Match::No;
            }
            let call_start = start + gap;
            opening(&text[call_start..], "invoke").then(|call, length| {
                Match::Yes(
                    Beginning {
                        block: Some(form),
                        call,
                        call_start,
                    },
                    call_start + length,
                )
            })
        })
    };
    let marked = in_block(Form::Marked);
    if !begins_line {
        return marked;
    }
    let alone = opening(text, "invoke").then(|call, length| match call.form {
        Form::Marked => Match::Yes(
            Beginning {
                block: None,
                call,
                call_start: 0,
            },
            length,
        ),
        Form::Plain => Match::No,
    });
    marked.or(in_block(Form::Plain)).or(alone)
}

/// The opening tag of a call or of a parameter, in either form: `<invoke name="…">`,
/// `<parameter name="…" string="true">`.
pub(super) fn opening(text: &str, tag: &str) -> Match<Opening> {
    either_form(text, "<", tag, "").then(|form, start| {
        attributes(&text[start..]).then(|(name, is_string), length| {
            Match::Yes(
                Opening {
                    form,
                    name,
                    is_string,
                },
                start + length,
            )
        })
    })
}

/// A closing tag in either form.
pub(super) fn closing(text: &str, tag: &str) -> Match<Form> {
    either_form(text, "</", tag, ">")
}

fn either_form(text: &str, before: &str, tag: &str, after: &str) -> Match<Form> {
    let in_form = |form: Form| {
        literal(text, &format!("{before}{}{tag}{after}", form.mark()))
            .then(|(), length| Match::Yes(form, length))
    };
    in_form(Form::Marked).or(in_form(Form::Plain))
}

/// The wanted text.
pub(super) fn literal(text: &str, wanted: &str) -> Match<()> {
    if text.starts_with(wanted) {
        Match::Yes((), wanted.len())
    } else if wanted.starts_with(text) {
        Match::More
    } else {
        Match::No
    }
}

/// ` name="…">` or ` name="…" string="true">`. Nothing is escaped in it, so a name ends at the first
/// quote after which the tag ends; it does not go beyond its line.
fn attributes(text: &str) -> Match<(String, Option<bool>)> {
    let window = &text[..text.floor_char_boundary(LONGEST_ATTRIBUTES)];
    let line = window.split_once('\n').map_or(window, |(line, _)| line);
    let is_known = line.len() < text.len();
    let found = literal(line, " name=\"").then(|(), start| {
        for (quote, _) in line[start..].match_indices('"') {
            let name = &line[start..start + quote];
            let end = start + quote + 1;
            match tag_end(&line[end..]) {
                Match::Yes(is_string, length) => {
                    return Match::Yes((name.to_owned(), is_string), end + length);
                }
                Match::More => return Match::More,
                Match::No => {}
            }
        }
        Match::More
    });
    if is_known { found.at_end() } else { found }
}

/// `>`, ` string="true">` or ` string="false">`; capitals are forgiven.
fn tag_end(text: &str) -> Match<Option<bool>> {
    let value = |is_string: bool| {
        let wanted = format!(" string=\"{is_string}\">");
        match text.get(..wanted.len().min(text.len())) {
            Some(start) => literal(&start.to_ascii_lowercase(), &wanted)
                .then(|(), length| Match::Yes(Some(is_string), length)),
            // The text goes on, and not with ASCII.
            None => Match::No,
        }
    };
    let nothing = literal(text, ">").then(|(), length| Match::Yes(None, length));
    nothing.or(value(true)).or(value(false))
}
