//! What the inspector looks at: the recording of one timeline, and what was run to compare it with.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::generate::{Stats, Token};
use engine::model::ForwardOptions;
use engine::trace::{Frame, Stage, Value, Watch, WatchedRows};

use super::link::Purpose;
use super::model::Ready;
use super::what_if::{WhatIfRun, plain_tokens};
use crate::inspector::{LiveStats, RecordingCost, Sides, State};
use crate::recording::{Limits, OpTiming, Recording, StepTiming, Texts};
use crate::store::PromptIds;

/// Best candidates that the sampler tells of each token.
pub(super) const N_CANDIDATES: usize = 20;

/// The inspector and its data.
#[derive(Default)]
pub(super) struct Inspecting {
    pub is_open: bool,
    /// Whether what is written from now on is recorded.
    pub is_recording: bool,
    pub state: State,
    pub recording: Option<Recording>,
    /// Whether the recording comes from a file.
    pub is_from_file: bool,
    /// The timeline of the recording; empty for one from a file.
    pub ids: Vec<u32>,
    /// The knobs it was computed under.
    pub forward: ForwardOptions,
    pub dense: Option<Recording>,
    /// Files that recordings came from, which are not written over.
    pub files: Vec<PathBuf>,
    /// A trace to compare with, and the revision of the recording that it was compared with last.
    pub compared: Option<(Recording, Option<u64>)>,
    pub run: Option<WhatIfRun>,
    /// What the last what-if or comparison, whichever came later, had to show.
    pub sides: Option<Sides>,
    pub live: LiveStats,
    pub cost: Option<RecordingCost>,
    /// Frames that are not taken over yet, and how many of their rows are.
    waiting: VecDeque<(Purpose, Frame, usize)>,
    waiting_bytes: usize,
    /// Changes with each of the recordings.
    pub revision: u64,
    /// Changes when [`Self::ids`] become others, and not when they grow.
    pub timeline: u64,
    /// Milliseconds a token without recording, to tell what recording costs.
    unrecorded_ms: Option<f64>,
    /// Tokens written and the seconds they took, as of the last point of the curve of speed.
    last_point: (usize, f64),
}

/// Bytes of frames that wait to be taken over, beyond which no more are asked for.
const WAITING_BYTES: usize = 16 << 20;

/// What is recorded of every pass.
const STAGES: &[Stage] = &[
    Stage::SelectedPositions,
    Stage::SelectedScores,
    Stage::AttentionMean,
    Stage::Experts,
    Stage::ExpertWeights,
    Stage::Logits,
];

/// Everything that the views show but single heads, for all tokens.
pub(super) fn whole_watch() -> Watch {
    Watch {
        stages: STAGES.iter().copied().collect(),
        rows: WatchedRows::All,
        timings: true,
        ..Watch::default()
    }
}

/// The heads of one layer.
pub(super) fn heads_watch(layer: usize) -> Watch {
    let mut watch = whole_watch();
    watch.stages.insert(Stage::AttentionHeads);
    watch.layers = Some([layer].into());
    watch.timings = false;
    watch
}

impl Inspecting {
    /// Without anything recorded.
    pub(super) fn new(is_open: bool, is_recording: bool) -> Self {
        Self {
            is_open,
            is_recording,
            ..Self::default()
        }
    }

    /// What the next answer is to be recorded of.
    pub(super) fn watch(&self) -> Watch {
        if self.is_recording {
            whole_watch()
        } else {
            Watch::default()
        }
    }

    /// An empty recording of the loaded model.
    pub(super) fn empty_recording(model: &Ready, forward: &ForwardOptions) -> Recording {
        let mut recording = Recording::new(model.header(forward.index_topk, forward.dense));
        recording.set_texts(Self::texts(model));
        recording
    }

    /// The texts of a model's tokens.
    pub(super) fn texts(model: &Ready) -> Texts {
        let tokenizer = model.tokenizer.clone();
        Arc::new(move |id| {
            let text = tokenizer
                .as_ref()
                .and_then(|tokenizer| tokenizer.token_text(id));
            text.unwrap_or_else(|| format!("#{id}"))
        })
    }

    /// A timeline begins, or goes on from what it shares with the recorded one.
    pub(super) fn begin(&mut self, model: &Ready, ids: &[u32], forward: &ForwardOptions) {
        let is_same = self.forward == *forward
            && self
                .recording
                .as_ref()
                .is_some_and(|recording| recording.header().model == model.name);
        let shared = if is_same {
            let pairs = self.ids.iter().zip(ids);
            pairs.take_while(|(a, b)| a == b).count()
        } else {
            0
        };
        if shared == 0 {
            let mut recording = Self::empty_recording(model, forward);
            // A trace may be compared with it.
            recording.set_limits(Limits::with_logits());
            self.recording = Some(recording);
        }
        self.is_from_file = false;
        self.files.clear();
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.timeline += 1;
        self.forward = forward.clone();
        self.ids.truncate(shared);
        self.ids.extend_from_slice(&ids[shared..]);
        if let Some(recording) = &mut self.recording {
            recording.truncate(shared);
            let text = |id| model.token_text(id);
            recording.set_tokens(shared, plain_tokens(&ids[shared..], usize::MAX, text));
        }
        self.dense = None;
        self.compared = None;
        self.sides = None;
        self.state.selected = None;
        self.live.tokens_per_second.clear();
        self.last_point = (0, 0.0);
        self.revision += 1;
    }

    /// Shows a timeline that was written before and of which nothing may be recorded.
    pub(super) fn show_timeline(
        &mut self,
        model: &Ready,
        prompt_ids: &PromptIds,
        answer_ids: &[u32],
        forward: &ForwardOptions,
    ) {
        let mut ids = prompt_ids.to_vec();
        ids.extend_from_slice(answer_ids);
        if self.ids.starts_with(&ids) && self.recording.is_some() {
            return;
        }
        self.begin(model, &ids, forward);
        self.set_origins(model, prompt_ids.len());
    }

    /// Says which tokens the model wrote: those from `n_prompt` on.
    pub(super) fn set_origins(&mut self, model: &Ready, n_prompt: usize) {
        if let Some(recording) = &mut self.recording {
            let text = |id| model.token_text(id);
            let tokens = plain_tokens(&self.ids, n_prompt, text);
            recording.set_tokens(n_prompt, tokens[n_prompt.min(tokens.len())..].to_vec());
        }
        self.revision += 1;
    }

    /// Shows a recording from a file.
    pub(super) fn open(&mut self, recording: Recording, file: PathBuf) {
        *self = Self {
            files: vec![file],
            timeline: self.timeline + 1,
            is_open: true,
            is_recording: self.is_recording,
            is_from_file: true,
            revision: self.revision + 1,
            recording: Some(recording),
            ..Self::default()
        };
    }

    /// A frame has come. What is recorded of it is taken over by [`Inspecting::take_rows`].
    pub(super) fn push(&mut self, purpose: Purpose, frame: Frame) {
        match purpose {
            Purpose::WhatIfBase | Purpose::WhatIfForced => {
                if let Some(run) = &mut self.run {
                    run.push(&purpose, frame);
                }
            }
            Purpose::WhatIfWrites | Purpose::Load => {}
            _ => {
                self.waiting_bytes += frame.bytes();
                self.waiting.push_back((purpose, frame, 0));
            }
        }
    }

    /// Whether more may come: what waits here is bounded, so that a slow window slows the runner.
    pub(super) fn has_room(&mut self) -> bool {
        let takes = self.run.as_mut().is_none_or(WhatIfRun::go_on);
        takes && self.waiting_bytes < WAITING_BYTES
    }

    /// Whether all frames that have come are taken over.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes over rows of frames for as long as `budget`, at least one; whether rows are left. A chunk
    /// of a large model has hundreds of rows of milliseconds each, and the window must not wait.
    pub(super) fn take_rows(&mut self, budget: Duration) -> bool {
        let began = Instant::now();
        while let Some((purpose, frame, row)) = self.waiting.front_mut() {
            self.revision += 1;
            let recording = match purpose {
                Purpose::RecordDense => &mut self.dense,
                _ => &mut self.recording,
            };
            if let Some(recording) = recording
                && let Some(one) = row_of(frame, *row)
            {
                for problem in recording.push_frame(&one) {
                    log::warn!("{problem}");
                }
            }
            *row += 1;
            if *row >= frame.ids.len() {
                if let Some(recording) = recording {
                    set_timing(recording, frame);
                }
                self.waiting_bytes -= frame.bytes();
                self.waiting.pop_front();
            }
            if began.elapsed() >= budget {
                break;
            }
        }
        !self.waiting.is_empty()
    }

    /// Times of the answer so far, as the engine measured them.
    pub(super) fn push_stats(&mut self, stats: &Stats) {
        let (n, seconds) = (stats.n_generated, stats.decode.as_secs_f64());
        let (last_n, last_seconds) = self.last_point;
        if last_n > 0 && n > last_n && seconds > last_seconds {
            let rate = (n - last_n) as f64 / (seconds - last_seconds);
            self.live
                .tokens_per_second
                .push((seconds as f32, rate as f32));
        }
        self.last_point = (n, seconds);
    }

    /// A token was written.
    pub(super) fn push_token(&mut self, model: &Ready, token: &Token) {
        self.revision += 1;
        if token.position != self.ids.len() {
            return;
        }
        self.ids.push(token.picked.id);
        let Some(recording) = &mut self.recording else {
            return;
        };
        let mut tokens = plain_tokens(&[token.picked.id], 0, |id| model.token_text(id));
        if let Some(info) = tokens.first_mut() {
            info.logprob = Some(token.picked.logprob);
        }
        recording.set_tokens(token.position, tokens);
        let ids = token.picked.top.iter().map(|&(id, _)| id);
        let draws: Vec<(u32, f32)> = ids.zip(token.picked.draws.iter().copied()).collect();
        if !draws.is_empty() {
            recording.set_draw(token.position, &draws);
        }
    }

    /// An answer is done: what it cost, recorded or not.
    pub(super) fn measure(&mut self, ms_per_token: f64) {
        if !self.is_recording {
            self.unrecorded_ms = Some(ms_per_token);
        }
        let Some(recording) = self.recording.as_ref().filter(|_| self.is_recording) else {
            return;
        };
        let n_recorded = (0..recording.n_tokens())
            .filter(|&position| recording.is_recorded(position))
            .count();
        // Without an answer to compare with, only the memory is known.
        if n_recorded > 0
            && let Some(unrecorded_ms) = self.unrecorded_ms
        {
            self.cost = Some(RecordingCost {
                bytes_per_token: recording.bytes() as f32 / n_recorded as f32,
                ms_per_token: (ms_per_token - unrecorded_ms).max(0.0) as f32,
            });
        }
    }
}

/// One row of a frame as a frame of its own; `None` behind the last.
fn row_of(frame: &Frame, row: usize) -> Option<Frame> {
    fn cut<T: Copy>(data: &[T], n_rows: usize, row: usize) -> Vec<T> {
        let width = data.len() / n_rows;
        data[row * width..(row + 1) * width].to_vec()
    }
    let n_rows = frame.ids.len();
    let id = *frame.ids.get(row)?;
    let values = frame.values.iter().map(|(site, value)| {
        let mut shape = value.shape().to_vec();
        // What has not a row for each token is handed on as it is, and refused with its name.
        if shape.first() != Some(&n_rows) {
            return (*site, value.clone());
        }
        shape[0] = 1;
        let value = match value {
            Value::F32 { data, .. } => Value::F32 {
                shape,
                data: cut(data, n_rows, row),
            },
            Value::I32 { data, .. } => Value::I32 {
                shape,
                data: cut(data, n_rows, row),
            },
        };
        (*site, value)
    });
    Some(Frame {
        position: frame.position + row,
        ids: vec![id],
        values: values.collect(),
        ..Frame::default()
    })
}

/// Keeps the times of a pass with its last row.
fn set_timing(recording: &mut Recording, frame: &Frame) {
    let (Some(elapsed), Some(last)) = (
        frame.elapsed,
        (frame.position + frame.ids.len()).checked_sub(1),
    ) else {
        return;
    };
    let ops = frame.timings.iter().map(|timing| OpTiming {
        op: timing.op.to_owned(),
        layer: timing.layer,
        ms: timing.duration.map(|time| time.as_secs_f32() * 1000.0),
        bytes: timing.bytes,
        launches: timing.launches,
    });
    let timing = StepTiming {
        total_ms: elapsed.as_secs_f32() * 1000.0,
        ops: ops.collect(),
        n_tokens: frame.ids.len(),
    };
    recording.set_timing(last, timing);
}
