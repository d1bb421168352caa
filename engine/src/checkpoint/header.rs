//! The header of a safetensors file: 8 bytes of length, then JSON, then the data it describes.
//!
//! Everything is checked here, and every problem names its tensor. The format allows neither gaps nor
//! overlaps, so a header that passes accounts for every byte of its file.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::StoredType;

/// As in the safetensors library: a header that claims more is an attack or a broken file.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: StoredType,
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub range: Range<usize>,
}

/// What the JSON says of a tensor.
#[derive(serde::Deserialize)]
struct Described {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in the order of their names' first mention.
struct Header(Vec<(String, Described)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            // A map would keep one of two in silence.
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!(
                    "tensor {name:?} stands there twice"
                )));
            }
            let described = map.next_value::<Described>();
            let described =
                described.map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
            entries.push((name, described));
        }
        Ok(Header(entries))
    }
}

/// The tensors of the file `bytes`, sorted by where they lie.
///
/// # Errors
/// What does not hold together, in words that follow the name of the file.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!(
            "has {} bytes, expected a safetensors file: at least 8 bytes of header length",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "claims a header of {length} bytes, expected at most {MAX_HEADER_BYTES}"
        ));
    }
    if length > rest.len() as u64 {
        return Err(format!(
            "claims a header of {length} bytes, but only {} follow its length; is the file cut off?",
            rest.len()
        ));
    }
    let (json, data) = rest.split_at(length as usize);
    let Header(described) =
        serde_json::from_slice(json).map_err(|error| format!("has a broken header: {error}"))?;
    let mut entries = described
        .into_iter()
        .map(|(name, described)| entry(name, described, bytes.len() - data.len(), data.len()))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
    check_layout(&entries, bytes.len() - data.len()..bytes.len())?;
    Ok(entries)
}

/// Checks one tensor by itself. The file's data starts at byte `data_start` and is `n_data` long.
fn entry(
    name: String,
    described: Described,
    data_start: usize,
    n_data: usize,
) -> Result<Entry, String> {
    let Described {
        dtype,
        shape,
        data_offsets: (start, end),
    } = described;
    let dtype = StoredType::from(dtype);
    if start > end {
        return Err(format!(
            "tensor {name:?} starts at offset {start}, after its end {end}"
        ));
    }
    if end > n_data as u64 {
        return Err(format!(
            "tensor {name:?} ends at offset {end}, but the file has {n_data} bytes of data; is it cut off?"
        ));
    }
    let bits = shape
        .iter()
        .try_fold(1_u64, |product, &side| product.checked_mul(side))
        .and_then(|elements| elements.checked_mul(dtype.bits() as u64));
    let stored = end - start;
    if bits != stored.checked_mul(8) || bits.is_none() {
        let wanted = bits.map_or("more than 2^64 bits".into(), |bits| match bits % 8 {
            0 => format!("{} bytes", bits / 8),
            _ => format!("{bits} bits"),
        });
        return Err(format!(
            "tensor {name:?} holds {stored} bytes, but {dtype} {shape:?} takes {wanted}"
        ));
    }
    let too_large = |_| format!("tensor {name:?} has shape {shape:?}, larger than memory can be");
    let shape = shape
        .iter()
        .map(|&side| usize::try_from(side))
        .collect::<Result<_, _>>();
    let shape = shape.map_err(too_large)?;
    let range = data_start + start as usize..data_start + end as usize;
    Ok(Entry {
        name,
        dtype,
        shape,
        range,
    })
}

/// Checks that sorted entries fill `data` without gap or overlap.
fn check_layout(entries: &[Entry], data: Range<usize>) -> Result<(), String> {
    let mut before: Option<&Entry> = None;
    for entry in entries {
        let end = before.map_or(data.start, |before| before.range.end);
        if entry.range.start != end {
            let what = if entry.range.start < end {
                "overlaps"
            } else {
                "leaves a hole after"
            };
            let (start, end) = (entry.range.start - data.start, end - data.start);
            let what = match before {
                Some(before) => format!("{what} tensor {:?}, which ends at {end}", before.name),
                None => format!("leaves a hole: the first tensor starts at {end}"),
            };
            return Err(format!("tensor {:?} at offset {start} {what}", entry.name));
        }
        before = Some(entry);
    }
    let end = before.map_or(data.start, |before| before.range.end);
    if end != data.end {
        return Err(format!(
            "has {} bytes after its last tensor, expected none",
            data.end - end
        ));
    }
    Ok(())
}
