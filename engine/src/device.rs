//! Lists and opens the devices a model can run on.
//!
//! A device is the CPU with our own bodies (`cpu`), a wgpu adapter, or Burn's CPU backend, which
//! runs the portable bodies and is there to check the others (`portable`, `portable-f64`).
//! What runs where is decided once, here, and shows in where the weights live
//! once a model is loaded; no operation asks again.

use burn::tensor::DType;
use burn::tensor::wgpu::WgpuSetup;

use crate::gpu::{Gpu, tuning};
use crate::{Error, Result};

/// What kind of machine part a device is, best first for [`Device::open`] without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A graphics card with its own memory.
    DiscreteGpu,
    /// A graphics unit that shares the machine's memory.
    IntegratedGpu,
    /// The CPU through this crate's own bodies.
    Cpu,
    /// A GPU handed through by a virtual machine.
    VirtualGpu,
    /// A driver that runs shaders on the CPU: exact, slow, opened by name only.
    SoftwareGpu,
    /// Burn's CPU backend, for checking: opened by name only.
    Reference,
}

impl DeviceKind {
    /// The word for front ends.
    pub fn word(self) -> &'static str {
        match self {
            Self::DiscreteGpu => "discrete GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::Cpu => "CPU",
            Self::VirtualGpu => "virtual GPU",
            Self::SoftwareGpu => "software GPU",
            Self::Reference => "reference",
        }
    }
}

/// One line of the device list.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// What [`Device::open`] takes: `cpu`, `portable`, or `vulkan:0` and so on.
    pub id: String,
    /// The name the driver gives.
    pub name: String,
    /// `native`, `vulkan`, `metal`, `dx12`, …
    pub backend: String,
    /// What kind of machine part it is.
    pub kind: DeviceKind,
    /// Driver and version, where known.
    pub driver: String,
    /// Largest buffer that one binding can reach, in bytes; `None` where there is no such limit.
    pub max_binding_bytes: Option<u64>,
}

/// Where tensors live and in which precision the portable bodies compute.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Slices of this process; weights stay as stored.
    Host,
    /// Burn tensors and portable bodies.
    Burn {
        device: burn::tensor::Device,
        dtype: DType,
    },
    /// Buffers of a wgpu device and our own kernels.
    Gpu { gpu: Gpu },
}

/// An open device. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Device {
    /// What the list says of it.
    pub info: DeviceInfo,
    pub(crate) place: Place,
}

/// Weights and activations are cut into buffers of at most this many bytes: the binding size
/// that every WebGPU adapter grants.
pub(crate) const MAX_SLICE_BYTES: usize = 128 << 20;

/// The devices of this machine: the CPU, each wgpu adapter, and the two references.
pub fn list() -> Vec<DeviceInfo> {
    let mut found = vec![cpu_info()];
    found.extend(adapters(&instance()).iter().map(|(info, _)| info.clone()));
    found.extend(REFERENCES.iter().map(|(id, _)| reference_info(id)));
    found
}

/// The checking devices: name and precision.
const REFERENCES: &[(&str, DType)] = &[("portable", DType::F32), ("portable-f64", DType::F64)];

fn cpu_info() -> DeviceInfo {
    DeviceInfo {
        id: "cpu".into(),
        name: format!("CPU, {} threads", rayon::current_num_threads()),
        backend: "native".into(),
        kind: DeviceKind::Cpu,
        driver: String::new(),
        max_binding_bytes: None,
    }
}

fn reference_info(id: &str) -> DeviceInfo {
    DeviceInfo {
        id: id.into(),
        name: "Burn's CPU backend".into(),
        backend: "flex".into(),
        kind: DeviceKind::Reference,
        driver: String::new(),
        max_binding_bytes: None,
    }
}

/// Without OpenGL: it has no storage buffers to speak of, and shows each Vulkan adapter twice.
const BACKENDS: wgpu::Backends = wgpu::Backends::PRIMARY;

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: BACKENDS,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

/// Every adapter of every wgpu backend, numbered within its backend.
fn adapters(instance: &wgpu::Instance) -> Vec<(DeviceInfo, wgpu::Adapter)> {
    let mut count = std::collections::BTreeMap::new();
    let all = pollster::block_on(instance.enumerate_adapters(BACKENDS));
    let mut found = Vec::new();
    for adapter in all {
        let told = adapter.get_info();
        let backend = told.backend.to_string();
        let number = count.entry(backend.clone()).or_insert(0usize);
        let info = DeviceInfo {
            id: format!("{backend}:{number}"),
            name: told.name.clone(),
            backend,
            kind: match told.device_type {
                wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
                wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
                wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => DeviceKind::VirtualGpu,
                wgpu::DeviceType::Cpu => DeviceKind::SoftwareGpu,
            },
            driver: format!("{} {}", told.driver, told.driver_info)
                .trim()
                .to_owned(),
            max_binding_bytes: Some(adapter.limits().max_storage_buffer_binding_size),
        };
        *number += 1;
        found.push((info, adapter));
    }
    found
}

impl Device {
    /// The CPU through this crate's own bodies. Always there.
    pub fn cpu() -> Self {
        Self {
            info: cpu_info(),
            place: Place::Host,
        }
    }

    /// Opens a device by id (`cpu`, `vulkan:0`, `portable`), by a part of its name (`llvmpipe`),
    /// or the best one: a discrete GPU, else an integrated one, else the CPU. Software GPUs and
    /// references are opened by name only.
    ///
    /// # Errors
    /// No such device, more than one that fits the name, or one that lacks a needed limit.
    pub fn open(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else {
            let instance = instance();
            let best = adapters(&instance)
                .into_iter()
                .filter(|(info, _)| info.kind < DeviceKind::Cpu)
                .min_by_key(|(info, _)| info.kind);
            return best.map_or_else(
                || Ok(Self::cpu()),
                |(info, adapter)| open_adapter(instance, info, adapter, Kernels::asked()?),
            );
        };
        let wanted = name.trim().to_lowercase();
        if wanted.is_empty() {
            // As a part of a name it would fit every adapter.
            return Err(Error::Device {
                name: name.into(),
                problem: "found an empty name, expected an id or a part of a name".into(),
            });
        }
        if wanted == "cpu" {
            return Ok(Self::cpu());
        }
        if let Some((id, dtype)) = REFERENCES.iter().find(|(id, _)| *id == wanted) {
            let place = Place::Burn {
                device: burn::tensor::Device::flex(),
                dtype: *dtype,
            };
            return Ok(Self {
                info: reference_info(id),
                place,
            });
        }
        if wanted.starts_with("cuda") {
            return Err(Error::Device {
                name: name.into(),
                problem: "found a build without CUDA, expected one with the feature `cuda`".into(),
            });
        }
        Self::open_named(name, &wanted, Kernels::asked()?)
    }

    /// Opens a wgpu adapter, as [`Device::open`] does, with these kernels, whatever the environment
    /// says.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_with(name: &str, kernels: Kernels) -> Result<Self> {
        Self::open_named(name, &name.trim().to_lowercase(), kernels)
    }

    fn open_named(name: &str, wanted: &str, kernels: Kernels) -> Result<Self> {
        let instance = instance();
        let all = adapters(&instance);
        let exact = all.iter().position(|(info, _)| info.id == wanted);
        let by_name: Vec<usize> = (0..all.len())
            .filter(|&i| {
                all[i].0.name.to_lowercase().contains(wanted) || all[i].0.backend == wanted
            })
            .collect();
        let index = match (exact, by_name.as_slice()) {
            (Some(index), _) | (None, &[index]) => index,
            (None, []) => {
                let ids: Vec<_> = list()
                    .into_iter()
                    .map(|info| format!("{} ({})", info.id, info.name))
                    .collect();
                return Err(Error::Device {
                    name: name.into(),
                    problem: format!("found no such device, expected one of: {}", ids.join(", ")),
                });
            }
            (None, several) => {
                let ids: Vec<_> = several.iter().map(|&i| all[i].0.id.as_str()).collect();
                return Err(Error::Device {
                    name: name.into(),
                    problem: format!(
                        "found {} devices, expected one: name it as {}",
                        ids.len(),
                        ids.join(" or ")
                    ),
                });
            }
        };
        let (info, adapter) = all
            .into_iter()
            .nth(index)
            .expect("the index was found in this list");
        open_adapter(instance, info, adapter, kernels)
    }

    /// Whether this is the CPU with our own bodies.
    pub fn is_cpu(&self) -> bool {
        matches!(self.place, Place::Host)
    }
}

fn open_adapter(
    instance: wgpu::Instance,
    info: DeviceInfo,
    adapter: wgpu::Adapter,
    kernels: Kernels,
) -> Result<Device> {
    let limits = adapter.limits();
    let max_binding_bytes = limits
        .max_storage_buffer_binding_size
        .min(limits.max_buffer_size) as usize;
    let tuning = tuning(
        adapter.get_info().device_type,
        adapter.features().contains(wgpu::Features::SUBGROUP),
    )?;
    let needs = [
        (
            "max_storage_buffer_binding_size",
            limits.max_storage_buffer_binding_size,
            MAX_SLICE_BYTES as u64,
        ),
        (
            "max_storage_buffers_per_shader_stage",
            u64::from(limits.max_storage_buffers_per_shader_stage),
            8,
        ),
        (
            "max_compute_invocations_per_workgroup",
            u64::from(limits.max_compute_invocations_per_workgroup),
            256,
        ),
        (
            "max_compute_workgroup_storage_size",
            u64::from(limits.max_compute_workgroup_storage_size),
            16 << 10,
        ),
    ];
    for (limit, found, expected) in needs {
        if found < expected {
            return Err(Error::Device {
                name: info.name,
                problem: format!("limit {limit} is {found}, expected at least {expected}"),
            });
        }
    }
    let failed = |problem: String| Error::Device {
        name: info.name.clone(),
        problem,
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("sparsight"),
        // Mapping primary buffers makes every allocation host-visible, which is slow on a GPU.
        required_features: adapter.features()
            - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            - wgpu::Features::all_experimental_mask(),
        required_limits: limits,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|error| failed(format!("could not be opened: {error}")))?;
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup {
        instance,
        adapter,
        device,
        queue,
        backend,
    };
    let device = burn::tensor::Device::wgpu_options()
        .setup(setup)
        .init()
        .map_err(|error| failed(format!("could not be set up: {error}")))?;
    let place = match kernels {
        Kernels::Burn => Place::Burn {
            device,
            dtype: DType::F32,
        },
        Kernels::Ours { by_reference } => Place::Gpu {
            gpu: Gpu::new(&device, tuning, max_binding_bytes, by_reference)?,
        },
    };
    Ok(Device { info, place })
}

/// What computes on a wgpu adapter, to tell a wrong kernel from a wrong driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Our own kernels.
    Ours {
        /// Those of which the reference runs on the host instead, between two transfers.
        by_reference: Vec<&'static str>,
    },
    /// Burn's: the definition, as tensor code on the adapter.
    Burn,
}

/// For every device that is opened without saying: names of kernels whose reference is to run, `all`
/// for all of them, or `burn`.
const KERNELS_VARIABLE: &str = "SPARSIGHT_REFERENCE_KERNELS";

impl Kernels {
    /// Reads names of kernels with commas between, `all`, or `burn`.
    ///
    /// # Errors
    /// A name that no kernel has.
    pub fn parse(text: &str) -> Result<Self> {
        let known = || shaders::KERNELS.iter().map(|kernel| kernel.name);
        let by_reference = match text.trim() {
            "burn" => return Ok(Self::Burn),
            "all" => known().collect(),
            names => names
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(|name| {
                    known().find(|kernel| *kernel == name).ok_or_else(|| {
                        let known: Vec<_> = known().collect();
                        Error::Setting {
                            name: KERNELS_VARIABLE.into(),
                            found: name.into(),
                            expected: format!("all, burn, or some of {}", known.join(", ")),
                        }
                    })
                })
                .collect::<Result<_>>()?,
        };
        Ok(Self::Ours { by_reference })
    }

    fn asked() -> Result<Self> {
        Self::parse(&std::env::var(KERNELS_VARIABLE).unwrap_or_default())
    }
}
