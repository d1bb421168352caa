//! What the tests of recordings share: a generator, synthetic frames, and a plain reading of frames.

use std::sync::Arc;

use engine::trace::{Frame, Site, Stage, Value};

use super::{Header, Origin, Recording, Selection, TokenInfo};

/// A small generator with a fixed seed (xorshift64*): tests are the same each time.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `0..n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// In `0..1`.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// `n` distinct positions below `context`, ascending, every set equally likely (Floyd).
    pub(super) fn positions(&mut self, n: usize, context: usize) -> Vec<u32> {
        let mut chosen = vec![false; context];
        for last in context - n..context {
            let drawn = self.below(last + 1);
            let free = if chosen[drawn] { last } else { drawn };
            chosen[free] = true;
        }
        (0..context as u32)
            .filter(|&position| chosen[position as usize])
            .collect()
    }
}

/// Whether two lists hold the same bits.
pub(super) fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter()
        .map(|a| a.to_bits())
        .eq(b.iter().map(|b| b.to_bits()))
}

/// Sizes of a model of which there are only frames.
#[derive(Clone)]
pub(super) struct Sketch {
    pub header: Header,
    pub vocab_size: usize,
    pub has_heads: bool,
}

impl Sketch {
    pub(super) fn new(n_layers: usize, index_topk: usize, n_experts: usize) -> Self {
        Self {
            header: Header {
                model: "sketch".into(),
                device: "none".into(),
                n_layers,
                sparse_layers: (0..n_layers).collect(),
                moe_layers: (1..n_layers).collect(),
                n_routed_experts: n_experts,
                num_experts_per_tok: 3.min(n_experts),
                n_heads: 2,
                index_topk: Some(index_topk),
                context: 131_072,
            },
            vocab_size: 50,
            has_heads: false,
        }
    }

    pub(super) fn recording(&self) -> Recording {
        let mut recording = Recording::new(self.header.clone());
        recording.set_texts(Arc::new(|id| format!("<{id}>")));
        recording
    }

    /// A frame of rows at `position..`, with ties and zeros among scores, weights that add up to about 1,
    /// and padding where fewer than `index_topk` positions are visible.
    pub(super) fn frame(&self, random: &mut Random, position: usize, ids: &[u32]) -> Frame {
        let n = ids.len();
        let header = &self.header;
        let slots = header.index_topk.unwrap_or(usize::MAX).min(position + n);
        let mut frame = Frame {
            position,
            ids: ids.to_vec(),
            ..Frame::default()
        };
        for layer in 0..header.n_layers {
            let mut positions = Vec::with_capacity(n * slots);
            let mut scores = Vec::with_capacity(n * slots);
            let mut heads = Vec::new();
            for row in 0..n {
                let visible = position + row + 1;
                let used = slots.min(visible);
                let chosen = random.positions(used, visible);
                positions.extend(chosen.iter().map(|&position| position as i32));
                positions.resize((row + 1) * slots, -1);
                scores.extend((0..used).map(|_| random.below(9) as f32 - 2.0));
                scores.resize((row + 1) * slots, 0.0);
                for head in 0..header.n_heads {
                    // A few heavy ones, many light ones.
                    heads.extend((0..used).map(|_| 3.0 * random.float().powi(2) / used as f32));
                    heads.resize((row * header.n_heads + head + 1) * slots, 0.0);
                }
            }
            let mean: Vec<f32> = (0..n * slots)
                .map(|at| {
                    let of_head =
                        |head| heads[(at / slots * header.n_heads + head) * slots + at % slots];
                    let mut mean = 0.0;
                    for head in 0..header.n_heads {
                        mean += of_head(head) / header.n_heads as f32;
                    }
                    mean
                })
                .collect();
            put(
                &mut frame,
                layer,
                Stage::SelectedPositions,
                ints(&[n, slots], positions),
            );
            put(
                &mut frame,
                layer,
                Stage::SelectedScores,
                floats(&[n, slots], scores),
            );
            put(
                &mut frame,
                layer,
                Stage::AttentionMean,
                floats(&[n, slots], mean),
            );
            if self.has_heads {
                let shape = [n, header.n_heads, slots];
                put(
                    &mut frame,
                    layer,
                    Stage::AttentionHeads,
                    floats(&shape, heads),
                );
            }
            let norms = (0..n).map(|_| 10.0 * random.float()).collect();
            put(
                &mut frame,
                layer,
                Stage::ResidualNorm,
                floats(&[n, 1], norms),
            );
            if header.moe_layers.contains(&layer) {
                self.put_experts(&mut frame, random, layer);
            }
        }
        let logits = (0..n * self.vocab_size).map(|_| 8.0 * random.float());
        let logits = floats(&[n, self.vocab_size], logits.collect());
        put(&mut frame, None, Stage::Logits, logits);
        frame
    }

    fn put_experts(&self, frame: &mut Frame, random: &mut Random, layer: usize) {
        let (n, k) = (frame.ids.len(), self.header.num_experts_per_tok);
        let n_experts = self.header.n_routed_experts;
        let mut experts = Vec::new();
        for _ in 0..n {
            // Best first, so in no order of ids.
            let mut chosen = random.positions(k, n_experts);
            chosen.rotate_left(random.below(k.max(1)));
            experts.extend(chosen.into_iter().map(|expert| expert as i32));
        }
        // Few levels, so that weights tie.
        let weights = (0..n * k).map(|_| random.below(5) as f32 / 4.0).collect();
        let gate = (0..n * n_experts).map(|_| random.float()).collect();
        put(frame, layer, Stage::Experts, ints(&[n, k], experts));
        put(frame, layer, Stage::ExpertWeights, floats(&[n, k], weights));
        put(
            frame,
            layer,
            Stage::GateScores,
            floats(&[n, n_experts], gate),
        );
    }
}

/// Puts an array into a frame.
pub(super) fn put(frame: &mut Frame, layer: impl Into<Option<usize>>, stage: Stage, value: Value) {
    let layer = layer.into();
    frame.values.insert(Site { layer, stage }, value);
}

pub(super) fn ints(shape: &[usize], data: Vec<i32>) -> Value {
    let shape = shape.to_vec();
    Value::I32 { shape, data }
}

pub(super) fn floats(shape: &[usize], data: Vec<f32>) -> Value {
    let shape = shape.to_vec();
    Value::F32 { shape, data }
}

/// A row of an array, whatever its type is not.
pub(super) fn row_of<T>(data: &[T], frame: &Frame, row: usize) -> Vec<T>
where
    T: Copy,
{
    let width = data.len() / frame.ids.len();
    data[row * width..(row + 1) * width].to_vec()
}

/// What a frame holds of a row's selection, read without any of the code under test; NaN where an array is
/// missing.
pub(super) fn plain_selection(frame: &Frame, row: usize, layer: usize) -> Option<Selection> {
    let slots = row_of(
        frame.get(layer, Stage::SelectedPositions)?.integers()?,
        frame,
        row,
    );
    let values = |stage| -> Vec<f32> {
        let found = frame.get(layer, stage).and_then(Value::floats);
        found.map_or(vec![f32::NAN; slots.len()], |data| row_of(data, frame, row))
    };
    let (scores, weights) = (values(Stage::SelectedScores), values(Stage::AttentionMean));
    let mut selection = Selection::default();
    for (slot, &position) in slots.iter().enumerate() {
        if position >= 0 {
            selection.positions.push(position as u32);
            selection.scores.push(scores[slot]);
            selection.weights.push(weights[slot]);
        }
    }
    Some(selection)
}

/// What a frame holds of a row's experts.
pub(super) fn plain_experts(frame: &Frame, row: usize, layer: usize) -> Option<Vec<(u16, f32)>> {
    let ids = row_of(frame.get(layer, Stage::Experts)?.integers()?, frame, row);
    let weights = row_of(
        frame.get(layer, Stage::ExpertWeights)?.floats()?,
        frame,
        row,
    );
    Some(ids.iter().map(|&id| id as u16).zip(weights).collect())
}

/// A token without anything measured.
pub(super) fn token(id: u32) -> TokenInfo {
    TokenInfo {
        id,
        text: format!("t{id}"),
        origin: Origin::Generated,
        logprob: None,
        entropy: None,
        candidates: Vec::new(),
    }
}
