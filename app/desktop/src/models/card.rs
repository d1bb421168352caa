//! What a checkpoint is and what it takes to run it, read without loading it.

use engine::cache::{KeyFormat, LatentFormat};
use engine::{Config, Result, Source};

/// Context lengths whose cost is shown, as far as the model holds them; its own limit comes last.
const CONTEXT_LENGTHS: &[usize] = &[2048, 4096, 16_384, 65_536, 131_072];

/// What is known of the machine's free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AvailableMemory {
    /// Bytes that programs can have without swapping.
    Known(u64),
    /// This system does not say in a way that is read here.
    Unknown,
}

impl AvailableMemory {
    /// As the system says now.
    #[cfg(target_os = "linux")]
    pub fn now() -> Self {
        let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        parse_meminfo(&told).map_or(Self::Unknown, Self::Known)
    }

    /// As the system says now.
    #[cfg(not(target_os = "linux"))]
    pub fn now() -> Self {
        Self::Unknown
    }
}

/// The bytes of the line `MemAvailable:   12345 kB`.
#[cfg(any(target_os = "linux", test))]
fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes that a context of a length takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextCost {
    /// Its length.
    pub n_tokens: usize,
    /// With caches that store what was computed.
    pub exact_bytes: u64,
    /// With the smallest formats.
    pub smallest_bytes: u64,
}

/// What a checkpoint is and needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// The folder's name, or that it is the embedded model.
    pub name: String,
    /// Where its files are.
    pub source: Source,
    /// How people call the architecture.
    pub architecture: String,
    /// Layers, without those for prediction.
    pub n_layers: usize,
    /// Whether the weights of the layer that predicts further are there.
    pub has_mtp: bool,
    /// Parameters in all.
    pub n_parameters: u64,
    /// Parameters that are read for a token.
    pub n_active: u64,
    /// Experts of a layer, and how many a token uses; `None` without experts.
    pub experts: Option<(usize, usize)>,
    /// Positions that attention selects; `None` if it is dense.
    pub index_topk: Option<usize>,
    /// Bytes of the weights as stored; `None` if the folder holds none.
    pub stored_bytes: Option<u64>,
    /// Tokens that the context holds.
    pub max_context: usize,
    /// What contexts cost, shortest first; the last one is the full context.
    pub contexts: Vec<ContextCost>,
    /// Whether there is a tokenizer.
    pub has_tokenizer: bool,
    /// Why the weights do not fit the config.
    pub misfit: Option<String>,
    /// Free memory when the card was read.
    pub available: AvailableMemory,
}

impl ModelCard {
    /// Reads the config and the heads of the weight files.
    ///
    /// # Errors
    /// A config or a weight file that cannot be read. Weights that can be read and do not fit the
    /// config are no error: the card says so.
    pub fn read(source: &Source) -> Result<Self> {
        let config = source.config()?;
        let mut weights = if source.has_weights() {
            Some(source.checkpoint()?)
        } else {
            None
        };
        let parameters = config.parameters();
        let misfit = weights
            .as_mut()
            .and_then(|weights| weights.fit(&config).err());
        Ok(Self {
            name: name(source),
            source: source.clone(),
            architecture: config.architecture.name().into(),
            n_layers: config.num_hidden_layers,
            has_mtp: weights
                .as_ref()
                .is_some_and(|weights| weights.has_mtp(&config)),
            n_parameters: parameters.total,
            n_active: parameters.active,
            experts: config
                .moe
                .as_ref()
                .map(|moe| (moe.n_routed_experts, moe.num_experts_per_tok)),
            index_topk: config.indexer.as_ref().map(|indexer| indexer.index_topk),
            stored_bytes: weights.as_ref().map(|weights| weights.n_bytes()),
            max_context: config.max_position_embeddings,
            contexts: context_costs(&config),
            has_tokenizer: source.has_tokenizer(),
            misfit: misfit.map(|misfit| misfit.to_string()),
            available: AvailableMemory::now(),
        })
    }

    /// Bytes of the weights with a full, exact context; `None` without weights.
    pub fn needed_bytes(&self) -> Option<u64> {
        let context = self.contexts.last().map_or(0, |cost| cost.exact_bytes);
        Some(self.stored_bytes?.saturating_add(context))
    }
}

/// What to call the model.
pub fn name(source: &Source) -> String {
    match source {
        Source::Embedded(_) => "Sparsight tiny".into(),
        Source::Folder(folder) => folder.file_name().map_or_else(
            || folder.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        ),
    }
}

fn context_costs(config: &Config) -> Vec<ContextCost> {
    let limit = config.max_position_embeddings;
    let shorter = CONTEXT_LENGTHS
        .iter()
        .copied()
        .filter(|&length| length < limit);
    let exact = config.cache_bytes_per_token(LatentFormat::F32, KeyFormat::F32) as u64;
    let smallest = config.cache_bytes_per_token(LatentFormat::FlashMla, KeyFormat::Fp8) as u64;
    let costs = shorter.chain([limit]).map(|n_tokens| ContextCost {
        n_tokens,
        exact_bytes: exact.saturating_mul(n_tokens as u64),
        smallest_bytes: smallest.min(exact).saturating_mul(n_tokens as u64),
    });
    costs.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_or_not_known() {
        let told = "MemTotal:       24689764 kB\nMemAvailable:   20000000 kB\nSwapFree: 0 kB\n";
        assert_eq!(parse_meminfo(told), Some(20_480_000_000));
        for odd in [
            "",
            "MemAvailable:",
            "MemAvailable: x kB",
            "MemAvailable: 1 MB",
            "MemAvailable: 99999999999999999999 kB",
            "MemAvailable: 18446744073709551615 kB",
        ] {
            assert_eq!(parse_meminfo(odd), None, "{odd:?}");
        }
    }

    #[cfg(feature = "embedded-model")]
    #[test]
    fn the_embedded_model_has_a_card() {
        let source = Source::Embedded(&tiny::TINY);
        let card = ModelCard::read(&source).unwrap();
        let config = source.config().unwrap();
        assert_eq!(card.name, "Sparsight tiny");
        assert_eq!(card.n_layers, config.num_hidden_layers);
        assert_eq!(card.misfit, None);
        assert!(card.has_tokenizer);
        assert!(card.n_active < card.n_parameters);
        // One byte a parameter is less than any format here takes, eight are more.
        let stored = card.stored_bytes.unwrap();
        assert!(
            stored > card.n_parameters && stored < 8 * card.n_parameters,
            "{stored}"
        );
        assert_eq!(
            card.contexts.last().unwrap().n_tokens,
            config.max_position_embeddings
        );
        assert!(card.contexts.is_sorted_by_key(|cost| cost.n_tokens));
        let exact = card.contexts.last().unwrap().exact_bytes;
        assert_eq!(card.needed_bytes(), Some(stored + exact));
    }

    #[cfg(feature = "embedded-model")]
    #[test]
    fn a_folder_without_weights_can_be_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), tiny::TINY.config).unwrap();
        let card = ModelCard::read(&folder.path().into()).unwrap();
        assert_eq!(card.stored_bytes, None);
        assert_eq!(card.needed_bytes(), None);
        assert!(!card.has_tokenizer);
        assert!(ModelCard::read(&folder.path().join("none").as_path().into()).is_err());
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        assert!(ModelCard::read(&folder.path().into()).is_err());
    }
}
