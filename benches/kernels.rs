//! The CPU's native bodies by themselves, by criterion.
//!
//! `cargo bench --bench kernels -- NAME` runs those whose names contain NAME. Bytes a second are
//! of the weights, keys or latents that are read.

use criterion::{BenchmarkId, Criterion, Throughput};
use engine::cache::{KeyFormat, LatentFormat};
use engine::config::Heads;
use engine::host::{
    Call, Dtype, KeyCache, LatentCache, Matrix, Queries, attend, linear, run, select,
};
use engine::selection::{Forced, top_k};
use std::hint::black_box;

fn numbers(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5)
        .collect()
}

fn linears(criterion: &mut Criterion) {
    let (rows, cols) = (2048, 1024);
    let floats = numbers(rows * cols);
    let halves: Vec<u8> = floats
        .iter()
        .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
        .collect();
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i % 0x70) as u8).collect();
    let scales = vec![1.0; rows.div_ceil(128) * cols.div_ceil(128)];
    let matrices = [
        (
            "f32",
            Matrix::new(bytemuck::cast_slice(&floats), Dtype::F32, rows, cols, None),
            4,
        ),
        (
            "bf16",
            Matrix::new(&halves, Dtype::BF16, rows, cols, None),
            2,
        ),
        (
            "fp8",
            Matrix::new(&codes, Dtype::F8E4M3, rows, cols, Some(&scales)),
            1,
        ),
    ];
    let mut group = criterion.benchmark_group("linear 2048x1024");
    for (name, matrix, bytes) in matrices {
        for n in [1, 8, 256] {
            let x = numbers(n * cols);
            let mut out = vec![0.0; n * rows];
            group.throughput(Throughput::Bytes((rows * cols * bytes) as u64));
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| run(|| linear(black_box(&x), &[matrix], &mut [&mut out])));
            });
        }
    }
}

fn indexer(criterion: &mut Criterion) {
    let (n_heads, dim, k) = (64, 128, 2048);
    let mut group = criterion.benchmark_group("select 64 heads of 128, top 2048");
    group.sample_size(10);
    for format in [KeyFormat::F32, KeyFormat::Fp8] {
        for context in [4096, 32_768] {
            let mut cache = KeyCache::new(dim, format);
            cache.push(&numbers(context * dim));
            let (q, w) = (numbers(n_heads * dim), numbers(n_heads));
            let free = Forced::default();
            group.throughput(Throughput::Bytes(cache.bytes() as u64));
            group.bench_function(
                BenchmarkId::new(format!("{format:?}"), context),
                |bencher| {
                    bencher.iter(|| {
                        let queries = Queries {
                            q: black_box(&q),
                            w: &w,
                            n_heads,
                            position: context - 1,
                        };
                        run(|| select(queries, &cache, k, &free, None))
                    });
                },
            );
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("top_k 2048");
    for n in [4096, 131_072] {
        let scores = numbers(n);
        group.throughput(Throughput::Bytes(n as u64 * 4));
        group.bench_function(BenchmarkId::from_parameter(n), |bencher| {
            bencher.iter(|| top_k(black_box(&scores), 2048));
        });
    }
}

fn attention(criterion: &mut Criterion) {
    let heads = Heads {
        n_heads: 128,
        dn: 128,
        dr: 64,
        dv: 128,
        rank: 512,
        scale: 0.135,
    };
    let (k, n_heads, dim) = (2048, 4, 64);
    let rows = heads.n_heads * (heads.dn + heads.dv);
    let weights = numbers(rows * heads.rank);
    let w_kvb = Matrix::new(
        bytemuck::cast_slice(&weights),
        Dtype::F32,
        rows,
        heads.rank,
        None,
    );
    let q = numbers(heads.n_heads * (heads.dn + heads.dr));
    let mut group = criterion.benchmark_group("attend 128 heads to 2048 of 8192");
    group.sample_size(10);
    for format in [LatentFormat::F32, LatentFormat::Bf16, LatentFormat::Fp8] {
        let mut cache = LatentCache::new(heads.rank, heads.dr, format);
        cache.push(&numbers(8192 * heads.rank), &numbers(8192 * heads.dr));
        let mut keys = KeyCache::new(dim, KeyFormat::F32);
        keys.push(&numbers(8192 * dim));
        let queries = Queries {
            q: &numbers(n_heads * dim),
            w: &numbers(n_heads),
            n_heads,
            position: 8191,
        };
        let (selection, _) =
            select(queries, &keys, k, &Forced::default(), None).expect("the numbers are finite");
        let mut out = vec![0.0; heads.n_heads * heads.dv];
        let call = Call {
            heads,
            q: black_box(&q),
            w_kvb,
            cache: &cache,
            position: 8191,
            selection: Some(&selection),
        };
        group.throughput(Throughput::Bytes((cache.bytes() / 4) as u64));
        group.bench_function(format!("{format:?}"), |bencher| {
            bencher.iter(|| {
                run(|| {
                    attend(call, &mut out, None);
                });
            });
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    linears(&mut criterion);
    indexer(&mut criterion);
    attention(&mut criterion);
    criterion.final_summary();
}
