//! Options that several commands share, under one name and with one help text.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use engine::cache::{KeyFormat, LatentFormat};
use engine::generation_config::SamplingDefaults;
use engine::model::{ForwardOptions, Intervention, LoadOptions, Selector};
use engine::sampler::SamplerOptions;
use engine::session::DEFAULT_CHUNK_TOKENS;
use engine::{CacheFormat, Config, SessionOptions, Source};

/// Every format of the latent cache under its name, exact first.
pub const LATENT_FORMATS: &[(&str, LatentFormat)] = &[
    ("f32", LatentFormat::F32),
    ("bf16", LatentFormat::Bf16),
    ("fp8", LatentFormat::Fp8),
    ("flashmla", LatentFormat::FlashMla),
];

/// Every format of the indexer's key cache under its name, exact first.
pub const KEY_FORMATS: &[(&str, KeyFormat)] = &[("f32", KeyFormat::F32), ("fp8", KeyFormat::Fp8)];

fn named<T: Copy + Send + Sync + 'static>(
    table: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let names = table.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names).map(move |found| {
        let row = table.iter().find(|(name, _)| *name == found);
        row.expect("clap lets only names of the table through").1
    })
}

/// The name of a format in its table.
pub fn name_of<T: PartialEq>(table: &[(&'static str, T)], format: T) -> &'static str {
    let row = table.iter().find(|row| row.1 == format);
    row.expect("the table has every format").0
}

/// What to load, and onto what.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Folder of the checkpoint: config.json, safetensors and, for text, tokenizer.json [default: the
    /// small model inside the program]
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// What to compute on: an id or a part of a name from `sparsight devices` [default: the best]
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub device: Option<String>,

    /// How latents are cached; f32 is exact
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = named(LATENT_FORMATS))]
    latent_cache: LatentFormat,

    /// How the indexer's keys are cached; f32 is exact
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = named(KEY_FORMATS))]
    key_cache: KeyFormat,

    /// Prompt tokens fed at a time
    #[arg(long, value_name = "TOKENS", default_value_t = default_chunk())]
    chunk: NonZeroUsize,

    /// Do not look for NaN and infinity in the weights, which reads all of them once
    #[arg(long)]
    no_check: bool,
}

impl ModelArgs {
    /// Where the model's files are.
    ///
    /// # Errors
    /// Neither `--model` nor a model inside the program.
    pub fn source(&self) -> anyhow::Result<Source> {
        self.model
            .as_deref()
            .map_or_else(|| embedded("--model"), |folder| Ok(folder.into()))
    }

    /// How to load.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            check_values: !self.no_check,
        }
    }

    /// How a session of it works.
    pub fn session_options(&self) -> SessionOptions {
        SessionOptions {
            cache_format: CacheFormat {
                latent: self.latent_cache,
                keys: self.key_cache,
            },
            chunk_tokens: self.chunk.get(),
        }
    }
}

/// The model inside the program, for a command that was given no `argument`.
///
/// # Errors
/// The program was built without one.
#[cfg(feature = "embedded-model")]
pub fn embedded(_argument: &str) -> anyhow::Result<Source> {
    Ok(Source::Embedded(&tiny::TINY))
}

/// The model inside the program, for a command that was given no `argument`.
///
/// # Errors
/// The program was built without one.
#[cfg(not(feature = "embedded-model"))]
pub fn embedded(argument: &str) -> anyhow::Result<Source> {
    bail!(
        "no {argument}, expected the folder of a checkpoint: this program was built without the \
         feature embedded-model, so it has no model inside"
    )
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Take the best token each time, as with --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    greedy: bool,

    /// Divides the scores: less is more sober [default: the model's own, else 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,

    /// Draw among the fewest best tokens that have this probability together [default: the model's
    /// own, else 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,

    /// Draw among this many best tokens; 0 for all [default: the model's own, else 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Draw among tokens with at least this share of the best one's probability [default: the
    /// model's own, else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f64>,

    /// Divides the scores of tokens seen before, prompt included; 1 is neutral [default: the model's
    /// own, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,

    /// Taken off the score of a generated token
    #[arg(long, value_name = "X", allow_negative_numbers = true,
          default_value_t = SamplerOptions::default().presence_penalty)]
    presence_penalty: f64,

    /// Taken off the score of a generated token once for each time it came
    #[arg(long, value_name = "X", allow_negative_numbers = true,
          default_value_t = SamplerOptions::default().frequency_penalty)]
    frequency_penalty: f64,

    /// Chooses the random stream. Fixed, so that a command gives the same text each time
    #[arg(long, value_name = "N", default_value_t = SamplerOptions::default().seed)]
    seed: u64,
}

impl SamplingArgs {
    /// The engine's options, checked: what was given, else what the model's makers advise. With them a
    /// sentence about the advice that was taken, for the start of a run; `None` if none was.
    ///
    /// # Errors
    /// The first option outside its range, or advice that cannot be taken.
    pub fn options(&self, source: &Source) -> engine::Result<(SamplerOptions, Option<String>)> {
        let temperature = if self.greedy {
            Some(0.0)
        } else {
            self.temperature
        };
        let advice = source.sampling_defaults()?;
        let advised = advice.options();
        let options = SamplerOptions {
            temperature: temperature.unwrap_or(advised.temperature),
            top_p: self.top_p.unwrap_or(advised.top_p),
            top_k: self.top_k.unwrap_or(advised.top_k),
            min_p: self.min_p.unwrap_or(advised.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(advised.repetition_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            ..advised
        };
        options.check()?;
        // Where the best token is taken, nothing is truncated.
        let draws = !options.is_greedy();
        let taken = SamplingDefaults {
            temperature: advice.temperature.filter(|_| temperature.is_none()),
            top_p: advice.top_p.filter(|_| draws && self.top_p.is_none()),
            top_k: advice.top_k.filter(|_| draws && self.top_k.is_none()),
            min_p: advice.min_p.filter(|_| draws && self.min_p.is_none()),
            repetition_penalty: advice
                .repetition_penalty
                .filter(|_| self.repetition_penalty.is_none()),
        };
        let said = format!("sampling by the model's generation_config.json: {taken}");
        Ok((
            options,
            (taken != SamplingDefaults::default()).then_some(said),
        ))
    }
}

/// What ends a text.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stopping")]
pub struct StopArgs {
    /// End at this text, which is not shown; may be given several times
    #[arg(long, value_name = "STRING", allow_hyphen_values = true,
          value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,

    /// End at this token id too; may be given several times
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,

    /// Go on where the model ends its text
    #[arg(long)]
    ignore_eos: bool,
}

impl StopArgs {
    /// Ids that end a text, of a model that ends its own with `eos`.
    pub fn ids(&self, eos: &[u32]) -> Vec<u32> {
        let eos = if self.ignore_eos { &[] } else { eos };
        eos.iter().chain(&self.stop_id).copied().collect()
    }
}

/// What attention may read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Attention")]
pub struct AttentionArgs {
    /// Positions that a token may read, instead of the checkpoint's own number
    #[arg(long, value_name = "N", conflicts_with = "dense")]
    index_topk: Option<NonZeroUsize>,

    /// Read every position, as if there were no selection
    #[arg(long)]
    dense: bool,

    /// Who chooses the positions that a token may read: indexer, recent (the last ones), or
    /// random[:SEED]; the last two are for comparison and need the CPU or a portable device
    #[arg(long, value_name = "NAME", default_value = "indexer", value_parser = parse_selector,
          conflicts_with = "dense")]
    selector: Selector,

    /// Use the expanded (MHA) form of attention for prompts: bits then depend on --chunk
    #[arg(long)]
    mha_prefill: bool,

    /// Hide this position from every token after it; may be given several times. Needs the CPU or a
    /// portable device, as --pin-position and --expert-off do
    #[arg(long, value_name = "POSITION", allow_negative_numbers = true)]
    ban_position: Vec<usize>,

    /// Have every token from this position on read it, in the place of the lowest score that was
    /// selected; may be given several times
    #[arg(long, value_name = "POSITION", allow_negative_numbers = true)]
    pin_position: Vec<usize>,

    /// Route no token to this expert; may be given several times
    #[arg(long, value_name = "LAYER:EXPERT", value_parser = parse_expert)]
    expert_off: Vec<(usize, usize)>,
}

impl AttentionArgs {
    /// The engine's options.
    ///
    /// # Errors
    /// A selection asked of a model that makes none.
    pub fn options(&self, config: &Config) -> anyhow::Result<ForwardOptions> {
        ensure!(
            self.selector == Selector::Indexer || config.indexer.is_some(),
            "--selector: the model has no indexer, so it reads every position"
        );
        Ok(ForwardOptions {
            index_topk: index_topk(self.index_topk, config)?,
            selector: self.selector,
            dense: self.dense,
            mha_prefill: self.mha_prefill,
            intervention: Intervention {
                pinned: self.pin_position.iter().copied().collect(),
                banned: self.ban_position.iter().copied().collect(),
                experts_off: self.expert_off.iter().copied().collect(),
                ..Intervention::default()
            },
        })
    }
}

/// `LAYER:EXPERT`.
fn parse_expert(text: &str) -> anyhow::Result<(usize, usize)> {
    let parse = || {
        let (layer, expert) = text.split_once(':')?;
        Some((layer.parse().ok()?, expert.parse().ok()?))
    };
    parse().with_context(|| {
        format!("found {text:?}, expected two whole numbers, LAYER:EXPERT, as in 3:17")
    })
}

/// `indexer`, `recent` or `random[:SEED]`.
fn parse_selector(text: &str) -> anyhow::Result<Selector> {
    let (name, seed) = match text.split_once(':') {
        Some((name, seed)) => (name, Some(seed)),
        None => (text, None),
    };
    match (name, seed) {
        ("indexer", None) => Ok(Selector::Indexer),
        ("recent", None) => Ok(Selector::Recent),
        ("random", seed) => {
            let seed = seed.unwrap_or("0").parse();
            let seed = seed.ok().with_context(|| {
                format!("found {text:?}, expected a whole number after random:")
            })?;
            Ok(Selector::Random { seed })
        }
        _ => bail!("found {text:?}, expected indexer, recent or random[:SEED]"),
    }
}

/// `--index-topk` for a model of this config, refused before the model is loaded.
///
/// # Errors
/// The model has no indexer.
pub fn index_topk(k: Option<NonZeroUsize>, config: &Config) -> anyhow::Result<Option<usize>> {
    ensure!(
        k.is_none() || config.indexer.is_some(),
        "--index-topk: the model has no indexer, so it reads every position"
    );
    Ok(k.map(NonZeroUsize::get))
}

/// `--chunk` unless given.
pub fn default_chunk() -> NonZeroUsize {
    NonZeroUsize::new(DEFAULT_CHUNK_TOKENS).expect("the engine's default holds a token")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn experts_come_as_two_numbers() {
        assert_eq!(parse_expert("3:17").unwrap(), (3, 17));
        assert_eq!(parse_expert("0:0").unwrap(), (0, 0));
        for text in ["", "3", "3:", ":3", "3:-1", "a:1", "1:2:3", "1: 2"] {
            let error = parse_expert(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn selectors_come_by_name() {
        for (text, selector) in [
            ("indexer", Selector::Indexer),
            ("recent", Selector::Recent),
            ("random", Selector::Random { seed: 0 }),
            (
                "random:18446744073709551615",
                Selector::Random { seed: u64::MAX },
            ),
        ] {
            assert_eq!(parse_selector(text).unwrap(), selector);
            assert!(text.starts_with(selector.name()));
        }
        for text in [
            "",
            "Recent",
            "recent:",
            "recent:1",
            "indexer:0",
            "random:",
            "random:-1",
            "random:x",
            "random:18446744073709551616",
        ] {
            let error = parse_selector(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
