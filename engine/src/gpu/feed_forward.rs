//! The feed-forward of one layer: dense, or a gate and the experts that it chooses.

use shaders::{combine, expert_plan, mlp_down, mlp_down_tiled, mlp_up, mlp_up_tiled, route};

use super::experts::Mlps;

use super::launch::Buffer;
use super::layer::{FeedForward, Layer};
use super::step::{Columns, FEW_TOKENS, GpuPass, Step};
use super::watch::Rows;
use crate::Result;
use crate::config::{MoeConfig, Scoring, TopkMethod};
use crate::trace::Stage;

impl Step {
    pub(super) fn moe(&mut self, layer: &Layer, normed: &Buffer, pass: &GpuPass) -> Result<Buffer> {
        let FeedForward::Moe {
            gate,
            bias,
            has_bias,
            experts,
        } = &layer.feed_forward
        else {
            unreachable!("the caller found experts");
        };
        let (gpu, n, width) = (&self.gpu, self.n, pass.config.hidden_size);
        let moe = pass
            .config
            .moe
            .as_ref()
            .expect("a config with MoE layers has MoE sizes");
        let n_experts = moe.n_routed_experts;
        let logits = gpu.empty(n * n_experts);
        let from = Columns {
            buffer: normed,
            stride: width,
            offset: 0,
        };
        let to = Columns {
            buffer: &logits,
            stride: n_experts,
            offset: 0,
        };
        self.linear(from, n, gate, n_experts, to)?;

        let k = moe.num_experts_per_tok;
        let slots = k + moe.n_shared_experts;
        let forced = forced(layer.index, n, k, pass);
        let scores = gpu.empty(n * n_experts);
        let chosen = gpu.empty(n * slots);
        let weights = gpu.empty(n * slots);
        let call = route_call(moe, n, pass.position, *has_bias, forced.is_some());
        let forced = forced.map(|forced| gpu.upload(bytemuck::cast_slice(&forced)));
        gpu.launch(
            route::dispatch(&call, gpu.tuning()),
            &[
                &logits,
                bias,
                forced.as_ref().unwrap_or(gpu.unused(0)),
                &scores,
                &chosen,
                &weights,
                &self.status,
            ],
        )?;
        let rows = |buffer, stride| Rows {
            buffer,
            rows: 0..n,
            stride,
        };
        let (stage, at) = (Stage::GateScores, layer.index);
        self.kept.keep(
            pass.trace,
            at,
            stage,
            rows(&scores, n_experts),
            &[n_experts],
        )?;
        // Slots beyond k are the shared experts: no choice, so not kept. A record has all rows.
        let routes = [(Stage::Experts, &chosen), (Stage::ExpertWeights, &weights)];
        for (stage, buffer) in routes {
            let rows = rows(buffer, slots);
            match pass.records.routes {
                Some(_) => self.kept.take(Some(at), stage, 0, rows, &[k])?,
                None => self.kept.keep(pass.trace, at, stage, rows, &[k])?,
            }
        }
        self.mlps(experts, normed, width, &chosen, &weights, slots)
    }

    /// `y[t] = Σ_slot weight · swiglu_expert(x[t])`, `[tokens, hidden_size]`.
    pub(super) fn mlps(
        &self,
        mlps: &Mlps,
        x: &Buffer,
        hidden: usize,
        experts: &Buffer,
        weights: &Buffer,
        slots: usize,
    ) -> Result<Buffer> {
        let (gpu, n) = (&self.gpu, self.n);
        let (width, dtype) = (mlps.gate.rows, mlps.gate.dtype);
        let h = gpu.empty(n * slots * width);
        let y = gpu.empty(n * hidden);
        let pairs = || mlps.gate.slices.iter().zip(&mlps.up.slices);
        if n <= FEW_TOKENS && n * slots <= mlp_down::MOST_SLOTS {
            for (gate, up) in pairs() {
                let call = mlp_up::Call {
                    dtype,
                    tokens: n,
                    slots,
                    width,
                    hidden,
                    first_expert: gate.first_expert,
                    n_experts: gate.n_experts,
                    x_stride: hidden,
                };
                gpu.launch(
                    mlp_up::dispatch(&call, gpu.tuning()),
                    &[x, experts, &gate.w, &gate.scales, &up.w, &up.scales, &h],
                )?;
            }
            for (at, down) in mlps.down.slices.iter().enumerate() {
                let call = mlp_down::Call {
                    dtype,
                    tokens: n,
                    slots,
                    width,
                    hidden,
                    first_expert: down.first_expert,
                    n_experts: down.n_experts,
                    accumulate: at > 0,
                };
                gpu.launch(
                    mlp_down::dispatch(&call, gpu.tuning()),
                    &[&h, experts, weights, &down.w, &down.scales, &y],
                )?;
            }
            return Ok(y);
        }
        let sizes = expert_plan::Call {
            tokens: n,
            slots,
            n_experts: mlps.n_experts,
        };
        let plan = gpu.empty(expert_plan::plan_words(&sizes, gpu.tuning()));
        gpu.launch(
            expert_plan::dispatch(&sizes, gpu.tuning()),
            &[experts, &plan],
        )?;
        for (gate, up) in pairs() {
            let call = mlp_up_tiled::Call {
                dtype,
                plan: sizes,
                width,
                hidden,
                first_expert: gate.first_expert,
                n_experts: gate.n_experts,
                x_stride: hidden,
            };
            gpu.launch(
                mlp_up_tiled::dispatch(&call, gpu.tuning()),
                &[x, &plan, &gate.w, &gate.scales, &up.w, &up.scales, &h],
            )?;
        }
        let slots_out = gpu.empty(n * slots * hidden);
        for down in &mlps.down.slices {
            let call = mlp_down_tiled::Call {
                dtype,
                plan: sizes,
                width,
                hidden,
                first_expert: down.first_expert,
                n_experts: down.n_experts,
            };
            gpu.launch(
                mlp_down_tiled::dispatch(&call, gpu.tuning()),
                &[&h, &plan, &down.w, &down.scales, &slots_out],
            )?;
        }
        let call = combine::Call {
            tokens: n,
            slots,
            hidden,
        };
        gpu.launch(
            combine::dispatch(&call, gpu.tuning()),
            &[&slots_out, weights, &y],
        )?;
        Ok(y)
    }
}

/// Replayed experts `[tokens, k]`, -1 where the gate chooses; `None` if it always does.
fn forced(layer: usize, n: usize, k: usize, pass: &GpuPass) -> Option<Vec<i32>> {
    let trace = pass.options.intervention.routes.as_deref()?;
    let mut forced = vec![-1; n * k];
    for (token, row) in forced.chunks_exact_mut(k).enumerate() {
        if let Some((experts, _)) = trace.get(layer, pass.position + token) {
            for (into, &expert) in row.iter_mut().zip(experts) {
                *into = i32::from(expert);
            }
        }
    }
    Some(forced)
}

fn route_call(
    moe: &MoeConfig,
    tokens: usize,
    position: usize,
    has_bias: bool,
    has_forced: bool,
) -> route::Call {
    let is_greedy = moe.topk_method == TopkMethod::Greedy;
    route::Call {
        scoring: match moe.scoring_func {
            Scoring::Sigmoid => route::SIGMOID,
            Scoring::Softmax => route::SOFTMAX,
        },
        method: match moe.topk_method {
            TopkMethod::Greedy => route::GREEDY,
            TopkMethod::GroupLimitedGreedy => route::GROUPS_BY_BEST,
            TopkMethod::NoauxTc => route::GROUPS_BY_TWO,
        },
        tokens,
        position,
        n_experts: moe.n_routed_experts,
        // Where nobody ranks groups there is one.
        n_groups: if is_greedy { 1 } else { moe.n_group },
        n_kept: if is_greedy { 1 } else { moe.topk_group },
        k: moe.num_experts_per_tok,
        n_shared: moe.n_shared_experts,
        normalise: moe.norm_topk_prob,
        scaling: moe.routed_scaling_factor,
        has_bias,
        has_forced,
    }
}
