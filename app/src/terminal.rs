//! Both ends of the terminal: results to stdout, all else to stderr, and how numbers read.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whether stdout was closed when the program was started. Rust opens `/dev/null` in its place before
/// `main`, where every result would be lost and nobody told.
#[cfg(target_os = "linux")]
mod at_start {
    use super::*;

    pub static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

    #[allow(
        unsafe_code,
        reason = "only what runs before Rust's own start can know; it takes no lock and reads no state"
    )]
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        let found = nix::sys::termios::tcgetattr(io::stdout());
        let is_closed = matches!(found, Err(nix::errno::Errno::EBADF));
        STDOUT_WAS_CLOSED.store(is_closed, Ordering::Relaxed);
    }
}

/// # Errors
/// Stdout was closed when the program was started.
pub fn check_stdout() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if at_start::STDOUT_WAS_CLOSED.load(Ordering::Relaxed) {
        return Err(io::Error::other("stdout is closed"));
    }
    Ok(())
}

/// Writes to stdout at once; to a terminal without what that would obey.
///
/// # Errors
/// Whatever the system says; [`is_broken_pipe`] tells the harmless one.
pub fn print(text: &str) -> io::Result<()> {
    check_stdout()?;
    let mut stdout = io::stdout().lock();
    let text = if stdout.is_terminal() {
        clean(text)
    } else {
        text.into()
    };
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a line to stdout at once.
///
/// # Errors
/// As [`print`].
pub fn print_line(text: impl Display) -> io::Result<()> {
    print(&format!("{text}\n"))
}

/// What came of printing, where the work goes on though nobody reads on: a check has a result.
///
/// # Errors
/// Any but that the reader went away.
pub fn unless_gone(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Writes a line to stderr. Where nobody can read it, it is lost.
pub fn note(text: impl Display) {
    note_part(&format!("{text}\n"));
}

/// As [`note`], faint where the terminal can do that.
pub fn note_faint(text: impl Display) {
    note_faint_part(&text.to_string());
    note_part("\n");
}

/// Writes to stderr at once, as text that goes on; to a terminal without what that would obey. Where
/// nobody can read it, it is lost.
pub fn note_part(text: &str) {
    let text = if io::stderr().is_terminal() {
        clean(text)
    } else {
        text.into()
    };
    control(&text);
}

/// As [`note_part`], faint where the terminal can do that.
pub fn note_faint_part(text: &str) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || is_dumb() || !io::stderr().is_terminal() {
        note_part(text);
    } else {
        control(&format!("\x1b[2m{}\x1b[0m", clean(text)));
    }
}

/// Writes to stderr what a terminal is to obey.
pub fn control(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

/// Whether the terminal says that it obeys nothing.
pub fn is_dumb() -> bool {
    let term = std::env::var_os("TERM");
    cfg!(unix) && term.is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Columns and rows of the terminal.
pub fn size() -> (usize, usize) {
    let found = terminal_size::terminal_size_of(io::stderr());
    found.map_or((80, 24), |(width, height)| {
        (usize::from(width.0), usize::from(height.0))
    })
}

/// Text as it may go to a terminal: without the control characters that could move the cursor, change
/// the title or type for the user, and without those that have text stand in another order than it is.
pub fn clean(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        let is_bidirectional = matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        );
        is_bidirectional || c.is_control() && c != '\n' && c != '\t'
    };
    if text.contains(harmful) {
        Cow::Owned(text.replace(harmful, "\u{FFFD}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether the reader of our output went away, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error and its causes in one line. A cause that the message before it already tells is left out,
/// and so are control characters: a message may quote a file.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    clean(&one_line(&text)).into_owned()
}

/// A driver's report over many lines as one; other texts, lists of problems among them, as they are.
pub fn one_line(text: &str) -> String {
    const FILLER: &[&str] = &["", "Caused by:", "Asked at:", "No backtrace available"];
    if !text.lines().any(|line| line.trim() == "Caused by:") {
        return text.to_owned();
    }
    let lines = text.lines().map(str::trim);
    let telling: Vec<&str> = lines.filter(|line| !FILLER.contains(line)).collect();
    telling.join(": ")
}

/// A progress bar on stderr, hidden where that is no terminal.
pub fn bar(length: u64, template: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(style(template));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar's look.
pub fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("templates are constants of this program")
        .progress_chars("=> ")
}

/// Rows as columns of equal width, two spaces between them. A column of numbers, whatever stands in
/// its first row, is set to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let columns: Vec<(usize, bool)> = (0..n_columns)
        .map(|column| {
            let cells = || rows.iter().filter_map(move |row| row.get(column));
            let width = cells().map(|cell| cell.chars().count()).max();
            let is_number = |cell: &String| {
                let first = cell.chars().next();
                first.is_none_or(|c| c.is_ascii_digit()) || cell == "-"
            };
            let is_numeric = rows.len() > 1 && cells().skip(1).all(is_number);
            (width.unwrap_or(0), is_numeric)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&columns)
            .map(|(cell, &(width, is_numeric))| {
                if is_numeric {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: `1.50 GiB`.
pub fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Counts for people: `671.03 B`.
pub fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "B", "T"])
}

fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let text = if unit == 0 {
        format!("{n} {}", units[0])
    } else {
        format!("{value:.2} {}", units[unit])
    };
    text.trim_end().to_owned()
}

/// Seconds for people.
pub fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_replaced_and_text_is_not() {
        for c in (0..=0x9f).filter_map(char::from_u32) {
            let kept = !c.is_control() || c == '\n' || c == '\t';
            let expected = if kept { c } else { '\u{FFFD}' };
            assert_eq!(clean(&format!("a{c}b")), format!("a{expected}b"), "{c:?}");
        }
        // Unicode's list of Bidi_Control.
        let bidirectional = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\
                             \u{2066}\u{2067}\u{2068}\u{2069}";
        assert_eq!(clean(bidirectional), "\u{FFFD}".repeat(12));
        let text = "日本\té\n \u{200d}שלום";
        assert!(matches!(clean(text), Cow::Borrowed(kept) if kept == text));
    }

    #[test]
    fn a_cause_is_told_once() {
        let io = io::Error::new(io::ErrorKind::NotFound, "gone");
        let engine = engine::Error::io("/model/config.json", io);
        let error = anyhow::Error::from(engine).context("--model");
        assert_eq!(message(&error), "--model: /model/config.json: gone");
        let error = anyhow::anyhow!("tensor \u{1b}[2J");
        assert_eq!(message(&error), "tensor \u{FFFD}[2J");
    }

    #[test]
    fn a_report_of_a_driver_is_one_line_and_a_list_stays_one() {
        let report =
            "lost: it failed\nCaused by:\n  no memory\nNo backtrace available\nAsked at:\n";
        assert_eq!(one_line(report), "lost: it failed: no memory");
        assert_eq!(one_line("2 problems:\na\nb"), "2 problems:\na\nb");
    }

    #[test]
    fn numbers_read_as_people_read_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.00 TiB");
        assert_eq!(seconds(Duration::from_micros(999_900)), "999 ms");
        assert_eq!(seconds(Duration::from_millis(61_250)), "61.2 s");
        assert_eq!(count(999), "999");
        assert_eq!(count(671_026_419_200), "671.03 B");
    }

    #[test]
    fn a_table_sets_numbers_right_and_words_left() {
        let cells = [
            ["part", "bytes", "note"],
            ["experts", "7", ""],
            ["all", "-", "few left"],
        ];
        let rows = cells.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&rows),
            "part     bytes  note\nexperts      7\nall          -  few left\n"
        );
        assert_eq!(table(&[]), "");
    }
}
