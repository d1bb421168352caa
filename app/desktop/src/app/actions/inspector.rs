//! What is recorded, looked at and opened in the inspector.

use super::*;
use crate::store::Beginnings;

/// A timeline that was fed and written in less is recorded without asking, once somebody looks.
const RECORD_UNASKED_MS: f64 = 10_000.0;

impl App {
    pub(in crate::app) fn set_inspector(&mut self, is_open: bool) {
        if self.inspecting.is_open != is_open {
            self.inspecting.is_open = is_open;
            // A view needs it from now on, or none does.
            self.set_recording(is_open);
            self.remember_panels();
        }
    }

    pub(super) fn set_recording(&mut self, is_on: bool) {
        self.inspecting.is_recording = is_on;
        let runs_answer = self.link.jobs().next() == Some(&link::Purpose::Answer);
        if runs_answer {
            self.link.watch(self.inspecting.watch());
        }
        self.remember_panels();
    }

    /// Puts the timeline of an answer before the inspector.
    pub(super) fn show_timeline_of(&mut self, node: NodeId) {
        let Some(ready) = self.model.ready() else {
            return;
        };
        let entry = self.path.iter().find(|entry| entry.node.id == node);
        let Some(facts) = entry.and_then(|entry| entry.node.facts.as_ref()) else {
            return;
        };
        if facts.ids.is_empty() || facts.model != ready.name || self.answer.is_some() {
            return;
        }
        let settings: ConversationSettings =
            serde_json::from_value(facts.settings.clone()).unwrap_or_default();
        let forward = settings.forward();
        self.inspecting
            .show_timeline(ready, &facts.prompt_ids, &facts.ids, &forward);
    }

    /// Records the timeline if nothing of it is recorded and it is quickly done.
    pub(super) fn record_if_cheap(&mut self) {
        let Some(recording) = &self.inspecting.recording else {
            return;
        };
        let n_tokens = recording.n_tokens();
        let is_recorded = (0..n_tokens).any(|position| recording.is_recorded(position));
        let entry = self.path.iter().rev().find(|entry| has_ids(entry));
        let facts = entry.and_then(|entry| entry.node.facts.as_ref());
        let took_ms = facts.map_or(f64::INFINITY, |facts| {
            facts.prefill_ms.unwrap_or(f64::INFINITY) + facts.decode_ms.unwrap_or(f64::INFINITY)
        });
        let is_free = self.link.is_idle() && self.answer.is_none() && self.model.ready().is_some();
        if !is_recorded && is_free && !self.inspecting.ids.is_empty() && took_ms < RECORD_UNASKED_MS
        {
            self.record_whole();
        }
    }

    pub(in crate::app) fn inspector_action(&mut self, action: InspectorAction) {
        match action {
            InspectorAction::SelectToken(_) | InspectorAction::Hover(_) => {}
            InspectorAction::StartRecording => self.set_recording(true),
            InspectorAction::StopRecording => self.set_recording(false),
            InspectorAction::RecordWhole => self.record_whole(),
            InspectorAction::RecordDense => self.record_dense(),
            InspectorAction::RecordHeads { position, layer } => self.record_heads(position, layer),
            InspectorAction::RunWhatIf(request) => self.run_what_if(request),
            InspectorAction::SaveTrace => {
                self.question = Some(Question::new(Wanted::SaveTrace, "trace.safetensors"));
            }
            InspectorAction::OpenTrace => {
                self.question = Some(Question::new(Wanted::OpenTrace, "trace.safetensors"));
            }
            InspectorAction::CompareTrace => {
                self.question = Some(Question::new(Wanted::CompareTrace, "trace.safetensors"));
            }
            InspectorAction::Export { view, kind } => {
                let ranges = self.message_ranges();
                let name = export_name(view, kind, &self.shown(&ranges), &self.inspecting.state);
                self.question = Some(Question::new(Wanted::ExportView { view, kind }, &name));
            }
            InspectorAction::CopyText(text) => self.ctx.copy_text(text),
        }
    }

    /// A trace has been read: it is shown, or what is shown is compared with it.
    pub(in crate::app) fn show_trace(&mut self, wanted: Wanted, file: PathBuf, trace: Recording) {
        self.call_off_what_if();
        self.helpers.call_off(Task::Compare);
        if wanted == Wanted::OpenTrace {
            self.inspecting.open(trace, file);
            return;
        }
        self.inspecting.files.push(file);
        self.inspecting.compared = Some((trace, None));
        self.inspecting.sides = None;
        self.set_inspector(true);
        self.inspecting.state.show_sides();
    }

    /// What the inspector is to show; `messages` are the positions of each message.
    pub(in crate::app) fn shown<'a>(&'a self, messages: &'a [std::ops::Range<usize>]) -> Shown<'a> {
        let inspecting = &self.inspecting;
        Shown {
            recording: inspecting.recording.as_ref(),
            dense: inspecting.dense.as_ref(),
            sides: inspecting.sides.as_ref(),
            messages,
            live: inspecting.live.clone(),
            is_recording: inspecting.is_recording,
            can_run: self.model.ready().is_some()
                && self.link.is_idle()
                && inspecting.is_up_to_date()
                && inspecting.run.is_none()
                && !inspecting.ids.is_empty(),
            recording_cost: inspecting.cost,
            revision: inspecting.revision,
        }
    }

    /// Positions of the answers of the branch in the recorded timeline.
    pub(in crate::app) fn message_ranges(&self) -> Vec<std::ops::Range<usize>> {
        let mut ranges = Vec::new();
        let mut from = 0;
        for (entry, start) in self.path.iter().zip(&self.starts.starts) {
            if let Some(start) = *start {
                let n = entry.node.facts.as_ref().map_or(0, |facts| facts.ids.len());
                ranges.push(from..start);
                ranges.push(start..start + n);
                from = start + n;
            }
        }
        let n_tokens = self.inspecting.ids.len();
        if from < n_tokens {
            ranges.push(from..n_tokens);
        }
        ranges
    }

    /// Looks where the answers of the branch begin in the recorded timeline, if either has changed.
    pub(in crate::app) fn find_starts(&mut self) {
        if self.starts.of == Some(self.inspecting.timeline) {
            return;
        }
        self.starts.of = Some(self.inspecting.timeline);
        let mut beginnings = Beginnings::of(&self.inspecting.ids);
        let start = |entry: &PathEntry| {
            let facts = entry.node.facts.as_ref();
            let facts = facts.filter(|facts| !facts.ids.is_empty())?;
            let is_there = beginnings.hold(&facts.prompt_ids, &facts.ids);
            is_there.then(|| facts.prompt_ids.len())
        };
        // The longest comes first: it says of those before it how much is the same.
        let starts: Vec<Option<usize>> = self.path.iter().rev().map(start).collect();
        self.starts.starts = starts.into_iter().rev().collect();
        self.starts.n_compared += beginnings.n_compared;
    }
}
