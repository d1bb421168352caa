//! Attention, experts and the indexer against plain `f64` loops at odd sizes, under several numbers
//! of threads.

use super::*;
use crate::cache::{KeyFormat, LatentFormat};
use crate::config::Heads;
use crate::selection::{Forced, Selection, top_k};

/// Pool sizes: alone, even, odd, and more than the tokens of some cases.
const THREADS: &[usize] = &[1, 2, 3, 7];

/// Runs `work` under each number of threads; all have to give the same bits.
fn under_all_threads(what: &str, work: impl Fn() -> Vec<f32> + Sync) -> Vec<f32> {
    let mut results = THREADS.iter().map(|&n| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.expect("the system gives threads").install(&work)
    });
    let bits =
        |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
    let first = results.next().expect("there is at least one pool");
    for (other, threads) in results.zip(&THREADS[1..]) {
        assert_eq!(bits(&first), bits(&other), "{what}, {threads} threads");
    }
    first
}

fn numbers(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 1.618 + seed).sin()).collect()
}

/// Weights that keep the size of what they are applied to.
fn weights(rows: usize, cols: usize, seed: f32) -> Vec<f32> {
    let size = 1.5 / (cols as f32).sqrt();
    numbers(rows * cols, seed)
        .iter()
        .map(|w| w * size)
        .collect()
}

fn f32_matrix(weights: &[f32], rows: usize, cols: usize) -> Matrix<'_> {
    Matrix::new(bytemuck::cast_slice(weights), Dtype::F32, rows, cols, None)
}

/// Sums of a few hundred products of numbers of size 1, each rounded to 6e-8, and an exponential of
/// them: some 100 roundings of what is compared.
const CLOSE: f64 = 1e-5;

fn assert_close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(got) - want).abs();
        assert!(
            difference <= CLOSE * (1.0 + want.abs()),
            "{what}: number {i} is {got}, expected {want}"
        );
    }
}

fn dot(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>) -> f64 {
    a.into_iter().zip(b).map(|(a, b)| a * b).sum()
}

fn wide(values: &[f32]) -> impl Iterator<Item = f64> + Clone + '_ {
    values.iter().map(|&value| f64::from(value))
}

/// One attention call, and what it reads as the cache gives it back.
struct Case {
    heads: Heads,
    q: Vec<f32>,
    w_kvb: Vec<f32>,
    cache: LatentCache,
    /// `[context, rank]`, rounded.
    latents: Vec<f32>,
    /// `[context, dr]`, rounded.
    k_pe: Vec<f32>,
    position: usize,
    n: usize,
    selection: Option<Selection>,
}

impl Case {
    fn new(
        sizes: [usize; 5],
        format: LatentFormat,
        position: usize,
        n: usize,
        k: Option<usize>,
    ) -> Self {
        let [n_heads, dn, dr, dv, rank] = sizes;
        let scale = 1.3 / ((dn + dr) as f32).sqrt();
        let heads = Heads {
            n_heads,
            dn,
            dr,
            dv,
            rank,
            scale,
        };
        let context = position + n;
        let (mut latents, mut k_pe) = (numbers(context * rank, 0.3), numbers(context * dr, 0.8));
        let mut cache = LatentCache::new(rank, dr, format);
        cache.push(&latents, &k_pe);
        match format {
            LatentFormat::F32 => {}
            LatentFormat::Bf16 => {
                for value in latents.iter_mut().chain(&mut k_pe) {
                    *value = half::bf16::from_f32(*value).to_f32();
                }
            }
            LatentFormat::Fp8 => round_fp8(&mut latents, rank),
            LatentFormat::FlashMla => unreachable!("no case has it: it is for GPUs"),
        }
        let selection = k.map(|k| {
            let rows = (position..context).flat_map(|last| {
                let scores = numbers(last + 1, last as f32 * 0.77);
                top_k(&scores, k)
            });
            Selection {
                k,
                indices: rows.collect(),
            }
        });
        Self {
            heads,
            q: numbers(n * n_heads * (dn + dr), 0.1),
            w_kvb: weights(n_heads * (dn + dv), rank, 0.6),
            cache,
            latents,
            k_pe,
            position,
            n,
            selection,
        }
    }

    fn n_slots(&self) -> usize {
        let context = self.position + self.n;
        self.selection.as_ref().map_or(context, |chosen| chosen.k)
    }

    /// By the formula of the expanded form: outputs `[tokens, heads, dv]`, weights
    /// `[tokens, heads, slots]`.
    fn by_definition(&self) -> (Vec<f64>, Vec<f64>) {
        let Heads {
            n_heads,
            dn,
            dr,
            dv,
            rank,
            scale,
        } = self.heads;
        let row = |of_head: usize| &self.w_kvb[of_head * rank..][..rank];
        let latent = |s: usize| wide(&self.latents[s * rank..][..rank]);
        let (mut outs, mut all_weights) = (Vec::new(), Vec::new());
        for token in 0..self.n {
            let last = self.position + token;
            let readable: Vec<usize> = match &self.selection {
                Some(chosen) => chosen.row(token).iter().map(|&s| s as usize).collect(),
                None => (0..=last).collect(),
            };
            for head in 0..n_heads {
                let q = &self.q[(token * n_heads + head) * (dn + dr)..][..dn + dr];
                let first_row = head * (dn + dv);
                let score = |&s: &usize| {
                    let nope = (0..dn).map(|c| dot(wide(row(first_row + c)), latent(s)));
                    let pe = wide(&self.k_pe[s * dr..][..dr]);
                    f64::from(scale) * dot(wide(q), nope.chain(pe))
                };
                let scores: Vec<f64> = readable.iter().map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let total: f64 = shares.iter().sum();
                let weights = shares.iter().map(|share| share / total);
                outs.extend((0..dv).map(|c| {
                    let value = |&s: &usize| dot(wide(row(first_row + dn + c)), latent(s));
                    dot(weights.clone(), readable.iter().map(value))
                }));
                let padding = self.n_slots() - readable.len();
                all_weights.extend(weights.chain(std::iter::repeat_n(0.0, padding)));
            }
        }
        (outs, all_weights)
    }

    /// Outputs, and weights of the rows from `first` on behind them.
    fn run(&self, is_mha: bool, first: Option<usize>) -> Vec<f32> {
        let Heads {
            n_heads, dn, dv, ..
        } = self.heads;
        let body = if is_mha { attend_mha } else { attend };
        let mut out = vec![f32::NAN; self.n * n_heads * dv];
        let mut weights = first.map(AttentionWeights::new);
        let call = Call {
            heads: self.heads,
            q: &self.q,
            w_kvb: f32_matrix(&self.w_kvb, n_heads * (dn + dv), self.heads.rank),
            cache: &self.cache,
            position: self.position,
            selection: self.selection.as_ref(),
        };
        body(call, &mut out, weights.as_mut());
        if let Some(weights) = weights {
            assert_eq!(weights.n_slots, self.n_slots());
            out.extend(weights.data);
        }
        out
    }

    /// The token `token` by itself.
    fn alone(&self, token: usize) -> Self {
        let width = self.q.len() / self.n;
        let mut cache = self.cache.clone();
        cache.truncate(self.position + token + 1);
        Self {
            q: self.q[token * width..][..width].to_vec(),
            w_kvb: self.w_kvb.clone(),
            latents: Vec::new(),
            k_pe: Vec::new(),
            cache,
            position: self.position + token,
            n: 1,
            selection: self.selection.as_ref().map(|chosen| Selection {
                k: chosen.k,
                indices: chosen.indices[token * chosen.k..][..chosen.k].to_vec(),
            }),
            ..*self
        }
    }
}

#[test]
fn attention_is_what_its_formula_says_in_both_forms() {
    // Heads, dn, dr, dv, rank: all of them 1, none a multiple of 16 or 4, ranks about 128.
    let sizes = [
        [1, 1, 2, 1, 1],
        [1, 16, 8, 3, 24],
        [3, 17, 6, 5, 33],
        [5, 8, 2, 19, 130],
        [9, 7, 4, 16, 128],
    ];
    // Position, tokens: a start, one token, few and many, over the end of a page of 256.
    let places = [(0, 1), (0, 12), (13, 1), (250, 9), (30, 3)];
    let formats = [LatentFormat::F32, LatentFormat::Bf16, LatentFormat::Fp8];
    let mut n_case = 0;
    for sizes in sizes {
        for (position, n) in places {
            for k in [None, Some(1), Some(11), Some(300)] {
                let format = formats[n_case % 3];
                n_case += 1;
                let case = Case::new(sizes, format, position, n, k);
                let (outs, weights) = case.by_definition();
                let per_row = weights.len() / n;
                for is_mha in [false, true] {
                    for first in [None, Some(0), Some(n / 2), Some(n - 1)] {
                        let what = format!(
                            "{sizes:?}, {format:?}, {n} tokens at {position}, k {k:?}, \
                             MHA {is_mha}, weights from {first:?}"
                        );
                        let got = under_all_threads(&what, || case.run(is_mha, first));
                        let kept = first.map_or(&[][..], |first| &weights[first * per_row..]);
                        let want: Vec<f64> = outs.iter().chain(kept).copied().collect();
                        assert_close(&what, &got, &want);
                    }
                }
                let together = case.run(false, None);
                for (token, together) in together.chunks_exact(together.len() / n).enumerate() {
                    assert_eq!(case.alone(token).run(false, None), together);
                }
            }
        }
    }
}

/// One set of experts and tokens.
struct ExpertCase {
    hidden_size: usize,
    width: usize,
    n_experts: usize,
    k: usize,
    /// Gate, up and down of each expert, the shared one last.
    weights: Vec<[Vec<f32>; 3]>,
    x: Vec<f32>,
    chosen: Vec<u16>,
    shares: Vec<f32>,
    has_shared: bool,
}

impl ExpertCase {
    fn new(
        hidden_size: usize,
        width: usize,
        n_experts: usize,
        k: usize,
        n: usize,
        has_shared: bool,
    ) -> Self {
        let expert = |expert: usize| {
            let seed = expert as f32;
            [
                weights(width, hidden_size, seed),
                weights(width, hidden_size, seed + 0.3),
                weights(hidden_size, width, seed + 0.6),
            ]
        };
        // Different experts a token, in no order.
        let chosen = (0..n).flat_map(|token| {
            (0..k).map(move |slot| ((token * 5 + slot * (n_experts - 1)) % n_experts) as u16)
        });
        Self {
            hidden_size,
            width,
            n_experts,
            k,
            weights: (0..=n_experts).map(expert).collect(),
            x: numbers(n * hidden_size, 0.4),
            chosen: chosen.collect(),
            shares: numbers(n * k, 0.9),
            has_shared,
        }
    }

    fn matrices(&self, expert: usize) -> [Matrix<'_>; 3] {
        let [gate, up, down] = &self.weights[expert];
        let (hidden_size, width) = (self.hidden_size, self.width);
        [
            f32_matrix(gate, width, hidden_size),
            f32_matrix(up, width, hidden_size),
            f32_matrix(down, hidden_size, width),
        ]
    }

    fn run(&self, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let (h, k) = (self.hidden_size, self.k);
        let x = &self.x[tokens.start * h..tokens.end * h];
        let mut out = vec![f32::NAN; x.len()];
        experts(
            x,
            &self.chosen[tokens.start * k..tokens.end * k],
            &self.shares[tokens.start * k..tokens.end * k],
            tokens.len(),
            &|expert| self.matrices(expert),
            self.has_shared.then(|| self.matrices(self.n_experts)),
            &mut out,
        );
        out
    }

    fn by_definition(&self) -> Vec<f64> {
        let (h, k) = (self.hidden_size, self.k);
        let swiglu = |expert: usize, x: &[f32]| -> Vec<f64> {
            let [gate, up, down] = &self.weights[expert];
            let on = |weights: &[f32], row: usize| dot(wide(&weights[row * h..][..h]), wide(x));
            let middle: Vec<f64> = (0..self.width)
                .map(|row| {
                    let gate = on(gate, row);
                    gate / (1.0 + (-gate).exp()) * on(up, row)
                })
                .collect();
            let down = down.chunks_exact(self.width);
            down.map(|row| dot(wide(row), middle.iter().copied()))
                .collect()
        };
        let mut all = Vec::new();
        for (token, x) in self.x.chunks_exact(h).enumerate() {
            let mut out = vec![0.0; h];
            let mut add = |expert: usize, share: f64| {
                for (out, value) in out.iter_mut().zip(swiglu(expert, x)) {
                    *out += share * value;
                }
            };
            for slot in token * k..(token + 1) * k {
                add(self.chosen[slot].into(), self.shares[slot].into());
            }
            if self.has_shared {
                add(self.n_experts, 1.0);
            }
            all.extend(out);
        }
        all
    }
}

#[test]
fn experts_are_what_their_formula_says() {
    for (hidden_size, width, n_experts, k, n) in [
        (1, 1, 1, 1, 1),
        (5, 3, 4, 2, 1),
        (33, 17, 7, 3, 5),
        (16, 130, 9, 9, 40),
        (130, 16, 2, 1, 19),
    ] {
        for has_shared in [false, true] {
            let what = format!("{n} tokens of {hidden_size}, {k} of {n_experts} × {width}");
            let case = ExpertCase::new(hidden_size, width, n_experts, k, n, has_shared);
            let got = under_all_threads(&what, || case.run(0..n));
            assert_close(&what, &got, &case.by_definition());
            for (token, together) in got.chunks_exact(hidden_size).enumerate() {
                assert_eq!(
                    case.run(token..token + 1),
                    together,
                    "{what}, {token} alone"
                );
            }
        }
    }
}

#[test]
fn scores_and_selections_do_not_depend_on_the_number_of_threads() {
    // One token over more than one piece of blocks, and many over the end of a page of 1,024.
    for (position, n, n_heads, dim) in [(2100, 1, 3, 6), (1000, 41, 13, 32), (0, 9, 1, 2)] {
        for format in [KeyFormat::F32, KeyFormat::Fp8] {
            let mut cache = KeyCache::new(dim, format);
            cache.push(&numbers((position + n) * dim, 0.2));
            let (q, w) = (numbers(n * n_heads * dim, 0.5), numbers(n * n_heads, 0.7));
            let what = format!("{n} tokens at {position}, {n_heads} heads of {dim}");
            let queries = Queries {
                q: &q,
                w: &w,
                n_heads,
                position,
            };
            let scores = under_all_threads(&what, || index_scores(queries, &cache));
            let k = 7;
            let chosen = under_all_threads(&what, || {
                let none = Forced::default();
                let (selection, kept) =
                    select(queries, &cache, k, &none, Some(0)).expect("no score is NaN");
                assert_eq!(kept, scores, "{what}");
                selection.indices.iter().map(|&s| s as f32).collect()
            });
            let rows = scores
                .chunks_exact(position + n)
                .zip(chosen.chunks_exact(k));
            for (row, (scores, chosen)) in rows.enumerate() {
                let want = top_k(&scores[..=position + row], k);
                let want: Vec<f32> = want.iter().map(|&s| s as f32).collect();
                assert_eq!(chosen, want, "{what}, row {row}");
            }
        }
    }
}
