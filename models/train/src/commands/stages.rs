//! `stages`: what DeepSeek did in each kind of stage, and what a recipe does.

use std::path::PathBuf;

use train::recipe::{Recipe, STAGES, Stage, Weighted};

/// Print every kind of stage with the published settings, and beside them those of a recipe.
#[derive(clap::Args)]
pub struct Arguments {
    /// The recipe.
    recipe: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let recipe = arguments.recipe.as_deref().map(Recipe::open).transpose()?;
    for kind in STAGES {
        println!("{}", kind.name);
        println!("  what       {}", kind.what);
        println!("  DeepSeek   {}", kind.published);
        let stages = recipe.iter().flat_map(|recipe| &recipe.stages);
        for stage in stages.filter(|stage| stage.kind == kind.name) {
            println!("  {:<10} {}", "recipe", settings(stage));
        }
    }
    if let Some(recipe) = recipe {
        let tokens: usize = recipe.stages.iter().map(n_tokens).sum();
        println!("\n{} tokens in all", grouped(tokens));
    }
    Ok(())
}

fn n_tokens(stage: &Stage) -> usize {
    stage.steps * stage.micro_batches * stage.sequences * stage.length
}

fn settings(stage: &Stage) -> String {
    let mut text = format!(
        "{}: {} steps of {} sequences of {} ({} tokens), rate {:e} after {} steps of warm-up, cosine to {:e}",
        stage.name,
        stage.steps,
        stage.micro_batches * stage.sequences,
        stage.length,
        grouped(n_tokens(stage)),
        stage.learning_rate,
        stage.warmup_steps,
        stage.final_learning_rate,
    );
    for (what, value) in [
        ("bias speed", stage.bias_speed),
        ("balance", stage.balance_weight),
        ("MTP weight", stage.mtp_weight),
    ] {
        if value > 0.0 {
            text += &format!(", {what} {value}");
        }
    }
    if stage.weighted == Weighted::BySequence {
        text += ", sequences weigh the same";
    }
    text
}

/// Digits in groups of three.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
