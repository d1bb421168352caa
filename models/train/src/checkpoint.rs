//! Where a run stands, in one safetensors file: weights, moments of the optimiser, and how far it is.
//!
//! The file is written beside the old one, flushed, and renamed over it: whenever the process dies, one
//! of the two is there whole. Everything drawn is a function of the seed and of counters, so that the
//! counters are all the state that random numbers have.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use burn::Tensor;
use burn::tensor::{DType, Device, TensorData};
use engine::Config;
use engine::config::TensorKind;
use engine::file::write_whole;
use engine::host::{Weight, vector};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::adamw::AdamW;
use crate::net::Net;
use crate::pass::read;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// The file's name in the folder of a run.
pub const STATE: &str = "state.safetensors";

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The stage it is in.
    pub stage: usize,
    /// Steps done in that stage.
    pub step: usize,
    /// Sequences drawn in all stages.
    pub n_sequences: u64,
    /// Tokens read in all stages.
    pub n_tokens: u64,
    /// Seconds spent on steps.
    pub seconds: f64,
}

/// What the header says beside the tensors.
#[derive(Serialize, Deserialize)]
struct Header {
    progress: Progress,
    n_steps: u64,
    #[serde(flatten)]
    identity: Identity,
}

/// What a state belongs to. Stages may change while a run is under way, these may not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The recipe's seed.
    pub seed: u64,
    /// The text of the model's `config.json`.
    pub config: String,
    /// SHA-256 of the tokenizer's file.
    pub tokenizer: String,
}

impl Identity {
    /// That of a recipe.
    ///
    /// # Errors
    /// A file that it names cannot be read.
    pub fn of(recipe: &Recipe) -> Result<Self> {
        let config = engine::text_file::read(&recipe.config)?;
        let path = &recipe.tokenizer;
        let tokenizer = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let digest = sha2::Sha256::digest(tokenizer);
        Ok(Self {
            seed: recipe.seed,
            config,
            tokenizer: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// What `other` has that this has not, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        if self.config != other.config {
            return Some("belongs to another config.json, expected that of the recipe".into());
        }
        if self.tokenizer != other.tokenizer {
            let (found, expected) = (&self.tokenizer, &other.tokenizer);
            return Some(format!(
                "belongs to the tokenizer of SHA-256 {found}, expected {expected}"
            ));
        }
        (self.seed != other.seed)
            .then(|| format!("was begun with seed {}, expected {}", self.seed, other.seed))
    }
}

/// Saves a run.
///
/// # Errors
/// The device failed, or the file could not be written.
pub fn save(
    folder: &Path,
    net: &Net,
    optimizer: &AdamW,
    progress: &Progress,
    identity: &Identity,
) -> Result<()> {
    let mut data: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut add = |name: String, tensor: &Tensor<2>| -> Result<()> {
        let bytes = read(tensor.clone())?
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        data.insert(name, (tensor.dims().to_vec(), bytes));
        Ok(())
    };
    for (name, parameter) in &net.parameters {
        add(name.clone(), &parameter.tensor)?;
    }
    for (name, (m, v)) in &optimizer.moments {
        add(format!("optimizer.m.{name}"), m)?;
        add(format!("optimizer.v.{name}"), v)?;
    }
    let header = Header {
        progress: progress.clone(),
        n_steps: optimizer.n_steps,
        identity: identity.clone(),
    };
    let header = serde_json::to_string(&header).expect("numbers and strings are JSON");
    let views = data.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.expect("the bytes are those of the shape"))
    });
    let metadata = HashMap::from([("sparsight_train".to_owned(), header)]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .expect("names are distinct and shapes fit their bytes");
    Ok(write_whole(&folder.join(STATE), &bytes)?)
}

/// The weights of a checkpoint folder in any format that the engine reads, to go on training with.
///
/// # Errors
/// The checkpoint is damaged, or does not fit `config`, MTP layer included.
pub fn weights(folder: &Path, config: &Config, device: &Device, dtype: DType) -> Result<Net> {
    let mut checkpoint = engine::Checkpoint::open(folder)?;
    checkpoint.fit(config)?;
    checkpoint.check_finite(&mut |_| ControlFlow::Continue(()))?;
    Net::from_values(config, device, dtype, |name, kind, _| {
        Ok(match kind {
            TensorKind::Matrix => Weight::load(&checkpoint, name)?.to_f32(),
            TensorKind::Vector => vector(&checkpoint, name)?,
        })
    })
}

/// Takes a run up again; `None` where the folder holds none.
///
/// # Errors
/// The file is damaged, or belongs to another model, tokenizer or seed.
pub fn open(
    folder: &Path,
    config: &Config,
    identity: &Identity,
    device: &Device,
    dtype: DType,
) -> Result<Option<(Net, AdamW, Progress)>> {
    let path = folder.join(STATE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    let bad = |problem: String| Error::BadFile {
        path: path.clone(),
        problem,
    };
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|error| bad(error.to_string()))?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|map| map.get("sparsight_train"));
    let header =
        header.ok_or_else(|| bad("found no entry \"sparsight_train\", expected one".into()))?;
    let header: Header = serde_json::from_str(header).map_err(|error| bad(error.to_string()))?;
    if let Some(problem) = header.identity.difference(identity) {
        return Err(bad(problem));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| bad(error.to_string()))?;
    let values = |name: &str, n: usize| -> Result<Vec<f32>> {
        let view = tensors
            .tensor(name)
            .map_err(|error| bad(format!("{name:?}: {error}")))?;
        let found: usize = view.shape().iter().product();
        if view.dtype() != Dtype::F32 || found != n {
            let dtype = view.dtype();
            return Err(bad(format!(
                "{name:?} has {found} of {dtype:?}, expected {n} of F32"
            )));
        }
        let floats: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        if let Some(at) = floats.iter().position(|value| !value.is_finite()) {
            return Err(bad(format!(
                "{name:?} holds {} at element {at}",
                floats[at]
            )));
        }
        Ok(floats)
    };
    let net = Net::from_values(config, device, dtype, |name, _, n| values(name, n))?;
    let mut optimizer = AdamW {
        n_steps: header.n_steps,
        moments: BTreeMap::new(),
    };
    let names: Vec<String> = tensors
        .names()
        .iter()
        .map(|name| name.to_string())
        .collect();
    for name in names
        .iter()
        .filter_map(|name| name.strip_prefix("optimizer.m."))
    {
        let Some(parameter) = net.parameters.get(name) else {
            return Err(bad(format!(
                "holds moments of {name:?}, which the model has not"
            )));
        };
        let shape = parameter.tensor.dims();
        let moment = |part: &str| -> Result<Tensor<2>> {
            let data = values(&format!("optimizer.{part}.{name}"), shape[0] * shape[1])?;
            Ok(Tensor::from_data(
                TensorData::new(data, shape),
                (device, dtype),
            ))
        };
        optimizer
            .moments
            .insert(name.into(), (moment("m")?, moment("v")?));
    }
    Ok(Some((net, optimizer, header.progress)))
}
