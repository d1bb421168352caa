//! The portable body of every kernel, as host code on the words of its buffers: the definition, in
//! `f64` where sums are long. It stands in for a kernel that is under suspicion.
//!
//! A body is given what the kernel is given and leaves what the kernel would, in the same places. How
//! the work is shared out among lanes it ignores, but for what other kernels read: splits and tiles.

mod attention;
mod index;
mod linear;
mod moe;
mod norm;
mod numbers;
mod packed;
mod sample;

use shaders::Dispatch;

/// A portable body.
type Body = fn(&Asked, &mut [Vec<u32>]);

/// One a kernel, by its name.
const BODIES: &[(&str, Body)] = &[
    ("embed", linear::embed),
    ("add_norm", norm::add_norm),
    ("matvec", linear::linear),
    ("matmul", linear::linear),
    ("latents", norm::latents),
    ("copy_words", linear::copy_words),
    ("index_query", index::index_query),
    ("index_scores", index::index_scores),
    ("top_k", index::top_k),
    ("absorb", attention::absorb),
    ("attend", attention::attend),
    ("attend_merge", attention::attend_merge),
    ("attend_weights", attention::attend_weights),
    ("route", moe::route),
    ("mlp_up", moe::mlp_up),
    ("mlp_down", moe::mlp_down),
    ("expert_plan", moe::expert_plan),
    ("mlp_up_tiled", moe::mlp_up_tiled),
    ("mlp_down_tiled", moe::mlp_down_tiled),
    ("combine", moe::combine),
    ("sample", sample::sample),
];

/// Does to `buffers`, the contents of the kernel's storage bindings, what `dispatch` would.
pub(super) fn run(dispatch: &Dispatch, buffers: &mut [Vec<u32>]) {
    let name = dispatch.kernel.name;
    let (_, body) = BODIES
        .iter()
        .find(|(kernel, _)| *kernel == name)
        .expect("every kernel has a body, see the test");
    body(&Asked(dispatch), buffers);
}

/// What a launch asks for, by the names that the kernel has for it.
struct Asked<'a>(&'a Dispatch);

impl Asked<'_> {
    fn u32(&self, name: &str) -> u32 {
        let params = &self.0.kernel.params;
        let (_, offset) = params
            .fields
            .iter()
            .find(|(field, _)| *field == name)
            .expect("a body asks for fields that its kernel has");
        bytemuck::pod_read_unaligned(&self.0.params[*offset..*offset + 4])
    }

    fn size(&self, name: &str) -> usize {
        self.u32(name) as usize
    }

    /// A size that the kernel counts in quads of four elements, in elements.
    fn quads(&self, name: &str) -> usize {
        4 * self.size(name)
    }

    fn float(&self, name: &str) -> f64 {
        f32::from_bits(self.u32(name)).into()
    }

    fn knob(&self, name: &str) -> u32 {
        let set = self.0.knobs.iter().find(|(knob, _)| *knob == name);
        let default = || self.0.kernel.knobs.iter().find(|knob| knob.name == name);
        set.map(|(_, value)| *value)
            .or_else(|| default().map(|knob| knob.default))
            .expect("a body asks for knobs that its kernel has")
    }
}

/// The buffers, one a binding.
fn bound<const N: usize>(buffers: &mut [Vec<u32>]) -> &mut [Vec<u32>; N] {
    buffers
        .try_into()
        .expect("a launch has one buffer a binding, and a body has them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_body_and_every_body_a_kernel() {
        let bodies: Vec<_> = BODIES.iter().map(|(name, _)| *name).collect();
        let kernels: Vec<_> = shaders::KERNELS.iter().map(|kernel| kernel.name).collect();
        assert_eq!(bodies, kernels);
    }
}
