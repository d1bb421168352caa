//! What has come since the last frame: from the runner, from helpers, from the user's files.

use std::time::Duration;

use engine::runner::Event;

use super::files::{Saved, Wanted};
use super::link::{Feed, Purpose};
use super::what_if::{Comparison, WhatIfRun};
use super::*;
use crate::inspector::{Sides, WhatIf};

/// Time that a frame of the window gives to recordings: half of what it may take.
const ROWS_BUDGET: Duration = Duration::from_millis(4);

impl App {
    /// Takes what has come, as far as there is room for it. Never waits.
    pub(super) fn update(&mut self, ctx: &egui::Context) {
        while let Some((task, result)) = self.helpers.next() {
            self.take_done(task, result);
        }
        while self.inspecting.has_room()
            && let Some((purpose, event)) = self.link.next()
        {
            self.take_event(purpose, event);
        }
        if self.inspecting.take_rows(ROWS_BUDGET) {
            ctx.request_repaint();
        }
        self.compare_again();
        if self.answer.as_ref().is_some_and(Answer::wants_saving) {
            self.save_growing();
        }
        self.save_rest();
        self.take_dropped(ctx);
    }

    /// A helper has brought what it was started for, or the reason why not.
    pub(super) fn take_done(&mut self, task: Task, result: Result<Done, String>) {
        let done = match result {
            Ok(done) => done,
            Err(problem) => return self.take_failure(task, problem),
        };
        match done {
            Done::Devices(devices) => self.devices = devices,
            Done::Grammars => {}
            Done::Ids(ids) => self.take_ids(ids),
            Done::ModelFiles(files) => {
                self.model.files_are_there(files);
                if self.model.ready().is_some() {
                    self.model_came();
                }
            }
            Done::ModelCard(card) => {
                self.card = Some(*card);
                self.card_problem = None;
            }
            Done::Chosen(Some(path)) => {
                if let Some(question) = &mut self.question {
                    question.set_path(&path);
                    let wanted = question.wanted;
                    self.take_file(wanted, path, false);
                }
            }
            Done::Chosen(None) => self.complain_of_file(
                "nothing was chosen; if no dialog came, this desktop has none: type the path",
            ),
            Done::Saved(Saved::Written) => self.question = None,
            Done::Saved(Saved::IsThere(path)) => {
                if let Some(question) = &mut self.question {
                    question.is_there = Some(path);
                }
            }
            Done::Imported(id) => {
                self.question
                    .take_if(|q| q.wanted == Wanted::ImportConversation);
                self.refresh_lists();
                self.open_conversation(id);
                self.import_next();
            }
            Done::Trace(wanted, path, recording) => {
                self.question.take_if(|question| question.wanted == wanted);
                self.show_trace(wanted, path, recording);
            }
            Done::Hits(hits) => self.hits = Some(hits),
            Done::Sides(sides) => {
                if task == Task::WhatIf {
                    self.inspecting.run = None;
                    self.inspecting.compared = None;
                }
                self.inspecting.sides = Some(*sides);
            }
        }
    }

    /// A helper failed: whatever waits for it waits no longer.
    fn take_failure(&mut self, task: Task, problem: String) {
        match task {
            Task::Devices => self.complain(format!("devices: {problem}")),
            Task::Grammars => log::warn!("grammars are read when they are needed: {problem}"),
            Task::Encode => self.fail_answer(&problem),
            Task::ModelFiles => self.model = Model::Failed(problem),
            Task::ModelCard => {
                self.card = None;
                self.card_problem = Some(problem);
            }
            Task::Dialog => self.complain_of_file(format!("{problem}: type the path")),
            Task::Save | Task::Trace => self.complain_of_file(problem),
            Task::Import => {
                self.complain_of_file(problem);
                self.import_next();
            }
            Task::Search => {
                self.hits = Some(Vec::new());
                self.complain(format!("the search failed: {problem}"));
            }
            Task::WhatIf => self.fail_what_if(&problem),
            Task::Compare => {
                self.inspecting.compared = None;
                self.complain(format!("the comparison failed: {problem}"));
            }
        }
    }

    /// Says what is wrong with a file: in the question that asks for one, else at the top of the window.
    fn complain_of_file(&mut self, problem: impl Into<String>) {
        match &mut self.question {
            Some(question) => question.problem = Some(problem.into()),
            None => self.complain(problem),
        }
    }

    /// A what-if ends without a result.
    fn fail_what_if(&mut self, problem: &str) {
        self.call_off_what_if();
        self.link.stop();
        self.complain(format!("the what-if run failed: {problem}"));
    }

    /// Nobody wants the what-if under way any more.
    pub(super) fn call_off_what_if(&mut self) {
        self.inspecting.run = None;
        self.helpers.call_off(Task::WhatIf);
    }

    /// Compares with the trace again where what is recorded has changed.
    fn compare_again(&mut self) {
        let inspecting = &mut self.inspecting;
        let is_quiet = self.link.is_idle() && inspecting.is_up_to_date();
        let (Some((trace, compared)), Some(recording)) =
            (&mut inspecting.compared, &inspecting.recording)
        else {
            return;
        };
        if !is_quiet || *compared == Some(inspecting.revision) {
            return;
        }
        *compared = Some(inspecting.revision);
        let (recording, trace) = (recording.clone(), trace.clone());
        self.helpers.start(Task::Compare, move |interest| {
            let sides = Sides::of_traces(recording, trace, || interest.lasts());
            let sides = sides.ok_or("it was called off")?;
            Ok(Done::Sides(Box::new(sides)))
        });
    }

    /// Files dropped on the window: a checkpoint's folder, a trace, or a conversation.
    fn take_dropped(&mut self, ctx: &egui::Context) {
        let dropped = ctx.input(|input| input.raw.dropped_files.clone());
        for file in dropped {
            let path = file.path().to_owned();
            let ending = path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
            if path.is_dir() {
                self.look_at(Source::Folder(path));
            } else if ending.as_deref() == Some("safetensors".as_ref()) {
                self.read_trace(Wanted::OpenTrace, path);
            } else if ending.as_deref() == Some("json".as_ref()) {
                self.import(path);
            } else {
                self.complain(format!(
                    "{}: found a file of another kind, expected a checkpoint's folder, a .safetensors trace or a .json conversation",
                    path.display()
                ));
            }
        }
    }

    fn take_event(&mut self, purpose: Option<Purpose>, event: Event) {
        match event {
            Event::Loading(progress) => {
                if let Model::Loading { progress: told, .. } = &mut self.model {
                    *told = Some(progress);
                }
            }
            Event::Loaded(loaded) => {
                self.model
                    .weights_are_there(loaded.device, loaded.resident_bytes);
                self.model_came();
            }
            Event::Unloaded => self.model = Model::None,
            Event::Prefill { done, total } => {
                if purpose == Some(Purpose::Answer)
                    && let Some(answer) = &mut self.answer
                {
                    answer.prefill = Some((done, total));
                }
            }
            Event::Frame(frame) => {
                if let Some(purpose) = purpose {
                    self.inspecting.push(purpose, frame);
                }
            }
            Event::Token(token) => self.take_token(purpose.as_ref(), &token),
            Event::Stats { stats, cache_bytes } => {
                if purpose == Some(Purpose::Answer)
                    && let Some(answer) = &mut self.answer
                {
                    answer.set_stats(stats);
                    self.inspecting.push_stats(&stats);
                }
                let weights = self.model.ready().map_or(0, |ready| ready.resident_bytes);
                let recordings = self.inspecting.recording.as_ref();
                self.inspecting.live.memory = vec![
                    ("weights".into(), weights as u64),
                    ("cached latents".into(), cache_bytes.latents as u64),
                    ("cached indexer keys".into(), cache_bytes.keys as u64),
                    (
                        "recording".into(),
                        recordings.map_or(0, |r| r.bytes()) as u64,
                    ),
                ];
            }
            Event::Finished(finish) => self.take_finish(purpose, &finish),
            Event::Recorded { routes, .. } => {
                if purpose == Some(Purpose::WhatIfBase) {
                    self.routes = routes;
                }
            }
            Event::Rewound(_) => {}
            Event::Error { during, message } => self.take_error(purpose, during, &message),
        }
    }

    fn take_token(&mut self, purpose: Option<&Purpose>, token: &engine::generate::Token) {
        match purpose {
            Some(Purpose::Answer) => {
                if let Some(answer) = &mut self.answer {
                    answer.push(token);
                }
                if let Some(ready) = self.model.ready() {
                    self.inspecting.push_token(ready, token);
                }
            }
            Some(Purpose::WhatIfWrites) => {
                if let Some(run) = &mut self.inspecting.run {
                    run.written.push(token.picked.id);
                }
            }
            _ => {}
        }
    }

    fn take_finish(&mut self, purpose: Option<Purpose>, finish: &engine::generate::Finish) {
        let was_stopped = finish.stop == Stop::Cancelled;
        match purpose {
            Some(Purpose::Answer) => {
                let stats = finish.stats;
                if stats.n_generated > 1 {
                    let ms = stats.decode.as_secs_f64() * 1000.0;
                    self.inspecting.measure(ms / (stats.n_generated - 1) as f64);
                }
                if let Some(answer) = self.answer.take() {
                    let node = answer.node;
                    let (message, state, facts) = answer.finish(finish);
                    self.save(node, message, state, facts);
                    self.reload_path();
                    self.refresh_lists();
                }
            }
            Some(Purpose::WhatIfBase | Purpose::WhatIfForced | Purpose::WhatIfWrites)
                if was_stopped =>
            {
                self.call_off_what_if();
            }
            Some(Purpose::WhatIfBase) => self.run_variant(),
            Some(Purpose::WhatIfWrites) => {
                if let Some(run) = &mut self.inspecting.run {
                    run.end();
                }
            }
            _ => {}
        }
    }

    fn take_error(&mut self, purpose: Option<Purpose>, during: &'static str, message: &str) {
        match (purpose, during) {
            (Some(Purpose::Load), "load") => {
                self.model = Model::Failed(message.to_owned());
                self.complain(format!("the model could not be loaded: {message}"));
                self.windows.models = true;
            }
            (Some(Purpose::Answer), "generate") => self.fail_answer(message),
            (Some(Purpose::WhatIfBase | Purpose::WhatIfForced | Purpose::WhatIfWrites), _) => {
                self.fail_what_if(message);
            }
            _ => self.complain(format!("{during}: {message}")),
        }
    }

    /// Saves what there is of the answer that is being written.
    fn save_growing(&mut self) {
        let Some(answer) = &self.answer else { return };
        let (node, message, facts) = (answer.node, answer.message.clone(), answer.facts());
        let saved = self
            .store
            .update(node, &message, NodeState::Streaming, Some(&facts));
        // What was not taken is tried again with the next token; the user hears of it once.
        self.or_complain(saved);
        if let Some(answer) = &mut self.answer {
            answer.is_saved();
        }
    }

    /// The window closes: what is being written is kept as far as it is.
    pub(super) fn close(&mut self) {
        if let Some(answer) = self.answer.take() {
            let mut facts = answer.facts();
            facts.stop = answer::stop_word(&Stop::Cancelled).into();
            self.save(answer.node, answer.message, NodeState::Stopped, facts);
        }
        self.save_again = None;
        self.save_rest();
        for task in [Task::Save, Task::Import] {
            self.helpers.wait_for(task);
        }
        if let Some(window) = WindowMemory::now(&self.ctx) {
            self.remember(keys::WINDOW, &window);
        }
        self.remember_panels();
    }

    /// A feeding of the recorded timeline, without writing.
    fn again(&self, watch: engine::trace::Watch, forward: engine::model::ForwardOptions) -> Feed {
        Feed {
            rewind: Some(0),
            watch,
            prompt: runner::Prompt::Whole(self.inspecting.ids.clone()),
            sampler: self.settings.sampler(),
            options: GenerateOptions {
                max_tokens: Some(0),
                ..GenerateOptions::default()
            },
            forward,
            record: runner::Record::default(),
        }
    }

    /// Whether the model can be asked to record something now; else says why not.
    fn can_record(&mut self) -> bool {
        let problem = match (&self.model, self.inspecting.ids.is_empty()) {
            (Model::Ready(ready), false) => {
                let recorded = self.inspecting.recording.as_ref();
                let of = recorded.map_or("", |recording| recording.header().model.as_str());
                if ready.name == of {
                    None
                } else {
                    Some(format!("these tokens are of the model {of}: load it first"))
                }
            }
            (Model::Ready(_), true) => Some("there are no tokens to feed again: this is a trace from a file, or nothing was asked yet".into()),
            _ => Some("no model is loaded".into()),
        };
        let problem = problem.or_else(|| {
            (!self.link.is_idle() || self.answer.is_some() || self.inspecting.run.is_some())
                .then(|| "something is running: wait for it or stop it".into())
        });
        match problem {
            Some(problem) => {
                self.complain(problem);
                false
            }
            None => true,
        }
    }

    /// Feeds the timeline again and records all of it.
    pub(super) fn record_whole(&mut self) {
        if self.can_record() {
            let feed = self.again(inspecting::whole_watch(), self.inspecting.forward.clone());
            self.link.feed(Purpose::Record, feed);
        }
    }

    /// Feeds the timeline again with dense attention.
    pub(super) fn record_dense(&mut self) {
        if !self.can_record() {
            return;
        }
        let Some(ready) = self.model.ready() else {
            return;
        };
        let forward = engine::model::ForwardOptions {
            dense: true,
            ..engine::model::ForwardOptions::default()
        };
        self.inspecting.dense = Some(Inspecting::empty_recording(ready, &forward));
        let mut watch = inspecting::whole_watch();
        watch.timings = false;
        let feed = self.again(watch, forward);
        self.link.feed(Purpose::RecordDense, feed);
    }

    /// Feeds the timeline up to a position again and records the heads of a layer there.
    pub(super) fn record_heads(&mut self, position: usize, layer: usize) {
        if !self.can_record() {
            return;
        }
        let forward = self.inspecting.forward.clone();
        // The past comes from the cache as far as it is there; the one token is fed alone.
        let ids = &self.inspecting.ids;
        let (past, rest) = ids.split_at(position.min(ids.len() - 1));
        let (past, one) = (past.to_vec(), vec![rest[0]]);
        let purpose = Purpose::RecordHeads { position, layer };
        if !past.is_empty() {
            let mut feed = self.again(engine::trace::Watch::default(), forward.clone());
            feed.rewind = None;
            feed.prompt = runner::Prompt::Whole(past);
            self.link.feed(purpose.clone(), feed);
        }
        let mut feed = self.again(inspecting::heads_watch(layer), forward);
        feed.rewind = Some(position);
        feed.prompt = runner::Prompt::Append(one);
        self.link.feed(purpose, feed);
    }

    /// Feeds the timeline as it is, then under the changed knobs, then lets the model write.
    pub(super) fn run_what_if(&mut self, request: WhatIf) {
        if !self.can_record() {
            return;
        }
        let Some(ready) = self.model.ready() else {
            return;
        };
        let base_forward = self.inspecting.forward.clone();
        let base = Inspecting::empty_recording(ready, &base_forward);
        let forced = Inspecting::empty_recording(ready, &changed(&request, &base_forward, None));
        let ids = self.inspecting.ids.clone();
        let wants_routes = request.replay_routes;
        let texts = Inspecting::texts(ready);
        let comparison = Comparison::new(request, ids, base, forced, texts);
        let (run, body) = WhatIfRun::new(comparison, &self.ctx);
        self.inspecting.run = Some(run);
        self.inspecting.sides = None;
        self.helpers.start(Task::WhatIf, body);
        let mut watch = inspecting::whole_watch();
        watch.timings = false;
        let mut feed = self.again(watch, base_forward);
        feed.record.routes = wants_routes;
        self.routes = None;
        self.link.feed(Purpose::WhatIfBase, feed);
    }

    /// The second half of a what-if, once the base is recorded.
    fn run_variant(&mut self) {
        let Some(run) = &mut self.inspecting.run else {
            return;
        };
        let forward = changed(&run.request, &self.inspecting.forward, self.routes.take());
        // The pass of the token before writes the first new one.
        let last_read = run.request.from.saturating_sub(1);
        let n_tokens = run.request.n_tokens;
        let first_changed = if run.request.whole { 0 } else { last_read };
        run.begin_variant(first_changed);
        let mut watch = inspecting::whole_watch();
        watch.timings = false;
        let ids = &self.inspecting.ids;
        let append = |range: std::ops::Range<usize>| runner::Prompt::Append(ids[range].to_vec());
        let mut forced = self.again(watch, forward.clone());
        forced.rewind = Some(first_changed);
        forced.prompt = append(first_changed..ids.len());
        let mut writes = self.again(engine::trace::Watch::default(), forward);
        writes.rewind = Some(last_read);
        writes.prompt = append(last_read..last_read + 1);
        self.link.feed(Purpose::WhatIfForced, forced);
        writes.options.max_tokens = Some(n_tokens);
        writes.options.stop_ids = self
            .model
            .ready()
            .map(|ready| ready.eos.clone())
            .unwrap_or_default();
        self.link.feed(Purpose::WhatIfWrites, writes);
    }
}

/// The knobs of a what-if.
fn changed(
    request: &WhatIf,
    base: &engine::model::ForwardOptions,
    routes: Option<engine::replay::RouteTrace>,
) -> engine::model::ForwardOptions {
    let mut forward = base.clone();
    if request.dense {
        forward.dense = true;
        forward.index_topk = None;
    } else if request.index_topk.is_some() {
        forward.dense = false;
        forward.index_topk = request.index_topk;
    }
    forward.intervention.pinned = request.pinned.iter().copied().collect();
    forward.intervention.banned = request.banned.iter().copied().collect();
    forward.intervention.experts_off = request.experts_off.iter().copied().collect();
    forward.intervention.routes = routes.map(std::sync::Arc::new);
    forward
}
