//! From a message to a running answer: what is encoded, checked and fed.

use std::time::Duration;

use engine::chat::{EncodeOptions, Message, Role, encode};
use engine::tokenizer::Piece;

use super::answer::Made;
use super::link::{Feed, Purpose};
use super::*;
use crate::store::title_from;

/// How long the database is left alone after it did not take an answer.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

impl App {
    /// Why nothing can be sent now; `None` if something can.
    pub(super) fn blocked(&self) -> Option<String> {
        let busy_with = self.link.jobs().find(|job| !matches!(job, Purpose::Load));
        match &self.model {
            Model::None => Some("No model is loaded: open the models page".into()),
            Model::Loading { .. } => Some("The model is being loaded".into()),
            Model::Failed(problem) => Some(format!("There is no model: {problem}")),
            Model::Ready(ready) => match (&ready.no_chat, busy_with) {
                (Some(problem), _) => Some(problem.clone()),
                (None, Some(Purpose::Answer)) => None,
                (None, Some(_)) => Some("A recording is being made; Stop ends it".into()),
                (None, None) => None,
            },
        }
    }

    /// Asks `text` after the messages of the branch.
    pub(super) fn send(&mut self, text: &str) {
        if self.blocked().is_some() || self.answer.is_some() || text.trim().is_empty() {
            // The box takes nothing then; what comes here anyway goes back into it.
            self.chat_state.composer.set(text);
            return;
        }
        let parent = self.path.last().map(|entry| entry.node.id);
        if !self.ask_after(parent, text) {
            self.chat_state.composer.set(text);
        }
    }

    /// Asks `text` as a message behind `parent`; whether it is in the database.
    pub(super) fn ask_after(&mut self, parent: Option<NodeId>, text: &str) -> bool {
        let Some(conversation) = self.conversation_for(text) else {
            return false;
        };
        let message = Message::new(Role::User, text);
        let added = self
            .store
            .append(conversation, parent, &message, NodeState::Complete);
        if self.or_complain(added).is_none() {
            return false;
        }
        self.reload_path();
        self.chat_state.composer.clear();
        self.chat_state.scroll_to_end();
        self.begin_answer();
        true
    }

    /// The open conversation, or a new one that is named after its first message.
    fn conversation_for(&mut self, text: &str) -> Option<ConversationId> {
        if let Some(open) = self.open {
            if self.path.is_empty() {
                let titled = self.store.rename_conversation(open, &title_from(text));
                self.or_complain(titled);
                self.refresh_lists();
            }
            return Some(open);
        }
        let made = self.store.create_conversation(&title_from(text), None);
        let id = self.or_complain(made)?;
        let settings = self.settings.clone();
        let set = self.store.set_conversation_settings(id, &settings);
        self.or_complain(set);
        self.open = Some(id);
        self.remember(keys::CONVERSATION, &Some(id));
        self.refresh_lists();
        Some(id)
    }

    /// The messages before an answer, the system's first.
    fn messages(&self) -> Vec<Message> {
        let system = self.settings.system_prompt.trim();
        let first = (!system.is_empty()).then(|| Message::new(Role::System, system));
        first
            .into_iter()
            .chain(self.path.iter().map(|entry| entry.node.message.clone()))
            .collect()
    }

    /// Adds an answer behind the branch and has its prompt encoded.
    pub(super) fn begin_answer(&mut self) {
        let messages = self.messages();
        let Some((conversation, node)) = self.new_answer_node(&Message::new(Role::Assistant, ""))
        else {
            return;
        };
        self.start_answer(conversation, node, self.settings.thinking);
        let options = EncodeOptions {
            thinking: self.settings.thinking,
            ..EncodeOptions::default()
        };
        match encode(&messages, &options) {
            Ok(pieces) => self.encode_prompt(pieces),
            Err(error) => self.fail_answer(&error.to_string()),
        }
    }

    /// Lets the model go on where an answer ended: the same ids, and more of them.
    pub(super) fn continue_answer(&mut self, node: NodeId) {
        let Some(entry) = self.path.iter().find(|entry| entry.node.id == node) else {
            return;
        };
        let Some(facts) = entry
            .node
            .facts
            .clone()
            .filter(|facts| !facts.ids.is_empty())
        else {
            self.complain("this answer was edited or comes from elsewhere: its tokens are not known, so nothing can follow them");
            return;
        };
        let Some(tokenizer) = self.model.ready().and_then(|ready| ready.tokenizer.clone()) else {
            return;
        };
        let message = entry.node.message.clone();
        let parent = entry.node.parent;
        let Some(conversation) = self.open else {
            return;
        };
        // A branch of its own: the answer that ended stays.
        let added = self
            .store
            .append(conversation, parent, &message, NodeState::Streaming);
        let Some(node) = self.or_complain(added) else {
            return;
        };
        self.reload_path();
        self.start_answer(conversation, node, facts.thinking);
        let mut ids = facts.ids;
        // The end of the text is no part of a text that goes on.
        let eos = self.model.ready().map_or(&[][..], |ready| &ready.eos);
        while ids.last().is_some_and(|id| eos.contains(id)) {
            ids.pop();
        }
        let mut before = facts.prompt_ids.to_vec();
        if let Some(answer) = &mut self.answer {
            answer.prompt_ids = facts.prompt_ids;
            answer.resume(ids.clone(), &tokenizer);
        }
        before.extend(ids);
        self.feed_answer(before);
    }

    fn new_answer_node(&mut self, message: &Message) -> Option<(ConversationId, NodeId)> {
        let conversation = self.open?;
        let parent = self.path.last().map(|entry| entry.node.id);
        let added = self
            .store
            .append(conversation, parent, message, NodeState::Streaming);
        let node = self.or_complain(added)?;
        self.reload_path();
        Some((conversation, node))
    }

    pub(super) fn start_answer(
        &mut self,
        conversation: ConversationId,
        node: NodeId,
        thinking: bool,
    ) {
        let Some(ready) = self.model.ready() else {
            return;
        };
        let made = Made {
            thinking,
            settings: serde_json::to_value(&self.settings).unwrap_or_default(),
            model: ready.name.clone(),
            device: ready.device.clone(),
        };
        self.answer = Some(Answer::new(conversation, node, made));
    }

    fn encode_prompt(&mut self, pieces: Vec<Piece>) {
        let Some(tokenizer) = self.model.ready().and_then(|ready| ready.tokenizer.clone()) else {
            self.fail_answer("the model has no tokenizer");
            return;
        };
        self.helpers.start(Task::Encode, move |_| {
            let ids = tokenizer
                .encode_pieces(&pieces)
                .map_err(|error| error.to_string());
            ids.map(Done::Ids)
        });
    }

    /// The ids of a prompt have come.
    pub(super) fn take_ids(&mut self, ids: Vec<u32>) {
        if let Some(answer) = &mut self.answer {
            answer.prompt_ids = ids.clone().into();
        }
        self.feed_answer(ids);
    }

    /// Feeds the whole timeline and lets the model write.
    fn feed_answer(&mut self, ids: Vec<u32>) {
        let (Some(ready), Some(answer)) = (self.model.ready(), &self.answer) else {
            return;
        };
        let context = ready.config.max_position_embeddings;
        if ids.len() >= context {
            let problem = format!(
                "the conversation has {} tokens, the context holds {context}: begin a new one, or edit an earlier message",
                ids.len()
            );
            self.fail_answer(&problem);
            return;
        }
        let forward = self.settings.forward();
        let mut sampler = self.settings.sampler();
        // Another answer to the same message draws from another stream.
        let entry = self.path.iter().find(|entry| entry.node.id == answer.node);
        let index = entry.map_or(0, |entry| entry.index_among_siblings);
        sampler.seed = sampler.seed.wrapping_add(index as u64);
        let watch = self.inspecting.watch();
        if self.inspecting.is_recording {
            sampler.n_logprobs = inspecting::N_CANDIDATES;
        }
        let options = GenerateOptions {
            max_tokens: self.settings.max_tokens,
            stop_ids: ready.eos.clone(),
            ..GenerateOptions::default()
        };
        self.inspecting.begin(ready, &ids, &forward);
        let n_prompt = answer.prompt_ids.len();
        if ids.len() > n_prompt {
            self.inspecting.set_origins(ready, n_prompt);
        }
        self.link.feed(
            Purpose::Answer,
            Feed {
                rewind: None,
                watch,
                prompt: runner::Prompt::Whole(ids),
                sampler,
                options,
                forward,
                record: runner::Record::default(),
            },
        );
    }

    /// Ends the answer with an error.
    pub(super) fn fail_answer(&mut self, problem: &str) {
        self.helpers.call_off(Task::Encode);
        let Some(answer) = self.answer.take() else {
            self.complain(problem);
            return;
        };
        let mut facts = answer.facts();
        facts.stop = format!("failed: {problem}");
        self.save(answer.node, answer.message, NodeState::Failed, facts);
        self.reload_path();
    }

    /// Breaks off what runs.
    pub(super) fn stop(&mut self) {
        if self.helpers.is_running(Task::Encode)
            && let Some(answer) = self.answer.take()
        {
            self.helpers.call_off(Task::Encode);
            let mut facts = answer.facts();
            facts.stop = answer::stop_word(&Stop::Cancelled).into();
            self.save(answer.node, answer.message, NodeState::Stopped, facts);
            self.reload_path();
            return;
        }
        if !self.link.is_idle() {
            self.link.stop();
        }
    }

    /// Writes a message into the database, now or as soon as it takes it.
    pub(super) fn save(
        &mut self,
        node: NodeId,
        message: Message,
        state: NodeState,
        facts: AnswerFacts,
    ) {
        // What was to be kept of it before is older.
        self.unsaved.retain(|unsaved| unsaved.node != node);
        self.unsaved.push(Unsaved {
            node,
            message,
            state,
            facts,
        });
        self.save_again = None;
        self.save_rest();
    }

    /// Tries again what the database did not take, now and then. What it refuses is kept, and keeps
    /// nothing else from being saved.
    pub(super) fn save_rest(&mut self) {
        if self.unsaved.is_empty() || self.save_again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let mut is_busy = false;
        for unsaved in std::mem::take(&mut self.unsaved) {
            // Waiting once is enough: it is the whole database that somebody else writes.
            if !is_busy {
                let Unsaved {
                    node,
                    message,
                    state,
                    facts,
                } = &unsaved;
                let saved = self.store.update(*node, message, *state, Some(facts));
                let Err(error) = saved else { continue };
                is_busy = matches!(error, crate::store::StoreError::Busy { .. });
                // An import of our own is over soon.
                if !(is_busy && self.helpers.is_running(Task::Import)) {
                    self.complain(format!("an answer is not saved yet: {error}"));
                }
            }
            self.unsaved.push(unsaved);
        }
        if !self.unsaved.is_empty() {
            self.save_again = Some(Instant::now() + SAVE_AGAIN);
            self.ctx.request_repaint_after(SAVE_AGAIN);
        }
    }
}
