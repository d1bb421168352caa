//! The recipe: a TOML file that says what is trained on what, stage after stage.
//!
//! Settings that DeepSeek published stand beside ours in [`STAGES`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{KINDS, Mixture};
use crate::net::Role;
use crate::pass::AttentionMode;
use crate::{Error, Result};

/// A recipe file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of everything drawn.
    pub seed: u64,
    /// The model's `config.json`, relative to the recipe.
    pub config: PathBuf,
    /// The tokenizer, relative to the recipe.
    pub tokenizer: PathBuf,
    /// Standard deviation of new matrices.
    pub init_std: f64,
    /// Folder of the checkpoint whose weights a run begins with, relative to the recipe; random
    /// weights if not given.
    pub start_from: Option<PathBuf>,
    /// How AdamW is set.
    pub optimizer: OptimizerSettings,
    /// One after the other.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// AdamW's constants.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSettings {
    /// Decay of the mean of gradients.
    pub beta_1: f64,
    /// Decay of the mean of their squares.
    pub beta_2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
    /// Share of a matrix that decays in a step of learning rate 1. Vectors do not decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub clip: f64,
}

/// One stage of the recipe.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// What it is called in logs.
    pub name: String,
    /// A name from [`STAGES`].
    pub kind: String,
    /// Optimiser steps.
    pub steps: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences of a micro-batch.
    pub sequences: usize,
    /// Micro-batches of a step.
    #[serde(default = "one")]
    pub micro_batches: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// What the learning rate has fallen to once the last step is done.
    pub final_learning_rate: f64,
    /// Steps over which the rate rises from 0.
    #[serde(default)]
    pub warmup_steps: usize,
    /// Weight of the MTP loss.
    #[serde(default)]
    pub mtp_weight: f64,
    /// Weight α of the loss of unbalanced sequences.
    #[serde(default)]
    pub balance_weight: f64,
    /// Speed γ of the routing bias.
    #[serde(default)]
    pub bias_speed: f64,
    /// What a target weighs in the loss: as any other of its step, or less in a sequence that has
    /// more of them, so that sequences weigh the same. Drills have few targets and would be
    /// drowned by stories otherwise.
    #[serde(default)]
    pub weighted: Weighted,
    /// Kinds of text, by weight.
    pub mixture: Mixture,
}

/// What has the same weight as any other of its kind in the loss of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighted {
    /// A target.
    #[default]
    ByTarget,
    /// A sequence that has targets.
    BySequence,
}

fn one() -> usize {
    1
}

/// A kind of stage.
#[derive(Clone, Copy, Debug)]
pub struct StageKind {
    /// The name in recipes.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What DeepSeek did there.
    pub published: &'static str,
    /// How attention is computed.
    pub attention: Attention,
    /// The language is learnt.
    pub main: bool,
    /// The indexer is learnt.
    pub indexer: bool,
}

/// How a kind of stage computes attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Over everything.
    Dense,
    /// Over the selection.
    Sparse,
}

/// Every kind of stage. Sources: V3 report; V3.2 report, section on continued pre-training.
pub const STAGES: &[StageKind] = &[
    StageKind {
        name: "pretrain",
        what: "next tokens, dense attention; experts balanced by bias and sequence loss; MTP loss",
        published: "14.8T tokens, rate 2.2e-4 after 2,000 steps of warm-up, cosine to 2.2e-5, \
                    sequence 4K, bias speed 0.001, balance 1e-4, MTP weight 0.3 then 0.1",
        attention: Attention::Dense,
        main: true,
        indexer: false,
    },
    StageKind {
        name: "dense-warmup",
        what: "everything frozen but the indexer, which learns where dense attention looks",
        published: "1,000 steps of 16 sequences of 128K (2.1B tokens), rate 1e-3",
        attention: Attention::Dense,
        main: false,
        indexer: true,
    },
    StageKind {
        name: "sparse",
        what: "attention over the selection, everything trained, the indexer on the selected only",
        published: "15,000 steps of 480 sequences of 128K (943.7B tokens), rate 7.3e-6",
        attention: Attention::Sparse,
        main: true,
        indexer: true,
    },
    StageKind {
        name: "sft",
        what: "as sparse, on conversations, with loss on the assistant's tokens",
        published: "specialists distilled into one model by supervised fine-tuning; sizes unpublished",
        attention: Attention::Sparse,
        main: true,
        indexer: true,
    },
];

/// The largest number below 1.
const MOST_BETA: f64 = 1.0 - f64::EPSILON / 2.0;

impl Recipe {
    /// Reads a recipe and checks it.
    ///
    /// # Errors
    /// Not TOML, an unknown or missing key, a setting outside its range.
    pub fn open(path: &Path) -> Result<Self> {
        let text = engine::text_file::read(path)?;
        let mut recipe: Self = toml::from_str(&text).map_err(|error| Error::BadFile {
            path: path.into(),
            problem: error.to_string().trim_end().to_owned(),
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        recipe.config = folder.join(&recipe.config);
        recipe.tokenizer = folder.join(&recipe.tokenizer);
        recipe.start_from = recipe.start_from.map(|start| folder.join(start));
        recipe.check()?;
        Ok(recipe)
    }

    /// Takes kinds of real text out of every mixture, and a stage whose mixture has no other out of
    /// the recipe. Returns the names of the kinds.
    pub fn drop_real_texts(&mut self) -> Vec<&'static str> {
        let real: Vec<&str> = KINDS
            .iter()
            .filter(|kind| kind.is_real())
            .map(|kind| kind.name)
            .collect();
        for stage in &mut self.stages {
            stage
                .mixture
                .retain(|name, _| !real.contains(&name.as_str()));
        }
        self.stages.retain(|stage| !stage.mixture.is_empty());
        real
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// The first such setting.
    pub fn check(&self) -> Result<()> {
        let refuse = |name: String, found: String, expected: &str| {
            Err(Error::Setting {
                name,
                found,
                expected: expected.into(),
            })
        };
        let OptimizerSettings {
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            clip,
        } = self.optimizer;
        let positive = f64::MIN_POSITIVE..=f64::MAX;
        for (name, value, range, expected) in [
            ("init_std", self.init_std, 0.0..=f64::MAX, "a number from 0"),
            (
                "beta_1 of optimizer",
                beta_1,
                0.0..=MOST_BETA,
                "a number from 0 to below 1",
            ),
            (
                "beta_2 of optimizer",
                beta_2,
                0.0..=MOST_BETA,
                "a number from 0 to below 1",
            ),
            (
                "epsilon of optimizer",
                epsilon,
                positive.clone(),
                "a number above 0",
            ),
            (
                "weight_decay of optimizer",
                weight_decay,
                0.0..=f64::MAX,
                "a number from 0",
            ),
            (
                "clip of optimizer",
                clip,
                positive.clone(),
                "a number above 0",
            ),
        ] {
            if !range.contains(&value) {
                return refuse(name.into(), value.to_string(), expected);
            }
        }
        if self.stages.is_empty() {
            return refuse("stage".into(), "none".into(), "at least one stage");
        }
        for stage in &self.stages {
            let setting = |key: &str| format!("{key} of stage {:?}", stage.name);
            let known: Vec<_> = STAGES.iter().map(|kind| kind.name).collect();
            if !known.contains(&stage.kind.as_str()) {
                let expected = format!("one of {}", known.join(", "));
                return refuse(setting("kind"), stage.kind.clone(), &expected);
            }
            for (key, value) in [
                ("steps", stage.steps),
                ("length", stage.length),
                ("sequences", stage.sequences),
                ("micro_batches", stage.micro_batches),
            ] {
                if value == 0 {
                    return refuse(setting(key), "0".into(), "at least 1");
                }
            }
            if stage.warmup_steps > stage.steps {
                let found = stage.warmup_steps.to_string();
                return refuse(setting("warmup_steps"), found, "no more than steps");
            }
            for (key, value) in [
                ("learning_rate", stage.learning_rate),
                ("final_learning_rate", stage.final_learning_rate),
                ("mtp_weight", stage.mtp_weight),
                ("balance_weight", stage.balance_weight),
                ("bias_speed", stage.bias_speed),
            ] {
                if !value.is_finite() || value < 0.0 {
                    return refuse(setting(key), value.to_string(), "a number from 0");
                }
            }
        }
        Ok(())
    }
}

impl Stage {
    /// What kind it is.
    pub fn kind(&self) -> &'static StageKind {
        let mut kinds = STAGES.iter();
        kinds
            .find(|kind| kind.name == self.kind)
            .expect("a checked recipe has known kinds")
    }

    /// Whether a parameter is trained in this stage.
    pub fn trains(&self, role: Role) -> bool {
        let kind = self.kind();
        let mtp = self.mtp_weight > 0.0;
        match role {
            Role::Main => kind.main,
            Role::Indexer => kind.indexer,
            Role::Mtp => kind.main && mtp,
            Role::MtpIndexer => kind.indexer && mtp,
            Role::Balance => false,
        }
    }

    /// How attention is computed, for a model that selects `k` positions.
    pub fn attention(&self, k: usize) -> AttentionMode {
        let kind = self.kind();
        match (kind.attention, kind.indexer) {
            (Attention::Dense, false) => AttentionMode::Dense,
            (Attention::Dense, true) => AttentionMode::DenseWarmup,
            (Attention::Sparse, _) => AttentionMode::Sparse { k },
        }
    }

    /// Learning rate of step `step`, from 0: linear rise, then a cosine.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = (self.steps - self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64 / span;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine
    }
}
