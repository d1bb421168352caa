//! What a pass spent its time on, op by op.

use std::time::Duration;

use crate::gpu::Launched;

/// One op of a pass in one layer, all its calls together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTiming {
    /// Its name: a row of [`CPU_OPS`], or a kernel of the crate `shaders` on a GPU.
    pub op: &'static str,
    /// Its layer; `None` for embedding, final norm and head.
    pub layer: Option<usize>,
    /// How long it took: measured on the CPU; on a GPU only while the model's
    /// launches are timed ([`crate::Model::start_profile`]), since waiting for each would slow all of
    /// them down.
    pub duration: Option<Duration>,
    /// Bytes moved by formula. On the CPU: the weights that the op reads, once, and the cached
    /// positions that it reads, once for each token that does; activations are not counted. On a GPU:
    /// what the kernels' plans say that they read and write.
    pub bytes: u64,
    /// Kernels launched; 0 on the CPU.
    pub launches: u32,
}

/// Names and meanings of the ops that are timed on the CPU, in the order of the forward pass. The portable
/// devices, which are there to check, time the whole pass only.
pub const CPU_OPS: &[(&str, &str)] = &[
    ("embed", "rows of the embedding"),
    ("norm", "norms of the residual stream"),
    (
        "project",
        "everything made of the layer's input: query and cached latents, index keys and head weights",
    ),
    ("queries", "queries and index queries from the query latent"),
    (
        "latents",
        "rotation of queries; latents normed, rotated and cached",
    ),
    (
        "index_query",
        "index keys normed, rotated and cached; index queries rotated",
    ),
    (
        "select",
        "index scores of every visible position, and the best of them",
    ),
    ("attention", "attention over the positions read"),
    ("o_proj", "output projection of attention"),
    ("gate", "scores of the experts, and the choice among them"),
    ("experts", "the chosen experts and the shared one"),
    ("mlp", "feed-forward of a dense layer"),
    ("head", "logits"),
];

/// Adds `more` to the entry of its op and layer, or a new entry: a pass has few ops, and those of one
/// layer follow each other.
pub(super) fn add(timings: &mut Vec<OpTiming>, more: OpTiming) {
    let same_layer = timings
        .iter_mut()
        .rev()
        .take_while(|timing| timing.layer == more.layer);
    for timing in same_layer {
        if timing.op == more.op {
            timing.duration = match (timing.duration, more.duration) {
                (Some(a), Some(b)) => Some(a + b),
                _ => None,
            };
            timing.bytes += more.bytes;
            timing.launches += more.launches;
            return;
        }
    }
    timings.push(more);
}

/// Launches of a pass, those of one kernel in one layer together.
pub(super) fn of_launches(launches: &[Launched]) -> Vec<OpTiming> {
    let mut timings = Vec::new();
    for launched in launches {
        add(
            &mut timings,
            OpTiming {
                op: launched.op,
                layer: launched.layer,
                duration: launched.duration,
                bytes: launched.cost.read_bytes + launched.cost.write_bytes,
                launches: 1,
            },
        );
    }
    timings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_op_in_one_layer_is_one_entry() {
        let one = |op, layer, ms: Option<u64>| OpTiming {
            op,
            layer,
            duration: ms.map(Duration::from_millis),
            bytes: 3,
            launches: 1,
        };
        let mut timings = Vec::new();
        for timing in [
            one("norm", Some(0), Some(1)),
            one("mlp", Some(0), Some(2)),
            one("norm", Some(0), Some(4)),
            one("norm", Some(1), Some(8)),
            one("norm", None, Some(16)),
            one("norm", None, None),
        ] {
            add(&mut timings, timing);
        }
        let found: Vec<_> = timings
            .iter()
            .map(|t| {
                (
                    t.op,
                    t.layer,
                    t.duration.map(|d| d.as_millis()),
                    t.bytes,
                    t.launches,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("norm", Some(0), Some(5), 6, 2),
                ("mlp", Some(0), Some(2), 3, 1),
                ("norm", Some(1), Some(8), 3, 1),
                ("norm", None, None, 6, 2),
            ]
        );
    }
}
