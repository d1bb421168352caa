//! A generation's output as it comes: text, ids, or a JSON object a line.

use std::sync::Arc;

use engine::chat;
use engine::generate::{Finish, Stop, Token};
use engine::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::prompt::PromptKind;
use crate::run::{Run, stop_words, summary};
use crate::terminal;

/// Prints one generation.
pub struct Printer {
    kind: PromptKind,
    json: bool,
    tokenizer: Option<Arc<Tokenizer>>,
    ids: Vec<u32>,
    text: String,
}

impl Printer {
    /// A printer for `run`; with `json`, the first line says what is run.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn new(run: &Run, json: bool) -> anyhow::Result<Self> {
        if json {
            let model = run.session.model();
            terminal::print_line(json!({
                "type": "start",
                "device": model.device().info.id,
                "prompt_tokens": run.prompt.ids.len(),
                "seed": run.sampler.seed,
                "greedy": run.sampler.is_greedy(),
                "temperature": run.sampler.temperature,
                "top_p": run.sampler.top_p,
                "top_k": run.sampler.top_k,
                "min_p": run.sampler.min_p,
                "repetition_penalty": run.sampler.repetition_penalty,
            }))?;
        }
        Ok(Self {
            kind: run.prompt.kind,
            json,
            tokenizer: run.tokenizer.clone(),
            ids: Vec::new(),
            text: String::new(),
        })
    }

    /// Prints what a token brings.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn token(&mut self, token: &Token) -> anyhow::Result<()> {
        let picked = &token.picked;
        if self.json {
            let mut line = json!({
                "type": "token",
                "position": token.position,
                "id": picked.id,
                "text": token.text,
                "logprob": picked.logprob,
                "draw_logprob": picked.draw_logprob,
            });
            if !picked.top.is_empty() {
                let top = picked.top.iter();
                line["top"] = top
                    .map(|&(id, logprob)| json!({"id": id, "text": self.token_text(id), "logprob": logprob}))
                    .collect();
            }
            terminal::print_line(line)?;
        } else if self.kind == PromptKind::Ids {
            let comma = if self.ids.is_empty() { "" } else { "," };
            terminal::print(&format!("{comma}{}", picked.id))?;
        } else {
            terminal::print(&token.text)?;
        }
        self.ids.push(picked.id);
        self.text.push_str(&token.text);
        Ok(())
    }

    fn token_text(&self, id: u32) -> Option<String> {
        self.tokenizer.as_ref()?.token_text(id)
    }

    /// Prints what was held back, and how it ended.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn finish(mut self, finish: &Finish) -> anyhow::Result<()> {
        self.text.push_str(&finish.text);
        if self.json {
            terminal::print_line(self.last_line(finish))?;
        } else if self.kind == PromptKind::Ids {
            terminal::print("\n")?;
        } else {
            terminal::print(&finish.text)?;
            if !self.text.ends_with('\n') {
                terminal::print("\n")?;
            }
        }
        let why = stop_words(&finish.stop);
        terminal::note(format_args!("{}; stopped: {why}", summary(&finish.stats)));
        if let PromptKind::Chat { boxed: true, .. } = self.kind {
            match chat::boxed_answer(&self.text) {
                Some(answer) => terminal::note(format_args!("boxed answer: {answer}")),
                None => terminal::note("no boxed answer in the text"),
            }
        }
        Ok(())
    }

    fn last_line(&self, finish: &Finish) -> Value {
        let stats = &finish.stats;
        let mut line = json!({
            "type": "done",
            "stop": stop_name(&finish.stop),
            "ids": self.ids,
            "text": self.text,
            "prompt_tokens": stats.n_prompt,
            "generated_tokens": stats.n_generated,
            "prefill_seconds": stats.prefill.as_secs_f64(),
            "first_token_seconds": stats.first_token.map(|time| time.as_secs_f64()),
            "decode_seconds": stats.decode.as_secs_f64(),
        });
        match &finish.stop {
            Stop::EndOfText(id) => line["stop_id"] = json!(id),
            Stop::StopString(text) => line["stop_string"] = json!(text),
            Stop::Length | Stop::ContextFull | Stop::Cancelled => {}
        }
        if let PromptKind::Chat { thinking, boxed } = self.kind {
            let completion = chat::parse(&self.text, thinking);
            line["reasoning"] = json!(completion.reasoning);
            line["content"] = json!(completion.content);
            line["tool_calls"] = json!(completion.tool_calls);
            line["problems"] = json!(completion.problems);
            if boxed {
                line["boxed_answer"] = json!(chat::boxed_answer(&self.text));
            }
        }
        line
    }
}

fn stop_name(stop: &Stop) -> &'static str {
    match stop {
        Stop::EndOfText(_) => "end_of_text",
        Stop::StopString(_) => "stop_string",
        Stop::Length => "length",
        Stop::ContextFull => "context_full",
        Stop::Cancelled => "interrupted",
    }
}
