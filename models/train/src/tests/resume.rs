//! A run that was interrupted ends as one that was not, to the bit.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use burn::tensor::Device;
use serde_json::json;

use super::config_json;
use crate::Result;
use crate::checkpoint::STATE;
use crate::export::{self, Store};
use crate::log::{self, LOG, Record};
use crate::recipe::Recipe;
use crate::run::{Run, RunOptions};

/// A folder with a recipe, its config and its tokenizer.
pub(super) struct Case {
    pub(super) folder: tempfile::TempDir,
}

/// Two stages that differ in what they train, with two micro-batches each.
pub(super) const RECIPE: &str = r#"
seed = 7
config = "config.json"
tokenizer = "tokenizer.json"
init_std = 0.1

[optimizer]
beta_1 = 0.9
beta_2 = 0.95
epsilon = 1e-8
weight_decay = 0.1
clip = 1.0

[[stage]]
name = "first"
kind = "pretrain"
steps = 3
length = 21
sequences = 2
micro_batches = 2
learning_rate = 3e-3
final_learning_rate = 1e-3
warmup_steps = 2
mtp_weight = 0.3
balance_weight = 1e-2
bias_speed = 0.01
mixture = { story = 0.5, sums = 0.3, copy = 0.2 }

[[stage]]
name = "second"
kind = "sparse"
steps = 4
length = 33
sequences = 1
micro_batches = 2
learning_rate = 1e-3
final_learning_rate = 1e-4
mtp_weight = 0.1
bias_speed = 0.01
mixture = { chat = 1.0 }
"#;

/// The bytes of a small tokenizer, made once.
pub(super) fn tokenizer() -> &'static str {
    static TOKENIZER: OnceLock<String> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let texts = crate::data::tokenizer_texts(None, 3, 5).unwrap();
        let trained = crate::bpe::train(texts.into_iter(), 320).unwrap();
        trained.to_string(false).unwrap()
    })
}

impl Case {
    pub(super) fn new(recipe: &str) -> Self {
        let mut config = config_json();
        config["vocab_size"] = json!(324);
        let folder = tempfile::tempdir().unwrap();
        let case = Self { folder };
        case.write("config.json", &config.to_string());
        case.write("tokenizer.json", tokenizer());
        case.write("recipe.toml", recipe);
        case
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn open(&self, run: &str) -> Result<Run> {
        self.open_with(run, 50)
    }

    fn open_with(&self, run: &str, save_every: usize) -> Result<Run> {
        open_in(self.folder.path(), run, save_every)
    }
}

/// The run of this name in a case's folder.
pub(super) fn open_in(folder: &Path, run: &str, save_every: usize) -> Result<Run> {
    let options = RunOptions {
        folder: folder.join(run),
        texts: None,
        device: Device::flex(),
        save_every,
        validate_every: 2,
        validation_batches: 1,
    };
    Run::open(Recipe::open(&folder.join("recipe.toml"))?, options)
}

/// Takes `n` steps, or all that are left.
pub(super) fn go(run: &mut Run, n: usize) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    run.run(&mut |_, record| {
        records.push(record.clone());
        if records.len() == n {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(records)
}

/// Every tensor of a state, moments included.
fn state(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(folder.join(STATE)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.data().to_vec()))
        .collect()
}

/// What a step was like, apart from the time it took.
fn seen(folder: &Path) -> Vec<Record> {
    let mut records = log::read(&folder.join(LOG)).unwrap();
    for record in &mut records {
        (record.seconds, record.tokens_per_second) = (0.0, 0.0);
    }
    records
}

fn assert_same(case: &Case, a: &str, b: &str) {
    let (a, b) = (case.path(a), case.path(b));
    let (of_a, of_b) = (state(&a), state(&b));
    assert_eq!(of_a.len(), of_b.len());
    for (name, bytes) in &of_a {
        assert!(bytes == &of_b[name], "{name} differs");
    }
    let lines = |folder: &Path| format!("{:#?}", seen(folder));
    assert_eq!(lines(&a), lines(&b));
    let steps: Vec<_> = seen(&a).iter().map(|r| (r.stage, r.step)).collect();
    assert_eq!(
        steps,
        [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4)]
    );
}

#[test]
fn a_run_interrupted_at_any_step_ends_the_same() {
    let case = Case::new(RECIPE);
    let mut straight = case.open("straight").unwrap();
    let records = go(&mut straight, usize::MAX).unwrap();
    // A conversation cut to 35 tokens may end before the model's part begins: a step without targets.
    assert!(records.iter().all(|r| r.loss.is_none_or(f64::is_finite)));
    assert!(records[1].validation_loss.is_some());
    for first in [1, 3, 5] {
        let name = format!("stopped after {first}");
        let taken = go(&mut case.open(&name).unwrap(), first).unwrap();
        assert_eq!(taken.len(), first);
        let left = go(&mut case.open(&name).unwrap(), usize::MAX).unwrap();
        assert_eq!(left.len(), 7 - first);
        assert_same(&case, "straight", &name);
    }
    // Nothing is left to do, and nothing changes.
    assert!(
        go(&mut case.open("straight").unwrap(), 1)
            .unwrap()
            .is_empty()
    );
    assert_same(&case, "straight", "stopped after 1");
}

/// A killed process leaves a state some steps old, a log that is ahead of it, perhaps with half a
/// line, and half a new state.
#[test]
fn a_killed_run_ends_the_same() {
    let case = Case::new(RECIPE);
    go(&mut case.open("straight").unwrap(), usize::MAX).unwrap();
    go(&mut case.open("killed").unwrap(), 2).unwrap();
    let old = std::fs::read(case.path("killed").join(STATE)).unwrap();
    go(&mut case.open("killed").unwrap(), 3).unwrap();
    let new = std::fs::read(case.path("killed").join(STATE)).unwrap();
    std::fs::write(case.path("killed").join(STATE), &old).unwrap();
    let part = case.path("killed/.sparsight.1.0.part");
    std::fs::write(&part, &new[..new.len() / 2]).unwrap();
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = std::fs::File::options().write(true).open(&part).unwrap();
    file.set_modified(an_hour_ago).unwrap();
    let log = case.path("killed").join(LOG);
    let mut text = std::fs::read_to_string(&log).unwrap();
    let line = text.lines().next().unwrap().to_owned();
    text.push_str(&line[..line.len() / 2]);
    std::fs::write(&log, text).unwrap();
    assert_eq!(
        go(&mut case.open("killed").unwrap(), usize::MAX)
            .unwrap()
            .len(),
        5
    );
    assert_same(&case, "straight", "killed");
    assert!(!part.exists());
}

/// How often a state is written is no part of what is computed.
#[test]
fn saving_changes_nothing() {
    let case = Case::new(RECIPE);
    go(&mut case.open_with("rarely", 1000).unwrap(), usize::MAX).unwrap();
    go(&mut case.open_with("often", 1).unwrap(), usize::MAX).unwrap();
    assert_same(&case, "rarely", "often");
}

/// The checkpoint is where a run begins, and is not looked at again once the run has a state.
#[test]
fn a_run_that_starts_from_a_checkpoint() {
    let case = Case::new(RECIPE);
    let first = case.open("first").unwrap();
    let json = std::fs::read_to_string(case.path("config.json")).unwrap();
    export::write(first.net(), &json, Store::F32, &case.path("weights")).unwrap();
    go(&mut case.open("first").unwrap(), usize::MAX).unwrap();
    let recipe = RECIPE.replace("init_std", "start_from = \"weights\"\ninit_std");
    case.write("recipe.toml", &recipe);
    go(&mut case.open("second").unwrap(), 2).unwrap();
    std::fs::remove_dir_all(case.path("weights")).unwrap();
    go(&mut case.open("second").unwrap(), usize::MAX).unwrap();
    assert_same(&case, "first", "second");
    let error = case.open("third").map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("weights"), "{error}");
}
