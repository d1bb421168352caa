//! `softmax` over the last dimension, with a backward pass in one piece.
//!
//! ```text
//! p = exp(x − max x) / Σ exp(x − max x)
//! dx = p · (dp − Σ dp · p)
//! ```
//! Burn differentiates its softmax step by step, which takes five tensors of the size of the scores
//! and some twenty passes over them. Scores are the largest tensors of training, so the formula
//! stands here; outside a graph this is Burn's own softmax.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};

/// What a backend has to offer for [`softmax`].
#[backend_extension(Flex, Cube, Autodiff)]
trait SoftmaxBackend: Backend {
    /// Softmax of the last of `n_dims` dimensions.
    fn softmax_last(x: FloatTensor<Self>, n_dims: usize) -> FloatTensor<Self> {
        Self::softmax(x, n_dims - 1)
    }
}

impl SoftmaxBackend for burn::backend::Flex {}

impl SoftmaxBackend for burn::backend::Cube {}

impl<B: Backend + SoftmaxBackend, C: CheckpointStrategy> SoftmaxBackend for Autodiff<B, C> {
    fn softmax_last(x: FloatTensor<Self>, n_dims: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Softmax;

        impl<B: Backend> Backward<B, 1> for Softmax {
            type State = (FloatTensor<B>, usize);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                gradients: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (p, last) = ops.state;
                unary::<B, _>(ops.parents, ops.node, gradients, |dp| {
                    let sum = B::float_sum_dim(B::float_mul(dp.clone(), p.clone()), last);
                    B::float_mul(B::float_sub(dp, sum), p)
                });
            }
        }

        let prepared = Softmax.prepare::<C>([x.node()]).compute_bound().stateful();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let p = B::softmax_last(x.into_primitive(), n_dims);
                prepared.finish((p.clone(), n_dims - 1), p)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::softmax_last(x.into_primitive(), n_dims))
            }
        }
    }
}

/// Softmax of the last dimension.
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::softmax_last(x.into_dispatch(), D))
}
