//! The losses of the training pass that are not of the indexer.

use burn::Tensor;
use burn::tensor::{Int, TensorData};
use engine::ops::linear;

use super::{Batch, Forward, read_one};
use crate::{Error, Result};

impl Forward<'_> {
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
        let n_targets = counts.iter().filter(|&&counts| counts).count();
        let logits = linear::portable(hidden, &engine::weight::Weight::from_tensor(head));
        let n = targets.len();
        let inner = logits.clone().without_autodiff();
        let log_p = burn::tensor::activation::log_softmax(inner, 1);
        let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, 1]), &self.device);
        let counted: Vec<f32> = counts
            .iter()
            .map(|&counts| f32::from(u8::from(counts)))
            .collect();
        let counted =
            Tensor::<2>::from_data(TensorData::new(counted, [n, 1]), (&self.device, self.dtype));
        let nll = -(log_p.clone().gather(1, ids.clone()) * counted.clone()).sum();
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
            let minus_one = counted.clone() * -1.0;
            let dx = (log_p.exp() * counted).scatter(
                1,
                ids,
                minus_one,
                burn::tensor::IndexingUpdateOp::Add,
            ) * (weight * self.per_target);
            self.surrogates.push((logits * dx).sum());
        }
        Ok((nll, n_targets))
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
