//! Work beside what called for it. Every thread of the program that outlives its caller starts here.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body` on a thread of its own, and gives `done` there what came of it: its value, or in words the
/// panic that ended it. So whoever waits for it is told in any case.
///
/// # Errors
/// The system gives no thread: then neither is called.
pub fn start<T: 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
    done: impl FnOnce(Result<T, String>) + Send + 'static,
) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(move || done(caught(body))).map(|_| ())
}

/// The value of `body`, or the words of its panic.
///
/// # Errors
/// It panicked. What it had half changed is left as it is.
pub fn caught<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "no message".into())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    /// Bodies by how they end, and what is told of each.
    #[test]
    fn whoever_waits_is_told_whatever_becomes_of_the_body() {
        let told = |body: fn() -> u32| {
            let (outbox, inbox) = std::sync::mpsc::channel();
            start("test", body, move |result| outbox.send(result).unwrap()).unwrap();
            inbox.recv().unwrap()
        };
        assert_eq!(told(|| 7), Ok(7));
        assert_eq!(told(|| panic!("as written")), Err("as written".into()));
        assert_eq!(
            told(|| panic!("put {}", "together")),
            Err("put together".into())
        );
        assert_eq!(told(|| std::panic::panic_any(7)), Err("no message".into()));
    }
}
