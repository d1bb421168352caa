//! `sparsight`, the command line of the engine. One file a subcommand, and what they share.
//!
//! Results go to stdout, progress, times and errors to stderr. This file reads the arguments and is
//! the one place that turns what happened into an exit code: 0 success, 1 a check that failed, 2 bad
//! input or a failure, 130 an interruption, 143 or 129 an end by SIGTERM or SIGHUP.

mod bench;
mod chat;
mod desktop;
mod devices;
mod eval;
mod generate;
mod inspect;
mod interrupt;
mod load;
mod options;
mod printer;
mod prompt;
mod record_file;
mod run;
mod terminal;
mod trace;
mod verify;

use std::ffi::OsString;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

/// Version and commit, for `--version` and the headers of measurements.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("SPARSIGHT_COMMIT"),
    ")"
);

/// More than any machine has cores; far more would spend minutes on starting them.
const MAX_THREADS: i64 = 1024;

/// What is logged without RUST_LOG. What the device's runtime warns of comes as an error as well.
const LOG_FILTER: &str = "warn,cubecl_runtime=error";

/// Runs the DeepSeek-V3.2 family on your own machine and shows what the model looks at.
#[derive(Parser)]
#[command(name = "sparsight", version = VERSION, max_term_width = 100)]
#[command(
    after_help = "Results go to stdout, the rest to stderr. Exit codes: 0 success, 1 a check failed, \
                  2 bad input or a failure, 130 interrupted, 128 and its number another signal. RUST_LOG=info shows more."
)]
struct Arguments {
    /// Threads for the CPU's work [default: one for each core]
    #[arg(long, global = true, value_name = "N", display_order = 900,
          value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    threads: Option<u16>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Chat in a window and see what the model looks at [the default]
    App(desktop::Arguments),
    /// Continue a prompt: text in, text out, or ids in, ids out
    Generate(Box<generate::Arguments>),
    /// Talk with the model in the terminal
    Chat(Box<chat::Arguments>),
    /// Show what a checkpoint, a trace, or a record of routes or masks holds
    Inspect(inspect::Arguments),
    /// List what can compute here
    Devices(devices::Arguments),
    /// Measure prefill and decode speed at several context depths, sparse and dense
    Bench(Box<bench::Arguments>),
    /// Measure what a model is worth: likelihood of text, recall from afar, balance of experts, sums
    Eval(Box<eval::Arguments>),
    /// Continue a prompt and write what went on inside to a file
    Trace(Box<trace::Arguments>),
    /// Check the engine against the reference of one or more folders
    Verify(verify::Arguments),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a command ended that did not fail.
enum Outcome {
    Success,
    CheckFailed,
    BadArguments,
    Interrupted,
}

fn main() -> ExitCode {
    let filter = env_logger::Env::default().default_filter_or(LOG_FILTER);
    let mut logger = env_logger::Builder::from_env(filter);
    logger.format(|out, record| {
        let text = record.args().to_string();
        let text = terminal::clean(&text);
        writeln!(out, "[{} {}] {text}", record.level(), record.target())
    });
    logger.init();
    remember_panics();
    #[cfg(unix)]
    interrupt::outlive_file_limits();
    // A driver may panic long after the call that was at fault; to a script that is a failure too.
    let result = catch_unwind(AssertUnwindSafe(|| match Arguments::try_parse() {
        Ok(arguments) => run(arguments),
        Err(error) => tell(error),
    }));
    match result {
        Ok(Ok(Outcome::Success)) => ExitCode::SUCCESS,
        Ok(Ok(Outcome::CheckFailed)) => ExitCode::from(1),
        Ok(Ok(Outcome::BadArguments)) => ExitCode::from(2),
        Ok(Ok(Outcome::Interrupted)) => ExitCode::from(interrupt::exit_code()),
        // Whoever read our output has read enough.
        Ok(Err(error)) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            terminal::note(format_args!("error: {}", terminal::message(&error)));
            // A terminal that was closed can take no output, which is no news.
            let code = if interrupt::is_end() {
                interrupt::exit_code()
            } else {
                2
            };
            ExitCode::from(code)
        }
        Err(_) => {
            let cause = FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
            let cause = anyhow::anyhow!("{}", cause.as_deref().unwrap_or("no message"))
                .context("the device or the engine failed, RUST_BACKTRACE=1 shows where");
            terminal::note(format_args!("error: {}", terminal::message(&cause)));
            ExitCode::from(2)
        }
    }
}

/// The first panic of any thread: those that follow on others tell of its consequences.
static FIRST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Has a panic told as an error by whoever catches it, not dumped by the thread it comes from.
fn remember_panics() {
    let dump = std::panic::take_hook();
    let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("no message").to_owned();
        let mut first = FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(text);
        drop(first);
        if wanted {
            dump(info);
        }
    }));
}

/// Says what is wrong with the arguments, or what was asked of them: help, the version.
fn tell(error: clap::Error) -> anyhow::Result<Outcome> {
    // It quotes arguments, so once more without what a terminal would obey.
    let clean = |argument: OsString| terminal::clean(&argument.to_string_lossy()).into_owned();
    let again = Arguments::try_parse_from(std::env::args_os().map(clean));
    let error = again.err().unwrap_or(error);
    if error.use_stderr() {
        // Where nobody can read it, it is lost.
        let _ = error.print();
        return Ok(Outcome::BadArguments);
    }
    terminal::check_stdout()?;
    error.print()?;
    std::io::stdout().flush()?;
    Ok(Outcome::Success)
}

fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
            .context("--threads")?;
    }
    let command = match arguments.command {
        Some(command) => command,
        // Through the parser, which knows the defaults and the environment.
        None => Command::App(desktop::Arguments::parse_from(["sparsight app"])),
    };
    match command {
        Command::App(arguments) => desktop::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Chat(arguments) => chat::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Devices(arguments) => devices::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Outcome> {
    // Into memory first: the generator panics when its reader goes away.
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "sparsight", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Success)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    // clap checks this itself, but not in release builds, which are the only ones we make.
    #[test]
    fn no_two_options_of_a_command_share_a_name() {
        let mut all = Arguments::command();
        all.build();
        for command in all.get_subcommands() {
            let (mut ids, mut longs, mut shorts) =
                (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for argument in command.get_arguments() {
                let id = argument.get_id();
                let name = command.get_name();
                assert!(ids.insert(id.clone()), "{name}: {id}");
                let long = argument.get_long();
                assert!(long.is_none_or(|long| longs.insert(long)), "{name}: {id}");
                let short = argument.get_short();
                assert!(
                    short.is_none_or(|short| shorts.insert(short)),
                    "{name}: {id}"
                );
            }
        }
    }

    #[test]
    fn every_command_and_option_has_a_help_text() {
        let all = Arguments::command();
        for command in all.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}", argument.get_id());
            }
        }
    }
}
