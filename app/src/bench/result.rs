//! What a bench found: a header that says on what, and a line for each measurement.

use engine::{Model, Source};
use serde_json::{Value, json};

use super::{Arguments, Mode, Test};
use crate::options::{KEY_FORMATS, LATENT_FORMATS, name_of};
use crate::terminal;

/// One line of the result.
pub struct Row {
    /// What was measured,
    pub test: Test,
    /// with this many tokens,
    pub n_tokens: usize,
    /// after this many,
    pub depth: usize,
    /// in this way of attention.
    pub mode: Mode,
    /// Tokens a second, one for each repeat.
    pub rates: Vec<f64>,
}

impl Row {
    fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len() as f64
    }

    /// Of the sample; `None` for a single measurement, which has none.
    fn standard_deviation(&self) -> Option<f64> {
        let n = self.rates.len();
        let mean = self.mean();
        let squares: f64 = self.rates.iter().map(|rate| (rate - mean).powi(2)).sum();
        (n > 1).then(|| (squares / (n - 1) as f64).sqrt())
    }

    /// Its line of the Markdown table.
    pub fn line(&self) -> String {
        let spread = self
            .standard_deviation()
            .map_or_else(String::new, |spread| format!(" ± {spread:.2}"));
        format!(
            "| {} {} | {} | {} | {:.2}{spread} |\n",
            self.test.name(),
            self.n_tokens,
            self.depth,
            self.mode.name(),
            self.mean()
        )
    }

    /// Its entry of the JSON document.
    pub fn document(&self) -> Value {
        json!({
            "test": self.test.name(),
            "tokens": self.n_tokens,
            "depth": self.depth,
            "attention": self.mode.name(),
            "tokens_per_second": self.mean(),
            "standard_deviation": self.standard_deviation(),
            "samples": self.rates,
        })
    }
}

impl Arguments {
    /// What is measured on what, for people.
    pub fn header(&self, source: &Source, model: &Model) -> String {
        let parameters = model.config().parameters();
        let info = &model.device().info;
        let driver = if info.driver.is_empty() {
            String::new()
        } else {
            format!(", driver {}", info.driver)
        };
        let processor = processor().map_or_else(String::new, |name| format!(" on {name}"));
        let session = self.model.session_options();
        format!(
            "- sparsight {}\n\
             - device {} ({}{driver}), {} threads{processor}\n\
             - model {}: {}, {} parameters, {} active, {} of weights\n\
             - {} latents, {} keys, chunks of {} tokens, {} repeats, ids of seed {}\n\n\
             | test | context | attention | tokens/s |\n\
             |:--|--:|:--|--:|\n",
            crate::VERSION,
            info.id,
            info.name,
            rayon::current_num_threads(),
            source,
            model.config().architecture.name(),
            terminal::count(parameters.total),
            terminal::count(parameters.active),
            terminal::bytes(model.resident_bytes() as u64),
            name_of(LATENT_FORMATS, session.cache_format.latent),
            name_of(KEY_FORMATS, session.cache_format.keys),
            session.chunk_tokens,
            self.repeat,
            self.seed,
        )
    }

    /// What was measured on what, and every result, for scripts.
    pub fn document(&self, source: &Source, model: &Model, rows: &[Row]) -> Value {
        let parameters = model.config().parameters();
        let info = &model.device().info;
        let session = self.model.session_options();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("SPARSIGHT_COMMIT"),
            "device": {
                "id": info.id,
                "name": info.name,
                "backend": info.backend,
                "kind": info.kind.word(),
                "driver": info.driver,
            },
            "processor": processor(),
            "threads": rayon::current_num_threads(),
            "model": {
                "folder": source.to_string(),
                "architecture": model.config().architecture.model_type(),
                "parameters": parameters.total,
                "active_parameters": parameters.active,
                "resident_bytes": model.resident_bytes(),
            },
            "latent_cache": name_of(LATENT_FORMATS, session.cache_format.latent),
            "key_cache": name_of(KEY_FORMATS, session.cache_format.keys),
            "chunk_tokens": session.chunk_tokens,
            "index_topk": self.index_topk,
            "mha_prefill": self.mha_prefill,
            "seed": self.seed,
            "results": rows.iter().map(Row::document).collect::<Vec<_>>(),
        })
    }
}

/// What the system calls its processor, where it says so in a file.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_that_of_a_sample() {
        let row = |rates: &[f64]| Row {
            test: Test::Decode,
            n_tokens: 4,
            depth: 16,
            mode: Mode::Dense,
            rates: rates.to_vec(),
        };
        // Mean 5, squares 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32, over 7.
        let eight = row(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(eight.mean(), 5.0);
        assert_eq!(eight.standard_deviation(), Some((32.0_f64 / 7.0).sqrt()));
        assert_eq!(row(&[3.0]).line(), "| decode 4 | 16 | dense | 3.00 |\n");
    }
}
