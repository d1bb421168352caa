//! The feed-forwards of a layer on the device: stacks of matrices, one a kind.

use super::launch::{Buffer, Gpu};
use super::weights::{BLOCK, ColumnsOf, Part, WeightSource, dtype, upload_floats};
use crate::checkpoint::StoredType;
use crate::{Error, Result};

/// Some experts of a [`Stack`] in one buffer.
#[derive(Debug)]
pub(crate) struct StackSlice {
    pub first_expert: usize,
    pub n_experts: usize,
    pub w: Buffer,
    pub scales: Buffer,
}

/// The same matrix of every expert, one after the other.
#[derive(Debug)]
pub(crate) struct Stack {
    pub dtype: u32,
    pub rows: usize,
    pub slices: Vec<StackSlice>,
}

impl Stack {
    /// Places the matrices of all experts, all of one shape and type, at most `most` a slice.
    fn new(gpu: &Gpu, experts: &[ColumnsOf], most: usize) -> Result<Self> {
        let one = experts[0];
        let (dtype, _) = dtype(one.part.dtype);
        let rows = one.part.rows;
        let expert_bytes = rows * one.unit_bytes();
        let slices = experts.chunks(most).enumerate().map(|(at, experts)| {
            let bytes = experts.iter().flat_map(|one| one.pieces(0..rows));
            let mut scales = Vec::new();
            for expert in experts {
                expert.append_scales(0..rows.div_ceil(BLOCK), &mut scales);
            }
            Ok(StackSlice {
                first_expert: at * most,
                n_experts: experts.len(),
                w: gpu.upload_pieces(experts.len() * expert_bytes, bytes)?,
                scales: upload_floats(gpu, &scales),
            })
        });
        Ok(Self {
            dtype,
            rows,
            slices: slices.collect::<Result<_>>()?,
        })
    }

    fn resident_bytes(&self) -> usize {
        self.slices
            .iter()
            .map(|slice| (slice.w.n_words() + slice.scales.n_words()) * 4)
            .sum()
    }
}

/// The SwiGLU feed-forwards of a layer: all experts, or the one of a dense layer.
#[derive(Debug)]
pub(crate) struct Mlps {
    pub n_experts: usize,
    /// `[experts, width, hidden_size]`.
    pub gate: Stack,
    pub up: Stack,
    /// `[experts, hidden_size, width]`.
    pub down: Stack,
}

/// `gate_proj`, `up_proj` and `down_proj` of one feed-forward.
pub(crate) struct MlpParts {
    /// Where it is in the checkpoint.
    pub name: String,
    pub gate: Part,
    pub up: Part,
    pub down: Part,
}

impl MlpParts {
    pub(crate) fn new(source: &WeightSource, prefix: &str) -> Result<Self> {
        let matrix = |name: &str| source.matrix(&format!("{prefix}.{name}.weight"));
        Ok(Self {
            name: prefix.into(),
            gate: matrix("gate_proj")?,
            up: matrix("up_proj")?,
            down: matrix("down_proj")?,
        })
    }
}

impl Mlps {
    /// Places feed-forwards of one type. The last of `experts` may be `n_shared` times as wide as
    /// the others: SwiGLU is a sum over its inner channels, so it is cut into `n_shared` experts of
    /// the same width.
    pub(crate) fn new(gpu: &Gpu, experts: &[MlpParts], n_shared: usize) -> Result<Self> {
        let width = experts[0].gate.rows;
        let mut gate = Vec::new();
        let mut up = Vec::new();
        let mut down = Vec::new();
        let mut cut = Vec::new();
        for expert in experts {
            let parts = expert.gate.rows / width;
            for part in 0..parts {
                cut.push((
                    expert.gate.some_rows(part * width, width)?,
                    expert.up.some_rows(part * width, width)?,
                ));
                if expert.down.dtype == StoredType::F8E4M3 && !(part * width).is_multiple_of(BLOCK)
                {
                    return Err(Error::Setting {
                        name: "moe_intermediate_size".into(),
                        found: width.to_string(),
                        expected: "a multiple of 128 for several shared experts in FP8".into(),
                    });
                }
                down.push(expert.down.columns(part * width, width));
            }
            debug_assert!(parts == 1 || parts == n_shared);
            let types = [&expert.gate, &expert.up, &expert.down].map(|part| part.dtype);
            if types != [experts[0].gate.dtype; 3] {
                return Err(Error::Setting {
                    name: "feed-forwards of one layer".into(),
                    found: format!("matrices of types {types:?}"),
                    expected: format!("{:?} for all of them", experts[0].gate.dtype),
                });
            }
        }
        for (g, u) in &cut {
            gate.push(g.whole());
            up.push(u.whole());
        }
        let largest = [gate[0], up[0], down[0]]
            .iter()
            .map(|one| one.part.rows * one.unit_bytes())
            .max()
            .expect("three matrices");
        let most = gpu.max_binding_bytes() / largest;
        if most == 0 {
            return Err(Error::Device {
                name: "in use".into(),
                problem: format!(
                    "{} takes {largest} bytes for one matrix, expected at most {}: the largest binding",
                    experts[0].name,
                    gpu.max_binding_bytes()
                ),
            });
        }
        Ok(Self {
            n_experts: gate.len(),
            gate: Stack::new(gpu, &gate, most)?,
            up: Stack::new(gpu, &up, most)?,
            down: Stack::new(gpu, &down, most)?,
        })
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        [&self.gate, &self.up, &self.down]
            .map(Stack::resident_bytes)
            .iter()
            .sum()
    }
}
