//! A checkpoint in several files, and the index that says which tensor lies where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::{Checkpoint, read_file};
use crate::{Error, Result, folder, text_file};

/// The index of DeepSeek-V3.2 has some 9 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// So many missing shards are named.
const MAX_NAMED: usize = 3;

/// Maps every shard that the index names.
pub(super) fn open(folder: &Path, path: &Path) -> Result<Checkpoint> {
    let bad = |problem: String| Error::BadFile {
        path: path.into(),
        problem,
    };
    let text = text_file::read_short(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| bad(format!("is no index of shards: {error}")))?;

    let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if shards.is_empty() {
        return Err(bad("names no shards, expected at least one".into()));
    }
    if let Some(shard) = shards.iter().find(|shard| !stays_inside(shard)) {
        return Err(bad(format!(
            "names the shard {shard:?}, expected a file below its own folder"
        )));
    }
    let missing: Vec<String> = shards
        .iter()
        .filter(|shard| !folder.join(shard).exists())
        .map(|shard| format!("{shard:?}"))
        .collect();
    if !missing.is_empty() {
        let named = &missing[..missing.len().min(MAX_NAMED)];
        let more = if missing.len() > MAX_NAMED {
            ", …"
        } else {
            ""
        };
        let why = folder::unfinished(folder).map_or(String::new(), |why| format!("; {why}"));
        return Err(bad(format!(
            "names {} shards, of which {} are not there: {}{more}{why}",
            shards.len(),
            missing.len(),
            named.join(", ")
        )));
    }

    let mut tensors = BTreeMap::new();
    let mut shard_of_tensor: BTreeMap<String, &str> = BTreeMap::new();
    for shard in shards {
        for (name, tensor) in read_file(&folder.join(shard))? {
            if let Some(other) = shard_of_tensor.insert(name.clone(), shard) {
                return Err(bad(format!(
                    "names shards that both hold tensor {name:?}: {other:?} and {shard:?}"
                )));
            }
            tensors.insert(name, tensor);
        }
    }
    // The other way round is allowed: some conversions leave scales out of the index.
    let lost = |(name, shard): &(&String, &String)| {
        shard_of_tensor.get(*name).copied() != Some(shard.as_str())
    };
    if let Some((name, shard)) = index.weight_map.iter().find(lost) {
        return Err(bad(format!(
            "says that tensor {name:?} is in {shard:?}, where it is not"
        )));
    }
    Checkpoint::of(tensors, path.into())
}

/// Whether a shard's path names something below the folder of its index, on every system.
fn stays_inside(shard: &str) -> bool {
    let path = Path::new(shard);
    let mut components = path.components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !shard.contains(['\\', ':', '\0'])
}
