//! Recordings made up for tests: a small one with everything, and those that views must survive.

use std::collections::BTreeMap;

use engine::trace::{Frame, Site, Stage, Value};

use super::{LiveStats, Sides, WhatIf};
use crate::recording::{
    Candidate, Header, OpTiming, Origin, Recording, StepTiming, TokenInfo, compare,
};

/// Tokens of [`tiny`].
pub const N_TOKENS: usize = 40;
/// Tokens of its prompt.
pub const N_PROMPT: usize = 24;

/// Header of [`tiny`]: layer 0 reads everything and has no experts.
pub fn header() -> Header {
    Header {
        model: "made up".to_owned(),
        device: "none".to_owned(),
        n_layers: 6,
        sparse_layers: (1..6).collect(),
        moe_layers: (1..6).collect(),
        n_routed_experts: 8,
        num_experts_per_tok: 2,
        n_heads: 4,
        index_topk: Some(8),
        context: 128,
    }
}

/// Words of [`tiny`]; the first and the eighth are template tokens.
const WORDS: [&str; 8] = [
    "<｜User｜>",
    " the",
    " red",
    " kite",
    " flew",
    "\n",
    " high",
    "<｜Assistant｜>",
];

fn token(position: usize, text: &str, number: impl Fn(f32) -> f32) -> TokenInfo {
    let is_prompt = position < N_PROMPT;
    let draw = |share: f32| (!is_prompt).then_some(number(share));
    let candidate = |id: usize, text: &str, probability: f32, draw_share: f32| Candidate {
        id: id as u32,
        text: text.to_owned(),
        probability: number(probability),
        draw_probability: draw(draw_share),
    };
    TokenInfo {
        id: position as u32 % 8,
        text: text.to_owned(),
        origin: if is_prompt {
            Origin::Prompt
        } else {
            Origin::Generated
        },
        logprob: (position > 0).then_some(number(0.6f32.ln() - position as f32 / 8.0)),
        entropy: (position > 0).then_some(number(position as f32 / 10.0)),
        candidates: if position == 0 {
            Vec::new()
        } else {
            vec![
                candidate(position % 8, text, 0.6, 0.75),
                candidate(100, " blue", 0.2, 0.25),
                candidate(101, " <&\"cut", 0.05, 0.0),
            ]
        },
    }
}

/// A recording of these texts, of which nothing else was recorded.
pub fn with_texts(texts: &[&str]) -> Recording {
    let mut recording = Recording::new(Header {
        n_layers: 2,
        ..header()
    });
    let tokens = texts.iter().enumerate().map(|(position, text)| TokenInfo {
        // Another id for another text: what is laid out is told apart by ids.
        id: text.bytes().fold(position as u32, |id, byte| {
            id * 31 % 65_537 + u32::from(byte)
        }),
        ..token(position, text, |number| number)
    });
    recording.set_tokens(0, tokens.collect());
    recording
}

/// What the token at `position` reads in `layer`, ascending: the first, the last three, and four others.
pub fn selected(position: usize, layer: usize) -> Vec<usize> {
    if layer == 0 || position < 8 {
        return (0..=position).collect();
    }
    let mut chosen: Vec<usize> = vec![0, position - 2, position - 1, position];
    let mut candidate = (position * 5 + layer * 7) % (position - 3);
    while chosen.len() < 8 {
        candidate = (candidate + 1) % (position - 2);
        if !chosen.contains(&candidate) {
            chosen.push(candidate);
        }
    }
    chosen.sort_unstable();
    chosen
}

fn floats(shape: &[usize], data: Vec<f32>) -> Value {
    Value::F32 {
        shape: shape.to_vec(),
        data,
    }
}

fn integers(shape: &[usize], data: Vec<i32>) -> Value {
    Value::I32 {
        shape: shape.to_vec(),
        data,
    }
}

/// A frame of one row. The weights of a row grow with the position and sum up to 1.
fn frame(position: usize, header: &Header, number: impl Fn(f32) -> f32, heads: bool) -> Frame {
    let mut values = BTreeMap::new();
    for layer in 0..header.n_layers {
        let mut put = |stage, value| {
            let site = Site {
                layer: Some(layer),
                stage,
            };
            values.insert(site, value);
        };
        let positions = selected(position, layer);
        let n = positions.len();
        let total = (n * (n + 1) / 2) as f32;
        let weights: Vec<f32> = (1..=n).map(|i| number(i as f32 / total)).collect();
        let scores: Vec<f32> = (0..n).map(|i| number((i % 5) as f32 * 0.25)).collect();
        let slots = positions.iter().map(|&p| p as i32).collect();
        put(Stage::SelectedPositions, integers(&[1, n], slots));
        put(Stage::SelectedScores, floats(&[1, n], scores));
        put(Stage::AttentionMean, floats(&[1, n], weights.clone()));
        if heads {
            let by_head: Vec<f32> = (0..header.n_heads)
                .flat_map(|head| {
                    let mut weights = weights.clone();
                    weights.rotate_left(head % n);
                    weights
                })
                .collect();
            put(
                Stage::AttentionHeads,
                floats(&[1, header.n_heads, n], by_head),
            );
        }
        if header.moe_layers.contains(&layer) {
            let k = header.num_experts_per_tok;
            let chosen = (0..k).map(|rank| ((position + layer + 3 * rank) % 8) as i32);
            put(Stage::Experts, integers(&[1, k], chosen.collect()));
            let weights = (0..k).map(|rank| number(0.7 - 0.4 * rank as f32));
            put(Stage::ExpertWeights, floats(&[1, k], weights.collect()));
        }
    }
    Frame {
        position,
        ids: vec![position as u32 % 8],
        values,
        ..Frame::default()
    }
}

fn recorded(header: Header, number: impl Fn(f32) -> f32 + Copy, heads: bool) -> Recording {
    let mut recording = Recording::new(header.clone());
    let tokens = (0..N_TOKENS).map(|p| token(p, WORDS[p % 8], number));
    recording.set_tokens(0, tokens.collect());
    for position in 0..N_TOKENS {
        recording.push_frame(&frame(position, &header, number, heads));
        let op = |op: &str, ms: Option<f32>| OpTiming {
            op: op.to_owned(),
            layer: Some(1),
            ms: ms.map(number),
            bytes: 4096,
            launches: 3,
        };
        let timing = StepTiming {
            total_ms: number(2.5),
            ops: vec![
                op("attention", Some(1.5)),
                op("gate", Some(0.5)),
                op("norm", None),
            ],
            n_tokens: 1,
        };
        recording.set_timing(position, timing);
    }
    recording
}

/// 6 layers, 40 tokens, everything recorded.
pub fn tiny() -> Recording {
    recorded(header(), |number| number, true)
}

/// The same with 100 tokens, beyond which something can count as retrieved.
pub fn long() -> Recording {
    let header = header();
    let mut recording = Recording::new(header.clone());
    for position in 0..100 {
        recording.push_frame(&frame(position, &header, |number| number, false));
    }
    recording
}

/// The same without heads.
pub fn without_heads() -> Recording {
    recorded(header(), |number| number, false)
}

/// The same with every number a NaN.
pub fn nan() -> Recording {
    recorded(header(), |_| f32::NAN, true)
}

/// The same tokens with dense attention, all weights alike.
pub fn dense() -> Recording {
    let mut recording = Recording::new(Header {
        index_topk: None,
        ..header()
    });
    let tokens = (0..N_TOKENS).map(|p| token(p, WORDS[p % 8], |number| number));
    recording.set_tokens(0, tokens.collect());
    for position in 0..N_TOKENS {
        let n = position + 1;
        let mut values = BTreeMap::new();
        for layer in 0..6 {
            let site = |stage| Site {
                layer: Some(layer),
                stage,
            };
            let positions = (0..n as i32).collect();
            let weights = vec![1.0 / n as f32; n];
            values.insert(site(Stage::SelectedPositions), integers(&[1, n], positions));
            values.insert(site(Stage::AttentionMean), floats(&[1, n], weights));
        }
        recording.push_frame(&Frame {
            position,
            ids: vec![position as u32 % 8],
            values,
            ..Frame::default()
        });
    }
    recording
}

/// No token yet.
pub fn empty() -> Recording {
    Recording::new(header())
}

/// A model without layers, heads or experts, and tokens of which nothing was recorded.
pub fn bare() -> Recording {
    let mut recording = Recording::new(Header::default());
    let tokens = (0..5).map(|p| token(p, WORDS[p], |number| number));
    recording.set_tokens(0, tokens.collect());
    recording
}

/// Positions of [`huge`].
pub const N_HUGE: usize = 131_072;

/// 61 layers, 131,072 positions, the last two passes recorded: 2,048 positions in each layer, 256 experts.
pub fn huge() -> Recording {
    let header = Header {
        n_layers: 61,
        sparse_layers: (0..61).collect(),
        moe_layers: (3..61).collect(),
        n_routed_experts: 256,
        num_experts_per_tok: 8,
        n_heads: 128,
        index_topk: Some(2048),
        context: N_HUGE,
        ..header()
    };
    let mut recording = Recording::new(header);
    let tokens = (0..N_HUGE).map(|p| TokenInfo {
        candidates: Vec::new(),
        ..token(p, WORDS[p % 8], |number| number)
    });
    recording.set_tokens(0, tokens.collect());
    for position in [N_HUGE - 2, N_HUGE - 1] {
        let mut values = BTreeMap::new();
        for layer in 0..61 {
            let site = |stage| Site {
                layer: Some(layer),
                stage,
            };
            let n = 2048;
            let slots: Vec<i32> = (0..n).map(|i| (i * 64 + layer) as i32).collect();
            let weights = vec![1.0 / n as f32; n];
            values.insert(site(Stage::SelectedPositions), integers(&[1, n], slots));
            values.insert(
                site(Stage::SelectedScores),
                floats(&[1, n], weights.clone()),
            );
            values.insert(site(Stage::AttentionMean), floats(&[1, n], weights));
            let experts: Vec<i32> = (0..8)
                .map(|rank| ((rank * 31 + layer) % 256) as i32)
                .collect();
            values.insert(site(Stage::Experts), integers(&[1, 8], experts));
            values.insert(site(Stage::ExpertWeights), floats(&[1, 8], vec![0.125; 8]));
        }
        recording.push_frame(&Frame {
            position,
            ids: vec![position as u32 % 8],
            values,
            ..Frame::default()
        });
    }
    recording
}

/// A run that parts from [`tiny`] at the third token after the prompt.
pub fn variant() -> Sides {
    let (base, variant) = (tiny(), dense());
    let token = |position: usize| base.token(position).cloned();
    let base_tokens: Vec<TokenInfo> = (N_PROMPT..N_TOKENS).filter_map(token).collect();
    let mut variant_tokens = base_tokens.clone();
    for token in &mut variant_tokens[2..] {
        token.id += 1000;
        token.text = " other".to_owned();
    }
    let divergences = (0..4)
        .map(|index| compare::Divergence {
            position: N_PROMPT - 1 + index,
            kl: [0.01, 0.5, f32::NAN, 1.25][index],
            top1_differs: index == 3,
            n_selected_only_base: vec![0, 1, 2, 0, 0, 0],
            n_selected_only_variant: vec![0, 3, 0, 1, 0, 0],
        })
        .collect();
    let request = WhatIf {
        from: N_PROMPT,
        n_tokens: 16,
        dense: true,
        ..WhatIf::default()
    };
    Sides {
        words: request.words(),
        from: request.from,
        base_tokens,
        variant_tokens,
        divergences,
        base,
        variant,
    }
}

/// Numbers of an engine that runs.
pub fn live() -> LiveStats {
    LiveStats {
        tokens_per_second: (0..20).map(|i| (i as f32 * 0.1, 10.0 + i as f32)).collect(),
        memory: vec![
            ("weights".to_owned(), 50 << 20),
            ("cache".to_owned(), 3 << 20),
        ],
    }
}
