//! `sparsight-train`: trains a model by a recipe, and makes what goes with it.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trains a tiny model of the DeepSeek-V3.2 family by its own recipe.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(commands::run::Arguments),
    Export(commands::export::Arguments),
    Tokenizer(commands::tokenizer::Arguments),
    Texts(commands::texts::Arguments),
    Curves(commands::curves::Arguments),
    Stages(commands::stages::Arguments),
}

fn main() -> ExitCode {
    // One line, as `sparsight` gives it: returned from here, an error would bring a backtrace along.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = error.to_string();
            // Errors of files tell their cause themselves.
            for cause in error.chain().skip(1).map(ToString::to_string) {
                if !message.contains(&cause) {
                    message = format!("{message}: {cause}");
                }
            }
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run(arguments) => commands::run::run(arguments),
        Command::Export(arguments) => commands::export::run(arguments),
        Command::Tokenizer(arguments) => commands::tokenizer::run(arguments),
        Command::Texts(arguments) => commands::texts::run(arguments),
        Command::Curves(arguments) => commands::curves::run(arguments),
        Command::Stages(arguments) => commands::stages::run(arguments),
    }
}
