//! One token from the logits of one position.

use crate::kernel::{Cost, Dispatch, Kernel, Knob, Tuning, layout};
use crate::pieces::{REDUCE, plain};

/// The best token, or one drawn from the nucleus.
pub const KERNEL: Kernel = Kernel {
    name: "sample",
    pieces: &[REDUCE, plain(include_str!("sample.wgsl"))],
    bindings: &["logits", "picked"],
    knobs: &[
        Knob {
            name: "WG",
            default: 256,
            values: &[256],
        },
        Knob {
            name: "METHOD",
            default: GREEDY,
            values: &[GREEDY, TOP_P],
        },
    ],
    params: layout!(Params {
        vocab,
        logits_offset,
        inverse,
        cutoff,
        top_p,
        uniform_number,
    }),
};

/// The largest logit.
pub const GREEDY: u32 = 0;
/// A draw from the fewest best tokens that reach `top_p`.
pub const TOP_P: u32 = 1;

/// Words of the output.
pub const PICKED_WORDS: usize = 8;
/// Set in word 1 if a logit is NaN; word 0 is then the first id that is NaN or +inf, word 2 its
/// bits.
pub const NAN: u32 = 1;
/// The same for +inf.
pub const INFINITE: u32 = 2;
/// Set in word 1 if all logits are -inf.
pub const IMPOSSIBLE: u32 = 4;

/// Most tokens: ids must be exact as f32.
pub const MOST_TOKENS: usize = 1 << 24;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    vocab: u32,
    logits_offset: u32,
    inverse: f32,
    cutoff: f32,
    top_p: f32,
    uniform_number: f32,
}

/// What is to be sampled, and how.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// How many logits, 1 to [`MOST_TOKENS`].
    pub vocab: usize,
    /// Where in the buffer they start.
    pub logits_offset: usize,
    /// Divides the logits; 0 is greedy.
    pub temperature: f64,
    /// Share of the probability that the nucleus must reach; from 1 on it is everything.
    pub top_p: f64,
    /// The drawn number, from 0 to below 1.
    pub uniform: f64,
}

/// Plans the launch.
///
/// # Panics
/// No logits or more than [`MOST_TOKENS`]: our own mistake, for the vocabulary is checked when a
/// model is loaded.
pub fn dispatch(call: &Call, tuning: &Tuning) -> Dispatch {
    assert!(
        (1..=MOST_TOKENS).contains(&call.vocab),
        "a vocabulary of {} tokens",
        call.vocab
    );
    let method = match call.temperature {
        0.0 => GREEDY,
        _ => TOP_P,
    };
    let params = Params {
        vocab: call.vocab as u32,
        logits_offset: call.logits_offset as u32,
        // Finite also where the temperature is hardly above 0, and then only the best token weighs.
        inverse: (4.0 / call.temperature).min(f32::MAX.into()) as f32,
        // exp(-87) is the smallest weight that is a normal f32.
        cutoff: (87.0 / 4.0 * call.temperature).min(f32::MAX.into()) as f32,
        top_p: call.top_p as f32,
        uniform_number: call.uniform as f32,
    };
    // Passes that compute with every logit.
    let passes = match method {
        GREEDY => 2,
        _ if call.top_p < 1.0 => 11,
        _ => 3,
    };
    Dispatch {
        kernel: &KERNEL,
        knobs: vec![("METHOD", method)],
        subgroups: tuning.subgroups,
        params: bytemuck::bytes_of(&params).to_vec(),
        groups: [1, 1, 1],
        cost: Cost {
            read_bytes: 4 * call.vocab as u64,
            write_bytes: 4 * PICKED_WORDS as u64,
            flops: 10 * passes * call.vocab as u64,
        },
    }
}
