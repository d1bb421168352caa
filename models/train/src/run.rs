//! The loop: draw a batch, go forward and back, move the parameters, log, save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{DType, Device};
use engine::Config;
use engine::definition::Weights;
use engine::file::{self, Output};
use engine::tokenizer::Tokenizer;
use rayon::prelude::*;

use crate::adamw::{AdamW, Gradients};
use crate::checkpoint::{self, Identity, Progress};
use crate::curves::CURVES;
use crate::data::{Corpus, Split};
use crate::log::{self, LOG, Log, Record, SelectionRecord};
use crate::net::{Net, Role};
use crate::pass::{Batch, PassOptions, PassStats, forward};
use crate::recipe::{Recipe, Stage, Weighted};
use crate::{Error, Result};

/// How a run is carried out, beside what the recipe says.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Holds the state, the log and the curves.
    pub folder: PathBuf,
    /// Real texts; `None` for what the generator makes alone.
    pub texts: Option<PathBuf>,
    /// Where to compute; without autodiff.
    pub device: Device,
    /// Steps between two saved states.
    pub save_every: usize,
    /// Steps between two measurements on held-out text.
    pub validate_every: usize,
    /// Sequences of such a measurement, in micro-batches of the stage.
    pub validation_batches: usize,
}

/// A run under way.
pub struct Run {
    recipe: Recipe,
    options: RunOptions,
    config: Config,
    identity: Identity,
    corpus: Corpus,
    net: Net,
    optimizer: AdamW,
    progress: Progress,
    log: Log,
    /// Routing bias by layer.
    biases: BTreeMap<usize, Vec<f32>>,
}

impl Run {
    /// Begins a run, or takes up the one in the folder.
    ///
    /// # Errors
    /// A file that is missing or damaged, a state of another model, a recipe that does not fit.
    pub fn open(recipe: Recipe, options: RunOptions) -> Result<Self> {
        check_folder(&options.folder)?;
        let identity = Identity::of(&recipe)?;
        let config = Config::from_json(&identity.config)?;
        let tokenizer = Tokenizer::open(&recipe.tokenizer)?;
        check_fit(&recipe, &config, &tokenizer)?;
        let corpus = Corpus::open(Arc::new(tokenizer), options.texts.as_deref())?;
        let folder = &options.folder;
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let (device, dtype) = (&options.device, DType::F32);
        let found = checkpoint::open(folder, &config, &identity, device, dtype)?;
        let (net, optimizer, progress) = match (found, &recipe.start_from) {
            (Some(found), _) => found,
            (None, start) => {
                let net = match start {
                    Some(folder) => checkpoint::weights(folder, &config, device, dtype)?,
                    None => Net::random(&config, recipe.init_std, recipe.seed, device, dtype),
                };
                (net, AdamW::default(), Progress::default())
            }
        };
        let log = Log::open(folder, &progress)?;
        let mut biases = BTreeMap::new();
        for (name, parameter) in &net.parameters {
            if parameter.role == Role::Balance {
                let layer = layer_of(name);
                biases.insert(layer, crate::pass::read(parameter.tensor.clone())?);
            }
        }
        Ok(Self {
            recipe,
            options,
            config,
            identity,
            corpus,
            net,
            optimizer,
            progress,
            log,
            biases,
        })
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The parameters as they are.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Runs all steps that are left, or until `report` breaks off; either way the state is saved.
    ///
    /// # Errors
    /// A loss that is not finite, a full disk, a lost device. The last saved state is kept.
    pub fn run(
        &mut self,
        report: &mut dyn FnMut(&Stage, &Record) -> ControlFlow<()>,
    ) -> Result<()> {
        while let Some(stage) = self.recipe.stages.get(self.progress.stage).cloned() {
            while self.progress.step < stage.steps {
                let mut record = self.step(&stage)?;
                let done = self.progress.step == stage.steps;
                if done
                    || self
                        .progress
                        .step
                        .is_multiple_of(self.options.validate_every)
                {
                    self.validate(&stage, &mut record)?;
                }
                self.log.push(&record)?;
                let stop = report(&stage, &record).is_break();
                if stop || done || self.progress.step.is_multiple_of(self.options.save_every) {
                    self.save()?;
                }
                if stop {
                    return Ok(());
                }
            }
            self.progress.stage += 1;
            self.progress.step = 0;
            // The next stage trains other parameters at another rate: old moments would mislead it.
            self.optimizer = AdamW::default();
            self.save()?;
            let folder = &self.options.folder;
            crate::curves::draw(&log::read(&folder.join(LOG))?, &folder.join(CURVES))?;
        }
        Ok(())
    }

    /// Saves the state.
    ///
    /// # Errors
    /// The disk is full, or the device failed.
    pub fn save(&mut self) -> Result<()> {
        for (&layer, bias) in &self.biases {
            let suffix = format!("layers.{layer}.mlp.gate.e_score_correction_bias");
            for (name, parameter) in &mut self.net.parameters {
                if name.ends_with(&suffix) {
                    let data = burn::tensor::TensorData::new(bias.clone(), [1, bias.len()]);
                    parameter.tensor =
                        burn::Tensor::from_data(data, (&self.net.device, self.net.dtype));
                }
            }
        }
        checkpoint::save(
            &self.options.folder,
            &self.net,
            &self.optimizer,
            &self.progress,
            &self.identity,
        )
    }

    fn batch(&self, stage: &Stage, split: Split, first: u64) -> Result<Batch> {
        let mut batch = Batch {
            n_sequences: stage.sequences,
            length: stage.length,
            ids: Vec::new(),
            loss: Vec::new(),
        };
        for n in first..first + stage.sequences as u64 {
            let length = stage.length + 2;
            let drawn = self
                .corpus
                .sequence(&stage.mixture, split, self.recipe.seed, n, length)?;
            batch.ids.extend(drawn.ids);
            batch.loss.extend(drawn.loss);
        }
        Ok(batch)
    }

    fn pass_options(&self, stage: &Stage, watch_selection: bool) -> PassOptions {
        let k = self
            .config
            .indexer
            .as_ref()
            .map_or(0, |indexer| indexer.index_topk);
        PassOptions {
            attention: stage.attention(k),
            mtp_weight: stage.mtp_weight,
            balance_weight: stage.balance_weight,
            main_loss: stage.kind().main,
            watch_selection,
            watch_k: k,
        }
    }

    fn step(&mut self, stage: &Stage) -> Result<Record> {
        let started = Instant::now();
        let step = self.progress.step;
        let n_micro = stage.micro_batches;
        let batches = (0..n_micro)
            .map(|micro| {
                let first = self.progress.n_sequences + (micro * stage.sequences) as u64;
                self.batch(stage, Split::Train, first)
            })
            .collect::<Result<Vec<_>>>()?;
        let per_target = target_weights(stage.weighted, &batches);
        let watch = (step + 1).is_multiple_of(10);
        let options = self.pass_options(stage, watch);
        // V2 has none.
        let biases = |layer: usize| self.biases.get(&layer).cloned().unwrap_or_default();
        let share = 1.0 / n_micro as f64;
        let at = self.place(stage);
        // Side by side: most of Burn's CPU operations use one thread. Each micro-batch has leaves of
        // its own, since graphs that share a leaf are one graph, which one thread at a time may use.
        let parts: Vec<Result<(Gradients, PassStats)>> = batches
            .par_iter()
            .zip(&per_target)
            .map(|(batch, per_target)| {
                let leaves = self.net.leaves(|role| stage.trains(role));
                let result = forward(
                    &self.config,
                    &leaves,
                    batch,
                    options,
                    per_target,
                    share,
                    &biases,
                )
                .map_err(|error| error.at(&at))?;
                Ok((backward(&leaves, result.surrogate), result.stats))
            })
            .collect();
        let mut gradients = Gradients::new();
        let mut totals = PassStats::default();
        for part in parts {
            let (part, stats) = part?;
            for (name, gradient) in part {
                let sum = match gradients.remove(&name) {
                    None => gradient,
                    Some(sum) => sum + gradient,
                };
                gradients.insert(name, sum);
            }
            totals.add(stats);
        }
        let learning_rate = stage.learning_rate_at(step);
        let settings = self.recipe.optimizer;
        let gradient_norm =
            self.optimizer
                .step(&mut self.net, gradients, learning_rate, &settings)?;
        if !gradient_norm.is_finite() {
            return Err(Error::NotFinite {
                what: "gradient norm".into(),
                value: gradient_norm,
                layer: 0,
                place: String::new(),
            }
            .at(&self.place(stage)));
        }
        for (layer, load) in &totals.loads {
            if let Some(bias) = self.biases.get_mut(layer) {
                balance(bias, load, stage.bias_speed);
            }
        }
        let n_tokens = (n_micro * stage.sequences * stage.length) as u64;
        let seconds = started.elapsed().as_secs_f64();
        self.progress.step += 1;
        self.progress.n_sequences += (n_micro * stage.sequences) as u64;
        self.progress.n_tokens += n_tokens;
        self.progress.seconds += seconds;
        Ok(Record {
            stage: self.progress.stage,
            stage_name: stage.name.clone(),
            step: self.progress.step,
            n_tokens: self.progress.n_tokens,
            seconds: self.progress.seconds,
            tokens_per_second: n_tokens as f64 / seconds,
            learning_rate,
            gradient_norm,
            loss: totals.loss(),
            mtp_loss: totals.mtp_loss(),
            validation_loss: None,
            load_ratio: totals.load_ratio(),
            selection: totals.selection.iter().map(SelectionRecord::from).collect(),
            validation_selection: Vec::new(),
        })
    }

    /// Measures on held-out sequences, always the same ones.
    fn validate(&self, stage: &Stage, record: &mut Record) -> Result<()> {
        let leaves = self.net.leaves(|_| false);
        let mut totals = PassStats::default();
        // V2 has none.
        let biases = |layer: usize| self.biases.get(&layer).cloned().unwrap_or_default();
        for batch in 0..self.options.validation_batches {
            let first = (batch * stage.sequences) as u64;
            let batch = self.batch(stage, Split::Validation, first)?;
            let mut options = self.pass_options(stage, true);
            options.main_loss = true;
            let none = vec![0.0; stage.sequences];
            let result = forward(&self.config, &leaves, &batch, options, &none, 1.0, &biases)
                .map_err(|error| error.at(&self.place(stage)))?;
            totals.add(result.stats);
        }
        record.validation_loss = totals.loss();
        record.validation_selection = totals.selection.iter().map(SelectionRecord::from).collect();
        Ok(())
    }

    /// Fills a parameter, to see what comes of it.
    #[cfg(test)]
    pub(crate) fn poison(&mut self, name: &str, value: f32) {
        let parameter = self.net.parameters.get_mut(name);
        let parameter = parameter.expect("the test names a parameter");
        parameter.tensor = parameter.tensor.clone() * 0.0 + value;
    }

    fn place(&self, stage: &Stage) -> String {
        format!("step {} of stage {:?}", self.progress.step + 1, stage.name)
    }
}

/// What a target weighs in the mean that is the loss of a step, by micro-batch and sequence.
pub(crate) fn target_weights(weighted: Weighted, batches: &[Batch]) -> Vec<Vec<f64>> {
    let counts: Vec<Vec<usize>> = batches.iter().map(Batch::n_targets).collect();
    let all = || counts.iter().flatten();
    let n_targets = all().sum::<usize>().max(1);
    let n_sequences = all().filter(|&&n| n > 0).count().max(1);
    let weight = |n: usize| match weighted {
        Weighted::ByTarget => 1.0 / n_targets as f64,
        Weighted::BySequence => 1.0 / (n_sequences * n.max(1)) as f64,
    };
    let of_batch = |counts: &Vec<usize>| counts.iter().map(|&n| weight(n)).collect();
    counts.iter().map(of_batch).collect()
}

/// Gradients of the trained leaves.
fn backward(leaves: &Weights, surrogate: Option<burn::Tensor<1>>) -> Gradients {
    let Some(surrogate) = surrogate else {
        return Gradients::new();
    };
    let mut all = surrogate.backward();
    let trained = leaves.iter().filter(|(_, leaf)| leaf.is_autodiff());
    let found = trained.filter_map(|(name, leaf)| {
        let gradient = leaf.grad_remove(&mut all)?;
        Some((name.to_owned(), gradient))
    });
    found.collect()
}

/// Refuses a model's folder for a run, and one where its log or curves would come over other files.
/// Whether a state is the run's own is seen when it is read.
fn check_folder(folder: &Path) -> Result<()> {
    file::check_folder(folder)?;
    for (name, kind) in [(LOG, log::KIND), (CURVES, file::SVG)] {
        let path = &folder.join(name);
        file::check_replaced(&Output { path, kind }, &[], true)?;
    }
    Ok(())
}

/// Refuses a recipe whose parts do not go together.
fn check_fit(recipe: &Recipe, config: &Config, tokenizer: &Tokenizer) -> Result<()> {
    let n = tokenizer.n_tokens();
    if n > config.vocab_size {
        return Err(Error::Setting {
            name: format!("vocab_size of {}", recipe.config.display()),
            found: config.vocab_size.to_string(),
            expected: format!("at least the {n} tokens of the tokenizer"),
        });
    }
    for stage in &recipe.stages {
        let longest = config.max_position_embeddings;
        if stage.length > longest {
            return Err(Error::Setting {
                name: format!("length of stage {:?}", stage.name),
                found: stage.length.to_string(),
                expected: format!("at most max_position_embeddings, {longest}"),
            });
        }
        if let Some(indexer) = config.indexer.as_ref().filter(|_| stage.kind().indexer)
            && indexer.owners.contains(&false)
        {
            return Err(Error::Setting {
                name: format!("kind of stage {:?}", stage.name),
                found: stage.kind.clone(),
                expected: "pretrain: layers that share an indexer are not trained yet".into(),
            });
        }
        if stage.kind().indexer && config.indexer.is_none() {
            return Err(Error::Setting {
                name: format!("kind of stage {:?}", stage.name),
                found: stage.kind.clone(),
                expected: "a kind without indexer: the model has none".into(),
            });
        }
        if stage.mtp_weight > 0.0 && config.num_nextn_predict_layers == 0 {
            return Err(Error::Setting {
                name: format!("mtp_weight of stage {:?}", stage.name),
                found: stage.mtp_weight.to_string(),
                expected: "0: the model has no MTP layer".into(),
            });
        }
    }
    Ok(())
}

/// `b_e += γ · sign(mean load − load of e)`. Source: V3 report, auxiliary-loss-free balancing.
pub(crate) fn balance(bias: &mut [f32], load: &[u32], speed: f64) {
    let mean = f64::from(load.iter().sum::<u32>()) / load.len() as f64;
    for (bias, &load) in bias.iter_mut().zip(load) {
        let short = mean - f64::from(load);
        if short != 0.0 {
            *bias += (speed * short.signum()) as f32;
        }
    }
}

fn layer_of(name: &str) -> usize {
    let number = name
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split('.').next());
    number
        .and_then(|number| number.parse().ok())
        .expect("routing biases belong to numbered layers")
}
