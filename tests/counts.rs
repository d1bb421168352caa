//! What a pass launches and moves, counted without a device: a regression in launches or bytes fails
//! here. The model is DeepSeek-V3.2 itself, by its config.

use std::path::Path;

use engine::cache::{KeyFormat, LatentFormat};
use engine::gpu::{
    CountCall, Launched, Profile, count, count_watched, counted_bits, least_layer_bytes,
};
use engine::model::ForwardOptions;
use engine::pass::WORKSPACE_BYTES;
use engine::trace::{Stage, Watch, WatchedRows};
use engine::{CacheFormat, Config};

/// The caches of the official engine: 656 and 132 bytes a token.
const FORMAT: CacheFormat = CacheFormat {
    latent: LatentFormat::FlashMla,
    keys: KeyFormat::Fp8,
};

fn config() -> Config {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/deepseek-v3.2");
    Config::open(&folder).unwrap()
}

fn call(position: usize, tokens: usize) -> CountCall {
    CountCall {
        position,
        tokens,
        format: FORMAT,
        options: ForwardOptions::default(),
        // What desktop GPUs grant: NVIDIA, AMD and Intel on Vulkan all report 4 GiB less a byte.
        max_binding_bytes: u32::MAX as usize,
    }
}

fn in_layer(profile: &Profile, layer: usize) -> Vec<Launched> {
    let of = |launched: &&Launched| launched.layer == Some(layer);
    profile.launches.iter().filter(of).copied().collect()
}

fn names(launches: &[Launched]) -> Vec<&'static str> {
    launches.iter().map(|launched| launched.op).collect()
}

fn bytes<'a>(launches: impl IntoIterator<Item = &'a Launched>) -> u64 {
    let all = launches.into_iter();
    all.map(|launched| launched.cost.read_bytes + launched.cost.write_bytes)
        .sum()
}

/// What attention launches for one token beyond `index_topk`.
const ATTENTION: &[&str] = &[
    "add_norm",
    "matvec", // q_a, indexer key, kv_a
    "matvec", // index weights: BF16 in the checkpoint
    "latents",
    "matvec", // q_b, indexer query
    "index_query",
    "index_scores",
    "top_k",
    "absorb",
    "attend",
    "attend_merge",
    "matvec", // o_proj
    "add_norm",
];

#[test]
fn a_decoded_token_launches_these_kernels_and_no_others() {
    let config = config();
    for position in [8_191, 32_767, 131_071] {
        let profile = count(&config, &call(position, 1)).unwrap();
        let dense = [ATTENTION, &["mlp_up", "mlp_down"]].concat();
        assert_eq!(names(&in_layer(&profile, 0)), dense, "at {position}");
        assert!(dense.len() <= 16);
        let moe = [ATTENTION, &["matvec", "route", "mlp_up", "mlp_down"]].concat();
        for layer in [3, 60] {
            assert_eq!(names(&in_layer(&profile, layer)), moe, "at {position}");
        }
        assert!(moe.len() <= 24);
        let outside: Vec<_> = profile
            .launches
            .iter()
            .filter(|launched| launched.layer.is_none())
            .map(|launched| launched.op)
            .collect();
        assert_eq!(outside, ["embed", "add_norm", "matvec"]);
    }
}

#[test]
fn a_short_context_skips_scoring_and_selection() {
    let profile = count(&config(), &call(2_047, 1)).unwrap();
    let launched = names(&in_layer(&profile, 5));
    for skipped in ["index_query", "index_scores", "top_k"] {
        assert!(!launched.contains(&skipped), "{launched:?}");
    }
    // The keys of the indexer are written all the same.
    assert!(launched.contains(&"latents"));
}

#[test]
fn layers_that_share_a_selection_do_no_work_for_it() {
    let folder = crate::fixture("glm-dsa");
    let config = Config::open(&folder).unwrap();
    let profile = count(&config, &call(60, 1)).unwrap();
    let shared: Vec<usize> = (0..config.num_hidden_layers)
        .filter(|&layer| !config.owns_indexer(layer))
        .collect();
    assert!(!shared.is_empty());
    for layer in shared {
        let launched = names(&in_layer(&profile, layer));
        for skipped in ["index_query", "index_scores", "top_k"] {
            assert!(!launched.contains(&skipped), "{launched:?}");
        }
    }
}

#[test]
fn a_decoded_token_moves_little_more_than_it_must() {
    let config = config();
    for position in [8_191, 32_767, 131_071] {
        let call = call(position, 1);
        let profile = count(&config, &call).unwrap();
        for layer in [0, 3] {
            let moved = bytes(&in_layer(&profile, layer));
            let least = least_layer_bytes(&config, &call, layer, &counted_bits(&config));
            let ratio = moved as f64 / least as f64;
            assert!(
                (1.0..=1.25).contains(&ratio),
                "layer {layer} at {position}: {moved} bytes, least {least}, ratio {ratio:.3}"
            );
        }
    }
}

#[test]
fn outside_the_scan_a_token_costs_the_same_at_4k_and_128k() {
    let config = config();
    let outside = |position| {
        let profile = count(&config, &call(position, 1)).unwrap();
        let scan = ["index_scores", "top_k"];
        bytes(
            profile
                .launches
                .iter()
                .filter(|launched| !scan.contains(&launched.op)),
        )
    };
    assert_eq!(outside(4_095), outside(131_071));
}

#[test]
fn the_scan_reads_132_bytes_a_key_once() {
    let config = config();
    let of = |position: usize| {
        let profile = count(&config, &call(position, 1)).unwrap();
        let scans = profile
            .launches
            .into_iter()
            .filter(|launched| launched.op == "index_scores");
        let scans: Vec<_> = scans.collect();
        assert_eq!(scans.len(), config.num_hidden_layers);
        scans[0].cost
    };
    let (near, far) = (of(8_191), of(131_071));
    let keys = 131_072 - 8_192;
    assert_eq!(far.read_bytes - near.read_bytes, 132 * keys);
    // One score a key.
    assert_eq!(far.write_bytes - near.write_bytes, 4 * keys);
}

#[test]
fn a_prompt_is_scored_in_rows_that_keep_within_the_workspace() {
    let config = config();
    let profile = count(&config, &call(131_072, 224)).unwrap();
    let scans: Vec<_> = in_layer(&profile, 3)
        .into_iter()
        .filter(|launched| launched.op == "index_scores")
        .collect();
    assert!(scans.len() > 1);
    for scan in scans {
        assert!(scan.cost.write_bytes <= engine::pass::WORKSPACE_BYTES as u64);
    }
}

#[test]
fn a_small_binding_cuts_experts_and_head_into_slices() {
    let mut call = call(0, 1);
    call.max_binding_bytes = 128 << 20;
    let profile = count(&config(), &call).unwrap();
    let n = |op| {
        profile
            .launches
            .iter()
            .filter(|launched| launched.op == op)
            .count()
    };
    // 14.7 MB a matrix: nine of 257 experts fit one binding.
    assert_eq!(n("mlp_up"), 3 + 58 * 257_usize.div_ceil(9));
}

#[test]
fn a_cache_grows_to_the_largest_binding_and_says_what_fits_beyond() {
    let config = config();
    let exact = CacheFormat::default();
    let bf16 = CacheFormat {
        latent: LatentFormat::Bf16,
        ..exact
    };
    // 2,304, 1,152 and 656 bytes of latents a token; 512 bytes of f32 keys, 132 in pages of 64.
    for (format, most) in [(exact, 58_254), (bf16, 116_508), (FORMAT, 163_840)] {
        let at = |position| {
            let small = CountCall {
                format,
                max_binding_bytes: 128 << 20,
                ..call(position, 1)
            };
            count(&config, &small)
        };
        // Just beyond a doubling, and the last token that there is room for.
        for position in [32_768, most.min(131_072) - 1] {
            at(position).unwrap_or_else(|error| panic!("{format:?} at {position}: {error}"));
        }
        if most < config.max_position_embeddings {
            let error = at(most).unwrap_err().to_string();
            assert!(error.contains(&format!("at most {most}")), "{error}");
        }
    }
}

#[test]
fn a_recorded_pass_keeps_within_the_workspace_and_is_read_behind_it() {
    let config = config();
    let everything = |rows| Watch::everything(rows);
    let dense = ForwardOptions {
        dense: true,
        ..ForwardOptions::default()
    };
    let heads_apart = |rows| Watch {
        stages: everything(rows)
            .stages
            .into_iter()
            .filter(|stage| *stage != Stage::AttentionHeads)
            .collect(),
        ..everything(rows)
    };
    let some = Some([0, 3].into());
    // Position, tokens, knobs, what is watched, and how often something is read at most: where all of it
    // fits the workspace, once.
    let sparse = ForwardOptions::default();
    for (position, tokens, options, watch, most_reads) in [
        (131_071, 1, &sparse, heads_apart(WatchedRows::Last), 1),
        (131_071, 1, &sparse, everything(WatchedRows::Last), 2),
        (130_900, 172, &sparse, heads_apart(WatchedRows::Last), 1),
        (
            130_900,
            172,
            &sparse,
            Watch {
                layers: some.clone(),
                ..everything(WatchedRows::All)
            },
            20,
        ),
        // A head's weights of one row are 512 KiB here.
        (
            131_071,
            1,
            &dense,
            Watch {
                layers: some.clone(),
                ..everything(WatchedRows::Last)
            },
            3,
        ),
        (
            131_000,
            3,
            &dense,
            Watch {
                layers: some,
                ..everything(WatchedRows::All)
            },
            40,
        ),
    ] {
        let what = format!("{tokens} tokens at {position}, {:?}", watch.rows);
        let call = CountCall {
            options: options.clone(),
            ..call(position, tokens)
        };
        let profile = count_watched(&config, &call, watch).unwrap();
        let largest = profile.largest_buffer_bytes;
        assert!(largest <= WORKSPACE_BYTES, "{what}: {largest} bytes");
        let reads = profile.n_reads;
        assert!((1..=most_reads).contains(&reads), "{what}: {reads} reads");
        // The scan is not run again for those who look.
        let scans = |profile: &Profile| {
            let scans = profile.launches.iter().filter(|l| l.op == "index_scores");
            scans.count()
        };
        if options == &sparse {
            let unwatched = count(&config, &call).unwrap();
            assert_eq!(unwatched.n_reads, 0);
            assert_eq!(scans(&profile), scans(&unwatched), "{what}");
        }
    }
}
