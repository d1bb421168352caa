//! `sparsight bench --profile`: what a decoded token launches, moves and computes, kernel by kernel.
//!
//! With weights on a GPU every launch is timed; a folder that holds a config alone is counted by the
//! kernels' formulas. The ratio to the least possible bytes is the figure for GPUs not at hand.

use anyhow::{bail, ensure};
use engine::gpu::{CountCall, OpSum, Profile, count, counted_bits, least_layer_bytes};
use engine::{Config, Session, Source};

use super::{Arguments, Mode, ids};
use crate::{Outcome, load, terminal};

/// What most desktop GPUs let a binding reach.
const BINDING_BYTES: usize = u32::MAX as usize;

/// Profiles one decoded token at each depth and in each mode.
pub fn run(
    arguments: &Arguments,
    source: &Source,
    depths: &[usize],
    modes: &[Mode],
) -> anyhow::Result<Outcome> {
    let config = source.config()?;
    if !source.has_weights() {
        terminal::print(&format!(
            "No weights in {source}: counted, not run. Matrices as the config says, bindings of 4 GiB.\n"
        ))?;
        for &mode in modes {
            for &depth in depths {
                let call = arguments.count_call(depth, mode);
                let profile = count(&config, &call)?;
                print(&config, &call, &profile, &counted_bits(&config), mode)?;
            }
        }
        return Ok(Outcome::Success);
    }
    let checkpoint = source.checkpoint()?;
    let bits = |name: &str| {
        checkpoint
            .get(name)
            .map_or(32, |tensor| tensor.dtype.bits())
    };
    let Some(model) = load::model(&arguments.model)? else {
        return Ok(Outcome::Interrupted);
    };
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let tokens = ids(arguments.seed, deepest + 2, config.vocab_size);
    let mut session = Session::new(model.clone(), arguments.model.session_options())?;
    for &mode in modes {
        for &depth in depths {
            session.set_forward(arguments.forward(mode))?;
            session.rewind(depth.min(session.position()))?;
            if session.position() < depth {
                session.advance(&tokens[session.position()..depth])?;
            }
            // Once for compiling.
            session.advance(&tokens[depth..=depth])?;
            session.rewind(depth)?;
            ensure!(
                model.start_profile(true),
                "--profile: found device {}, expected a wgpu device: other devices launch no kernels",
                model.device().info.id
            );
            session.advance(&tokens[depth..=depth])?;
            session.rewind(depth)?;
            let Some(profile) = model.take_profile() else {
                bail!("the profile that was started is gone");
            };
            print(
                &config,
                &arguments.count_call(depth, mode),
                &profile,
                &bits,
                mode,
            )?;
        }
    }
    Ok(Outcome::Success)
}

impl Arguments {
    fn count_call(&self, depth: usize, mode: Mode) -> CountCall {
        CountCall {
            position: depth,
            tokens: 1,
            format: self.model.session_options().cache_format,
            options: self.forward(mode),
            max_binding_bytes: BINDING_BYTES,
        }
    }
}

fn print(
    config: &Config,
    call: &CountCall,
    profile: &Profile,
    bits: &dyn Fn(&str) -> usize,
    mode: Mode,
) -> std::io::Result<()> {
    let total = profile.total(|_| true);
    let in_layers = profile.total(|launched| launched.layer.is_some());
    let least: u64 = (0..config.num_hidden_layers)
        .map(|layer| least_layer_bytes(config, call, layer, bits))
        .sum();
    let mut text = format!(
        "\nOne token after {}, {}\n\n\
         | kernel | launches | read | written | flops | time | share |\n\
         |:--|--:|--:|--:|--:|--:|--:|\n",
        call.position,
        mode.name()
    );
    for (op, sum) in profile.by_op() {
        text += &line(op, &sum, &total);
    }
    text += &line("all", &total, &total);
    text += &format!(
        "\nLayers: {} moved, {} at least (active weights, selected latents and indexer keys, each once): ratio {:.3}.\n",
        terminal::bytes(in_layers.bytes()),
        terminal::bytes(least),
        in_layers.bytes() as f64 / least as f64
    );
    terminal::print(&text)
}

/// A kernel's line. Shares are of time where it was measured, of bytes where it was not.
fn line(op: &str, sum: &OpSum, total: &OpSum) -> String {
    let (time, share) = if total.duration.is_zero() {
        (
            "-".to_owned(),
            sum.bytes() as f64 / total.bytes().max(1) as f64,
        )
    } else {
        (
            format!("{:.3} ms", sum.duration.as_secs_f64() * 1e3),
            sum.duration.as_secs_f64() / total.duration.as_secs_f64(),
        )
    };
    format!(
        "| {op} | {} | {} | {} | {} | {time} | {:.1} % |\n",
        sum.n,
        terminal::bytes(sum.cost.read_bytes),
        terminal::bytes(sum.cost.write_bytes),
        terminal::count(sum.cost.flops),
        share * 100.0
    )
}
