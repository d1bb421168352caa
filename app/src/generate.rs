//! `sparsight generate`: continues a prompt and streams what comes.

use clap::Args;
use engine::generate::{Emitted, Stop};

use crate::Outcome;
use crate::printer::Printer;
use crate::run::{Run, RunArgs};

#[derive(Args, Debug)]
pub struct Arguments {
    /// Generate at most this many tokens [default: until the text ends or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Print a JSON object a line: what is run, each token, and at the end the whole
    #[arg(long)]
    json: bool,

    /// List this many best tokens at each position
    #[arg(long, value_name = "N", default_value_t = 0, requires = "json")]
    logprobs: usize,

    #[command(flatten)]
    run: RunArgs,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let Some(mut run) = Run::start(
        &arguments.run,
        arguments.max_tokens,
        arguments.logprobs,
        None,
    )?
    else {
        return Ok(Outcome::Interrupted);
    };
    let mut printer = Printer::new(&run, arguments.json)?;
    let finish = run.go(|emitted| match emitted {
        Emitted::Token(token) => printer.token(token),
        Emitted::Prefill(..) | Emitted::Frame(_) => Ok(()),
    })?;
    printer.finish(&finish)?;
    Ok(match finish.stop {
        Stop::Cancelled => Outcome::Interrupted,
        _ => Outcome::Success,
    })
}
