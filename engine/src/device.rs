//! Lists and opens the devices a model can run on.
//!
//! A device is the CPU with our own bodies (`cpu`), a wgpu adapter, or Burn's CPU backend, which
//! runs the portable bodies and is there to check the others (`portable`, `portable-f64`).
//! An adapter is opened once and handed out again: Burn keeps what was opened as long as the program.
//! What runs where is decided once, here, and shows in where the weights live
//! once a model is loaded; no operation asks again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

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
#[derive(Clone, Debug, PartialEq)]
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
    found.extend(adapters(&instance()).into_iter().map(|found| found.info));
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

/// An adapter, and what it takes to choose one.
struct Found<A = wgpu::Adapter> {
    info: DeviceInfo,
    /// Vendor and product, by which the adapters of one card are known under several APIs.
    card: (u32, u32),
    adapter: A,
}

/// Which of the APIs that show a card is taken, best first: the machine's own, then the one that every
/// kernel was measured through.
const APIS: &[&str] = &["metal", "vulkan", "dx12"];

impl<A> Found<A> {
    fn api_rank(&self) -> usize {
        let api = APIS.iter().position(|api| *api == self.info.backend);
        api.unwrap_or(APIS.len())
    }
}

/// The best GPU, if there is any that is better than the CPU.
fn best<A>(all: &[Found<A>]) -> Option<usize> {
    let gpus = (0..all.len()).filter(|&i| all[i].info.kind < DeviceKind::Cpu);
    gpus.min_by_key(|&i| (all[i].info.kind, all[i].api_rank()))
}

/// The adapter with this id, or the one whose name has this part. Of a card that several APIs show, it is
/// that of the best API; the id in [`DeviceInfo`] says which.
///
/// # Errors
/// None, or several cards, as a problem in words.
fn choose<A>(all: &[Found<A>], wanted: &str) -> std::result::Result<usize, String> {
    if let Some(exact) = all.iter().position(|found| found.info.id == wanted) {
        return Ok(exact);
    }
    let is_named =
        |info: &DeviceInfo| info.name.to_lowercase().contains(wanted) || info.backend == wanted;
    let named: Vec<usize> = (0..all.len()).filter(|&i| is_named(&all[i].info)).collect();
    let is_best = |&&i: &&usize| {
        let same = named
            .iter()
            .filter(|&&other| all[other].card == all[i].card);
        same.map(|&other| all[other].api_rank()).min() == Some(all[i].api_rank())
    };
    let cards: Vec<usize> = named.iter().filter(is_best).copied().collect();
    let told = |i: &usize| format!("{} ({})", all[*i].info.id, all[*i].info.name);
    match cards.as_slice() {
        [one] => Ok(*one),
        [] => {
            let mut known = vec!["cpu".into()];
            known.extend((0..all.len()).map(|i| told(&i)));
            known.extend(REFERENCES.iter().map(|(id, _)| (*id).to_owned()));
            Err(format!(
                "found no such device, expected one of: {}",
                known.join(", ")
            ))
        }
        several => {
            let ids: Vec<_> = several.iter().map(told).collect();
            let n = ids.len();
            Err(format!(
                "found {n} devices, expected one: name it as {}",
                ids.join(" or ")
            ))
        }
    }
}

/// Every adapter of every wgpu backend, numbered within its backend.
fn adapters(instance: &wgpu::Instance) -> Vec<Found> {
    let mut count = std::collections::BTreeMap::new();
    let all = crate::wait::block_on(instance.enumerate_adapters(BACKENDS));
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
        found.push(Found {
            info,
            card: (told.vendor, told.device),
            adapter,
        });
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
            let mut all = adapters(&instance);
            return match best(&all) {
                Some(index) => open_adapter(instance, all.swap_remove(index), Kernels::asked()?),
                None => Ok(Self::cpu()),
            };
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
        let mut all = adapters(&instance);
        let index = choose(&all, wanted).map_err(|problem| Error::Device {
            name: name.into(),
            problem,
        })?;
        open_adapter(instance, all.swap_remove(index), kernels)
    }

    /// The same device as if it granted no larger binding, if it is a wgpu adapter: weights are then cut
    /// into more slices and caches hold less. For tests of that.
    pub fn with_bindings_of(mut self, max_binding_bytes: usize) -> Self {
        if let Place::Gpu { gpu } = &mut self.place {
            *gpu = gpu.with_bindings_of(max_binding_bytes);
            self.info.max_binding_bytes = Some(max_binding_bytes as u64);
        }
        self
    }

    /// Whether this is the CPU with our own bodies.
    pub fn is_cpu(&self) -> bool {
        matches!(self.place, Place::Host)
    }
}

fn open_adapter(instance: wgpu::Instance, found: Found, kernels: Kernels) -> Result<Device> {
    let Found { info, adapter, .. } = found;
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
    let device = opened(instance, &info, adapter)?;
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

/// The adapters that were opened so far.
static OPENED: Mutex<Vec<(DeviceInfo, burn::tensor::Device)>> = Mutex::new(Vec::new());

/// The device of an adapter: the one opened before, unless it was lost since, as by a driver's reset.
fn opened(
    instance: wgpu::Instance,
    info: &DeviceInfo,
    adapter: wgpu::Adapter,
) -> Result<burn::tensor::Device> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.retain(|(known, device)| known != info || is_alive(device));
    if let Some((_, device)) = opened.iter().find(|(known, _)| known == info) {
        return Ok(device.clone());
    }
    let device = open(instance, info, adapter)?;
    opened.push((info.clone(), device.clone()));
    Ok(device)
}

/// Gives back what the last model left in the device's pools of memory. A lost device fails at that, or
/// at waiting for it, some by a panic.
fn is_alive(device: &burn::tensor::Device) -> bool {
    let cleaned = || {
        device.memory_cleanup();
        device.sync().is_ok()
    };
    catch_unwind(AssertUnwindSafe(cleaned)).unwrap_or(false)
}

fn open(
    instance: wgpu::Instance,
    info: &DeviceInfo,
    adapter: wgpu::Adapter,
) -> Result<burn::tensor::Device> {
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
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = crate::wait::block_on(adapter.request_device(&descriptor))
        .map_err(|error| failed(format!("could not be opened: {error}")))?;
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup {
        instance,
        adapter,
        device,
        queue,
        backend,
    };
    burn::tensor::Device::wgpu_options()
        .setup(setup)
        .init()
        .map_err(|error| failed(format!("could not be set up: {error}")))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    /// Id, name, kind, card.
    type Row = (&'static str, &'static str, DeviceKind, u32);

    fn machine(rows: &[Row]) -> Vec<Found<()>> {
        let found = |&(id, name, kind, card): &Row| Found {
            info: DeviceInfo {
                id: id.into(),
                name: name.into(),
                backend: id.split(':').next().unwrap().into(),
                kind,
                driver: String::new(),
                max_binding_bytes: None,
            },
            card: (1, card),
            adapter: (),
        };
        rows.iter().map(found).collect()
    }

    use DeviceKind::{DiscreteGpu, IntegratedGpu, SoftwareGpu};

    /// A desktop with one card and one unit, each under two APIs, and the drivers on the CPU.
    const WINDOWS: &[Row] = &[
        ("dx12:0", "NVIDIA GeForce RTX 4090", DiscreteGpu, 7),
        ("dx12:1", "AMD Radeon(TM) Graphics", IntegratedGpu, 8),
        ("dx12:2", "Microsoft Basic Render Driver", SoftwareGpu, 9),
        ("vulkan:0", "AMD Radeon(TM) Graphics", IntegratedGpu, 8),
        ("vulkan:1", "NVIDIA GeForce RTX 4090", DiscreteGpu, 7),
    ];
    const TWINS: &[Row] = &[
        ("vulkan:0", "NVIDIA GeForce RTX 4090", DiscreteGpu, 7),
        ("vulkan:1", "NVIDIA GeForce RTX 4090", DiscreteGpu, 7),
        ("dx12:0", "NVIDIA GeForce RTX 4090", DiscreteGpu, 7),
        ("dx12:1", "NVIDIA GeForce RTX 4090", DiscreteGpu, 7),
    ];
    const MAC: &[Row] = &[
        ("vulkan:0", "Apple M3", IntegratedGpu, 1),
        ("metal:0", "Apple M3", IntegratedGpu, 2),
    ];

    #[test]
    fn a_name_means_a_card_and_the_better_api_is_taken() {
        for (rows, wanted, expected) in [
            (WINDOWS, "4090", Ok("vulkan:1")),
            (WINDOWS, "radeon", Ok("vulkan:0")),
            (WINDOWS, "basic render", Ok("dx12:2")),
            // An id, and an API that shows one card alone.
            (WINDOWS, "dx12:0", Ok("dx12:0")),
            (&WINDOWS[1..4], "vulkan", Ok("vulkan:0")),
            (
                WINDOWS,
                "vulkan",
                Err(
                    "found 2 devices, expected one: name it as vulkan:0 (AMD Radeon(TM) Graphics) or vulkan:1",
                ),
            ),
            (
                WINDOWS,
                "r",
                Err("found 3 devices, expected one: name it as dx12:2"),
            ),
            (
                WINDOWS,
                "geforce rtx 5090",
                Err(
                    "found no such device, expected one of: cpu, dx12:0 (NVIDIA GeForce RTX 4090), dx12:1",
                ),
            ),
            (
                TWINS,
                "4090",
                Err(
                    "name it as vulkan:0 (NVIDIA GeForce RTX 4090) or vulkan:1 (NVIDIA GeForce RTX 4090)",
                ),
            ),
            // Two layers may number one card in two ways: then it takes an id.
            (
                MAC,
                "m3",
                Err("name it as vulkan:0 (Apple M3) or metal:0 (Apple M3)"),
            ),
            (
                &[],
                "4090",
                Err("expected one of: cpu, portable, portable-f64"),
            ),
        ] {
            let all = machine(rows);
            let chosen = choose(&all, wanted).map(|index| all[index].info.id.as_str());
            match (&chosen, expected) {
                (Ok(id), Ok(expected)) => assert_eq!(*id, expected, "{wanted}"),
                (Err(problem), Err(text)) => assert!(problem.contains(text), "{wanted}: {problem}"),
                _ => panic!("{wanted}: {chosen:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn the_best_gpu_is_taken_through_the_better_api() {
        for (rows, expected) in [
            (WINDOWS, Some("vulkan:1")),
            (TWINS, Some("vulkan:0")),
            (MAC, Some("metal:0")),
            (&WINDOWS[1..3], Some("dx12:1")),
            (&WINDOWS[2..3], None),
            (&[], None),
        ] {
            let all = machine(rows);
            assert_eq!(
                best(&all).map(|index| all[index].info.id.as_str()),
                expected
            );
        }
    }
}
