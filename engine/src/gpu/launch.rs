//! Buffers and launches: the only file that knows CubeCL, and nothing of what is computed.
//!
//! A [`Gpu`] hands [`Dispatch`]es of the crate `shaders` to Burn's wgpu client. Without a client it
//! counts: buffers have sizes and no contents, launches are recorded and not run. That is how the
//! cost of a model that fits no machine at hand is measured by formula.

use std::sync::{Arc, Mutex};

use burn::backend::wgpu::Wgpu;
use burn::cubecl::client::Client;
use burn::cubecl::ir::metadata::Info;
use burn::cubecl::ir::{ElemType, UIntKind};
use burn::cubecl::prelude::*;
use burn::cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
use burn::cubecl::{CubeCount, CubeDim, CubeKernel, PrecompiledSource};
use burn::tensor::Bytes;
use shaders::kernel::MAX_GROUPS;
use shaders::{Dispatch, Tuning};

use super::profile::Profiler;
use crate::{Error, Result};

/// Work of one submission, so that no desktop watchdog (2 s on Windows, more elsewhere) ends it: a
/// slow integrated GPU does about 3e11 operations and moves about 3e10 bytes a second.
const SUBMISSION_FLOPS: u64 = 150_000_000_000;
const SUBMISSION_BYTES: u64 = 15_000_000_000;

/// Bytes on their way to the device while a model is loaded.
const STAGED_BYTES: usize = 64 << 20;

/// An open wgpu device, or a counter of launches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gpu(Arc<Inner>);

struct Inner {
    /// `None` counts.
    client: Option<Client>,
    tuning: Tuning,
    max_binding_bytes: usize,
    /// Kernels of which the reference runs instead, to find out which one is at fault.
    by_reference: Vec<&'static str>,
    /// Bound where a kernel has a binding that this call does not use. Several, since one buffer
    /// must not be bound twice in a launch.
    unused: Vec<Buffer>,
    profiler: Profiler,
    pending: Mutex<Pending>,
}

/// Work since the last submission.
#[derive(Default)]
struct Pending {
    flops: u64,
    bytes: u64,
}

/// Words on the device.
#[derive(Clone)]
pub(crate) struct Buffer {
    handle: Option<Handle>,
    n_words: usize,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("tuning", &self.0.tuning)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} words)", self.n_words)
    }
}

/// Which text of which kernel: what Burn's cache of pipelines goes by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Text {
    name: &'static str,
    knobs: Vec<(&'static str, u32)>,
    subgroups: bool,
}

struct Source {
    kernel: &'static shaders::Kernel,
    text: Text,
}

impl KernelMetadata for Source {
    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info(self.text.clone())
    }

    fn address_type(&self) -> ElemType {
        UIntKind::U32.into()
    }
}

impl CubeKernel for Source {
    fn define(&self) -> KernelDefinition {
        let settings = KernelSettings::new(
            CubeDim::new_1d(1).into(),
            ExecutionMode::Checked,
            AddressType::U32,
        );
        KernelDefinition {
            body: Scope::root(settings.clone()),
            settings,
            info: Info::default(),
        }
    }

    fn source(&self) -> Option<PrecompiledSource> {
        Some(PrecompiledSource {
            source: self.kernel.source(&self.text.knobs, self.text.subgroups),
            entrypoint_name: self.kernel.name.to_owned(),
            lang: "wgsl",
        })
    }
}

impl Gpu {
    /// The device that `device` opened.
    pub(crate) fn new(
        device: &burn::tensor::Device,
        tuning: Tuning,
        max_binding_bytes: usize,
        by_reference: Vec<&'static str>,
    ) -> Result<Self> {
        let failed = |problem: String| Error::Device {
            name: "just opened".into(),
            problem,
        };
        let client = burn::Tensor::<1>::zeros([1], device)
            .try_into_primitive::<Wgpu>()
            .map_err(|error| failed(format!("is no wgpu device: {error:?}")))?
            .client;
        if client.name() != "wgpu<wgsl>" {
            return Err(failed(format!(
                "found a runtime that compiles {}, expected wgpu<wgsl>: is a feature of Burn on that must be off?",
                client.name()
            )));
        }
        Ok(Self::with(
            Some(client),
            tuning,
            max_binding_bytes,
            by_reference,
        ))
    }

    /// A counter of launches, for a device with this tuning and binding size.
    pub(crate) fn counting(tuning: Tuning, max_binding_bytes: usize) -> Self {
        Self::with(None, tuning, max_binding_bytes, Vec::new())
    }

    fn with(
        client: Option<Client>,
        tuning: Tuning,
        max_binding_bytes: usize,
        by_reference: Vec<&'static str>,
    ) -> Self {
        // Kernels count bytes in 32 bits.
        let max_binding_bytes = max_binding_bytes.min(u32::MAX as usize);
        let unused = (0..3)
            .map(|_| Buffer {
                handle: client
                    .as_ref()
                    .map(|client| client.create_from_slice(&[0; 64])),
                n_words: 16,
            })
            .collect();
        Self(Arc::new(Inner {
            client,
            tuning,
            max_binding_bytes,
            by_reference,
            unused,
            profiler: Profiler::default(),
            pending: Mutex::default(),
        }))
    }

    /// The same device as if it granted no larger binding.
    pub(crate) fn with_bindings_of(&self, max_binding_bytes: usize) -> Self {
        let Inner {
            client,
            tuning,
            by_reference,
            ..
        } = &*self.0;
        Self::with(
            client.clone(),
            *tuning,
            max_binding_bytes,
            by_reference.clone(),
        )
    }

    /// Who writes down what is launched.
    pub(crate) fn profiler(&self) -> &Profiler {
        &self.0.profiler
    }

    pub(crate) fn tuning(&self) -> &Tuning {
        &self.0.tuning
    }

    /// Bytes that one binding can reach.
    pub(crate) fn max_binding_bytes(&self) -> usize {
        self.0.max_binding_bytes
    }

    /// The `i`-th buffer that stands for a binding not in use.
    pub(crate) fn unused(&self, i: usize) -> &Buffer {
        &self.0.unused[i]
    }

    /// A buffer of `n_words` with anything in it.
    pub(crate) fn empty(&self, n_words: usize) -> Buffer {
        // Whole 16-byte units, since kernels may read as vec4.
        let n_words = n_words.next_multiple_of(4).max(4);
        self.profiler().allocated(n_words * 4);
        Buffer {
            handle: self
                .0
                .client
                .as_ref()
                .map(|client| client.empty(n_words * 4)),
            n_words,
        }
    }

    /// A buffer with these bytes, padded with zeros to whole 16-byte units.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Buffer {
        let n_bytes = bytes.len().next_multiple_of(16).max(16);
        let handle = self.0.client.as_ref().map(|client| {
            let mut padded = Vec::with_capacity(n_bytes);
            padded.extend_from_slice(bytes);
            padded.resize(n_bytes, 0);
            client.create(Bytes::from_bytes_vec(padded))
        });
        Buffer {
            handle,
            n_words: n_bytes / 4,
        }
    }

    /// A buffer of `n_bytes`, whole 16-byte units, made of `pieces` one after the other: no more than
    /// [`STAGED_BYTES`] of them and one more are in this process at a time, and when counting none.
    pub(crate) fn upload_pieces(
        &self,
        n_bytes: usize,
        pieces: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Buffer> {
        assert!(n_bytes.is_multiple_of(16), "{n_bytes} bytes are no units");
        let buffer = self.empty(n_bytes / 4);
        let Some(client) = &self.0.client else {
            return Ok(buffer);
        };
        let (mut sent, mut staged) = (0, 0);
        for piece in pieces {
            let from = buffer.handle().clone().offset_start(sent as u64);
            sent += piece.len();
            staged += piece.len();
            let rest = buffer.n_words * 4 - sent;
            client.write(&from.offset_end(rest as u64), Bytes::from_bytes_vec(piece));
            if staged > STAGED_BYTES {
                // Until the device has them, the driver keeps copies.
                self.read(self.unused(0))?;
                staged = 0;
            }
        }
        assert_eq!(sent, n_bytes, "the caller knows the size");
        Ok(buffer)
    }

    /// The contents of a buffer, after all work that was launched before. Zeros when counting.
    pub(crate) fn read(&self, buffer: &Buffer) -> Result<Vec<u32>> {
        Ok(self.read_all(&[buffer])?.remove(0))
    }

    /// The contents of several buffers in one wait.
    pub(crate) fn read_all(&self, buffers: &[&Buffer]) -> Result<Vec<Vec<u32>>> {
        self.profiler().read();
        let Some(client) = &self.0.client else {
            return Ok(buffers
                .iter()
                .map(|buffer| vec![0; buffer.n_words])
                .collect());
        };
        let handles = buffers
            .iter()
            .map(|buffer| buffer.handle().clone())
            .collect();
        let all = client.read(handles).map_err(|error| Error::Device {
            name: "in use".into(),
            problem: format!("lost or failed: {error:?}"),
        })?;
        *self.pending() = Pending::default();
        Ok(all
            .iter()
            .map(|bytes| bytemuck::pod_collect_to_vec(bytes))
            .collect())
    }

    /// Launches `dispatch` on its storage buffers, in order.
    ///
    /// # Errors
    /// A buffer is larger than a binding of this device can be.
    pub(crate) fn launch(&self, dispatch: Dispatch, buffers: &[&Buffer]) -> Result<()> {
        let kernel = dispatch.kernel;
        assert_eq!(
            buffers.len(),
            kernel.bindings.len(),
            "one buffer a binding of {}",
            kernel.name
        );
        assert!(
            dispatch.groups.iter().all(|n| *n <= MAX_GROUPS),
            "{} in a grid of {:?}: sizes were checked when the model was loaded",
            kernel.name,
            dispatch.groups
        );
        for (buffer, binding) in buffers.iter().zip(kernel.bindings) {
            let found = buffer.n_words * 4;
            if found > self.max_binding_bytes() {
                return Err(Error::Device {
                    name: "in use".into(),
                    problem: format!(
                        "{binding} of {} takes {found} bytes, expected at most {}: the largest binding",
                        kernel.name,
                        self.max_binding_bytes()
                    ),
                });
            }
        }
        let (op, cost) = (kernel.name, dispatch.cost);
        let Some(client) = &self.0.client else {
            self.profiler().launched(op, cost, None);
            return Ok(());
        };
        if self.0.by_reference.contains(&op) {
            self.profiler().launched(op, cost, None);
            return self.run_reference(client, &dispatch, buffers);
        }
        let submit = {
            let mut pending = self.pending();
            pending.flops += cost.flops;
            pending.bytes += cost.read_bytes + cost.write_bytes;
            let submit = pending.flops > SUBMISSION_FLOPS || pending.bytes > SUBMISSION_BYTES;
            if submit {
                *pending = Pending::default();
            }
            submit
        };

        let run = {
            let [x, y, z] = dispatch.groups;
            let mut params = dispatch.params;
            params.resize(params.len().next_multiple_of(16), 0);
            let words = bytemuck::pod_collect_to_vec(&params);
            let arguments = KernelArguments::new()
                .with_buffers(
                    buffers
                        .iter()
                        .map(|b| b.handle().clone().binding())
                        .collect(),
                )
                .with_info(MetadataBindingInfo::custom(words));
            let source = Source {
                kernel,
                text: Text {
                    name: kernel.name,
                    knobs: dispatch.knobs,
                    subgroups: dispatch.subgroups,
                },
            };
            let client = client.clone();
            move || client.launch(Box::new(source), CubeCount::Static(x, y, z), arguments)
        };
        let duration = if self.profiler().is_timed() {
            let (_, duration) =
                client
                    .profile(run, kernel.name)
                    .map_err(|error| Error::Device {
                        name: "in use".into(),
                        problem: format!("could not be timed: {error:?}"),
                    })?;
            crate::wait::block_on(duration.resolve()).map(|ticks| ticks.duration())
        } else {
            run();
            None
        };
        if submit {
            client.flush().map_err(|error| Error::Device {
                name: "in use".into(),
                problem: format!("lost or failed: {error:?}"),
            })?;
        }
        self.profiler().launched(op, cost, duration);
        Ok(())
    }

    /// Runs the kernel's reference on the host: contents are read back, and sent again.
    fn run_reference(
        &self,
        client: &Client,
        dispatch: &Dispatch,
        buffers: &[&Buffer],
    ) -> Result<()> {
        let mut contents = buffers
            .iter()
            .map(|buffer| self.read(buffer))
            .collect::<Result<Vec<_>>>()?;
        dispatch.run_reference(&mut contents);
        for (buffer, words) in buffers.iter().zip(contents) {
            let bytes = bytemuck::cast_slice::<u32, u8>(&words).to_vec();
            client.write(buffer.handle(), Bytes::from_bytes_vec(bytes));
        }
        Ok(())
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        // A thread that panicked left counters at worst.
        self.0
            .pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Buffer {
    /// Words in it, padding included.
    pub(crate) fn n_words(&self) -> usize {
        self.n_words
    }

    fn handle(&self) -> &Handle {
        self.handle
            .as_ref()
            .expect("buffers of a counter are not launched on a device")
    }
}
