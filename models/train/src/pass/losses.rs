//! The losses of the training pass that are not of the indexer.

use burn::Tensor;
use burn::tensor::{Int, TensorData};
use engine::definition::ops::linear;

use super::{Batch, Training, read_one};
use crate::{Error, Result};

impl Training<'_> {
    /// The loss of predicting the token `ahead` positions on: its sum and the number of targets.
    pub(super) fn cross_entropy(
        &mut self,
        hidden: Tensor<2>,
        head: Tensor<2>,
        batch: &Batch,
        ahead: usize,
        weight: f64,
    ) -> Result<(f64, usize)> {
        let targets = self.shifted(&batch.ids, ahead);
        let counts = self.shifted(&batch.loss, ahead);
        // Other rows need no logits, which are most of the work where few tokens are targets.
        let rows: Vec<u32> = (0..)
            .zip(counts)
            .filter_map(|(row, counts)| counts.then_some(row))
            .collect();
        let n = rows.len();
        if n == 0 {
            return Ok((0.0, 0));
        }
        let ids: Vec<i32> = rows
            .iter()
            .map(|&row| targets[row as usize] as i32)
            .collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, 1]), &self.device);
        let hidden = hidden.select(0, self.ints(&rows));
        let logits = linear(hidden, head);
        let inner = logits.clone().without_autodiff();
        let log_p = burn::tensor::activation::log_softmax(inner, 1);
        let nll = -log_p.clone().gather(1, ids.clone()).sum();
        let nll = read_one(nll)?;
        if !nll.is_finite() {
            return Err(Error::NotFinite {
                what: if ahead == 1 { "loss" } else { "MTP loss" }.into(),
                value: nll,
                layer: self.config.num_hidden_layers + ahead - 1,
                place: String::new(),
            });
        }
        if logits.is_autodiff() {
            let minus_one = Tensor::<2>::full([n, 1], -1.0, (&self.device, self.dtype));
            let of_sequence = |&row: &u32| weight * self.per_target[row as usize / self.length];
            let weights: Vec<f64> = rows.iter().map(of_sequence).collect();
            let weights = TensorData::new(weights, [n, 1]);
            let dx = log_p
                .exp()
                .scatter(1, ids, minus_one, burn::tensor::IndexingUpdateOp::Add)
                * Tensor::<2>::from_data(weights, (&self.device, self.dtype));
            self.surrogates.push((logits * dx).sum());
        }
        Ok((nll, n))
    }

    /// `α Σ_e f_e P_e` for each sequence: `f` how often an expert was chosen, relative to uniform,
    /// `P` its mean share of the scores. Source: V3 report, complementary sequence-wise loss.
    pub(super) fn balance(
        &mut self,
        scores: Tensor<2>,
        experts: &[u16],
        moe: &engine::config::MoeConfig,
    ) {
        let (n, e) = (self.length, moe.n_routed_experts);
        let per_slot = e as f64 / (moe.num_experts_per_tok * n) as f64;
        let mut f = vec![0.0_f32; self.n_sequences * e];
        for (slot, &expert) in experts.iter().enumerate() {
            let sequence = slot / moe.num_experts_per_tok / n;
            f[sequence * e + expert as usize] += per_slot as f32;
        }
        let f = TensorData::new(f, [self.n_sequences, e]);
        let f = Tensor::<2>::from_data(f, (&self.device, self.dtype));
        let shares = scores.clone() / (scores.sum_dim(1) + 1e-20);
        let mean = shares.reshape([self.n_sequences, n, e]).mean_dim(1);
        let loss = (mean.reshape([self.n_sequences, e]) * f).sum();
        let weight = self.options.balance_weight * self.micro_share / self.n_sequences as f64;
        self.surrogates.push(loss * weight);
    }
}
