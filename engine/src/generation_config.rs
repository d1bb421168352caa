//! `generation_config.json`: what ends a text, and how the model's makers advise to choose tokens.
//!
//! It is a file that may be missing, and so may each of its keys. What a choice of tokens means is the
//! business of [`crate::sampler`].

use std::fmt;

use serde_json::{Map, Value};

use crate::config::{self, Config, Keys};
use crate::sampler::SamplerOptions;
use crate::source::{Embedded, Source};
use crate::{Error, Result};

/// The name of the file.
const FILE: &str = "generation_config.json";

/// How to choose tokens, as far as the model's makers say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// 0 also where `do_sample` is false.
    pub temperature: Option<f64>,
    /// See [`SamplerOptions::top_p`].
    pub top_p: Option<f64>,
    /// See [`SamplerOptions::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplerOptions::min_p`].
    pub min_p: Option<f64>,
    /// See [`SamplerOptions::repetition_penalty`].
    pub repetition_penalty: Option<f64>,
}

impl SamplingDefaults {
    /// What the makers say, and the engine's own defaults for the rest.
    pub fn options(&self) -> SamplerOptions {
        let own = SamplerOptions::default();
        SamplerOptions {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_p: self.top_p.unwrap_or(own.top_p),
            top_k: self.top_k.unwrap_or(own.top_k),
            min_p: self.min_p.unwrap_or(own.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            ..own
        }
    }
}

impl fmt::Display for SamplingDefaults {
    /// `temperature 0.7, top-p 0.9`: what is said, under the names of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top_k = self.top_k.map(|k| k as f64);
        let said = [
            ("temperature", self.temperature),
            ("top-p", self.top_p),
            ("top-k", top_k),
            ("min-p", self.min_p),
            ("repetition-penalty", self.repetition_penalty),
        ];
        let said = said
            .iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", (*value)?)));
        f.write_str(&said.collect::<Vec<_>>().join(", "))
    }
}

impl Source {
    /// The ids that end a text: those of `config.json`, then those that `generation_config.json` adds,
    /// if it is there.
    ///
    /// # Errors
    /// `generation_config.json` cannot be read or is not JSON, or its `eos_token_id` is something else
    /// than ids within the vocabulary.
    pub fn eos_token_ids(&self, config: &Config) -> Result<Vec<u32>> {
        let file = self.generation_config()?;
        let more = Keys::new(&file).token_ids("eos_token_id", config.vocab_size);
        let mut ids = config.eos_token_ids.clone();
        ids.extend(more.map_err(|error| self.named(error))?);
        let mut seen = std::collections::BTreeSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    /// How the makers advise to choose tokens.
    ///
    /// # Errors
    /// `generation_config.json` cannot be read or is not JSON, or a value in it cannot be.
    pub fn sampling_defaults(&self) -> Result<SamplingDefaults> {
        let file = self.generation_config()?;
        sampling(Keys::new(&file)).map_err(|error| self.named(error))
    }

    fn generation_config(&self) -> Result<Map<String, Value>> {
        match self {
            Self::Folder(folder) => match folder.join(FILE) {
                // A broken link is there, and what it was to say is missed.
                path if path.symlink_metadata().is_ok() => config::read_object(&path)
                    .map_err(|error| crate::folder::explain(folder, error)),
                _ => Ok(Map::new()),
            },
            Self::Embedded(files) => {
                config::object_in(files.generation_config, &Embedded::name(FILE))
            }
        }
    }

    /// An error about a key of the file, which is not that of `config.json`.
    fn named(&self, error: Error) -> Error {
        let (key, problem) = match error {
            Error::Config { key, problem } => (key, problem),
            Error::Setting {
                name,
                found,
                expected,
            } => (name, format!("is {found}, expected {expected}")),
            other => return other,
        };
        Error::BadFile {
            path: match self {
                Self::Folder(folder) => folder.join(FILE),
                Self::Embedded(_) => Embedded::name(FILE),
            },
            problem: format!("key {key:?} {problem}"),
        }
    }
}

fn sampling(keys: Keys<'_>) -> Result<SamplingDefaults> {
    let is_greedy = keys.flag("do_sample")? == Some(false);
    let temperature = keys.number("temperature")?;
    let defaults = SamplingDefaults {
        temperature: if is_greedy { Some(0.0) } else { temperature },
        top_p: keys.number("top_p")?,
        top_k: keys.count("top_k")?,
        min_p: keys.number("min_p")?,
        repetition_penalty: keys.number("repetition_penalty")?,
    };
    defaults.options().check()?;
    Ok(defaults)
}
