//! What Mesa's compiler makes of each kernel for AMD GPUs, with the knobs of V3.2's launches: registers,
//! spills, occupancy. No GPU is needed; RADV compiles for a device that is not there.
//!
//! `cargo bench --bench amd_statistics -- NAME` takes those whose names contain NAME; without a name all.
//! Fails if a kernel spills registers or keeps an array in scratch memory. Linux with Mesa's Vulkan drivers.

#![allow(
    unsafe_code,
    reason = "Vulkan is a C interface, and wgpu does not pass these statistics on"
)]

#[path = "amd_statistics/launches.rs"]
mod launches;

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{CStr, CString};
use std::process::{Command, ExitCode};

use ash::vk;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use shaders::KERNELS;
use shaders::kernel::{Dispatch, Tuning};

use launches::launches;

/// RDNA 3, RDNA 2, GCN 5; names that Mesa 22.3 knows.
const FAMILIES: [&str; 3] = ["gfx1100", "navi21", "vega10"];
/// Makes RADV compile for a family. Read once a process, so each family has its own.
const FORCE_FAMILY: &str = "RADV_FORCE_FAMILY";
/// Where distributions keep the loader's driver files.
const DRIVERS: &str = "/usr/share/vulkan/icd.d";
/// Columns of the table: what it says, what RADV calls it, and whether it must be zero.
const COLUMNS: &[(&str, &str, bool)] = &[
    ("lanes/subgroup", SUBGROUP_SIZE, false),
    ("VGPRs", "VGPRs", false),
    ("SGPRs", "SGPRs", false),
    ("spilled VGPRs", "Spilled VGPRs", true),
    ("spilled SGPRs", "Spilled SGPRs", true),
    ("scratch bytes", "Scratch size", true),
    ("LDS bytes", "LDS size", false),
    ("subgroups/SIMD", "Subgroups per SIMD", false),
    ("instructions", "Instructions", false),
];

/// Not among RADV's statistics but beside them.
const SUBGROUP_SIZE: &str = "subgroup size";

/// RADV's numbers by name.
type Statistics = BTreeMap<String, u64>;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    // `cargo bench` passes `--bench`.
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let rows = rows(&names)?;
    if std::env::var_os(FORCE_FAMILY).is_some() {
        print_columns(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let driver = std::fs::read_dir(DRIVERS)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("radeon_icd"))
        .ok_or("no radeon_icd file: install Mesa's Vulkan drivers")?;
    let mut families = Vec::new();
    for family in FAMILIES {
        let output = Command::new(std::env::current_exe()?)
            .args(&names)
            .env(FORCE_FAMILY, family)
            .env("VK_ICD_FILENAMES", &driver)
            .output()?;
        if !output.status.success() {
            return Err(format!("{family}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let lines: Vec<Vec<u64>> = String::from_utf8(output.stdout)?
            .lines()
            .map(|line| line.split(' ').map(str::parse).collect())
            .collect::<Result<_, _>>()?;
        families.push(lines);
    }
    Ok(print_table(&rows, &families))
}

/// The launches of V3.2 on a GPU whose texts differ, without and with subgroup operations.
fn rows(names: &[String]) -> Result<Vec<Dispatch>, String> {
    let mut rows: Vec<Dispatch> = Vec::new();
    for subgroups in [false, true] {
        let tuning = Tuning {
            subgroups,
            fat_threads: false,
        };
        for mut row in launches(&tuning) {
            row.subgroups = subgroups && row.kernel.has_subgroup_text();
            let same = |other: &Dispatch| {
                std::ptr::eq(other.kernel, row.kernel)
                    && (&other.knobs, other.subgroups) == (&row.knobs, row.subgroups)
            };
            if !rows.iter().any(same) {
                rows.push(row);
            }
        }
    }
    for kernel in KERNELS {
        let launched = rows.iter().any(|row| row.kernel.name == kernel.name);
        if !launched {
            return Err(format!("launches.rs has no launch of {}", kernel.name));
        }
    }
    rows.retain(|row| names.is_empty() || names.iter().any(|name| row.kernel.name.contains(name)));
    rows.sort_by_key(|row| row.kernel.name);
    Ok(rows)
}

/// Prints the table, families side by side where they differ, and tells whether all is well.
fn print_table(rows: &[Dispatch], families: &[Vec<Vec<u64>>]) -> ExitCode {
    println!(
        "Numbers of {}, one where they agree.\n",
        FAMILIES.join(" / ")
    );
    let titles: Vec<_> = COLUMNS.iter().map(|(title, ..)| *title).collect();
    println!("| kernel | knobs | {} |", titles.join(" | "));
    println!("|---|---|{}", "---:|".repeat(COLUMNS.len()));
    let mut n_bad = 0;
    for (at, row) in rows.iter().enumerate() {
        let mut knobs: Vec<_> = row
            .knobs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if row.subgroups {
            knobs.push("subgroups".into());
        }
        let mut bad = false;
        let mut cells = Vec::new();
        for (column, (_, _, must_be_zero)) in COLUMNS.iter().enumerate() {
            let mut values: Vec<_> = families.iter().map(|lines| lines[at][column]).collect();
            bad |= *must_be_zero && values.iter().any(|&value| value > 0);
            if values.iter().all(|value| *value == values[0]) {
                values.truncate(1);
            }
            let values: Vec<_> = values.iter().map(u64::to_string).collect();
            cells.push(values.join(" / "));
        }
        let mark = if bad { " (spills)" } else { "" };
        n_bad += usize::from(bad);
        println!(
            "| {}{mark} | {} | {} |",
            row.kernel.name,
            knobs.join(" "),
            cells.join(" | ")
        );
    }
    println!("\n{n_bad} of {} texts spill.", rows.len());
    if n_bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One line of numbers a row, for the process that started this one.
fn print_columns(rows: &[Dispatch]) -> Result<(), Box<dyn Error>> {
    let compiler = Compiler::new()?;
    for row in rows {
        let what =
            |error: &dyn std::fmt::Display| format!("{} {:?}: {error}", row.kernel.name, row.knobs);
        let statistics = compiler.statistics(row).map_err(|error| what(&error))?;
        let mut numbers = Vec::new();
        for (_, name, _) in COLUMNS {
            let number = statistics.get(*name);
            let number = number.ok_or_else(|| what(&format!("no {name:?} in {statistics:?}")))?;
            numbers.push(number.to_string());
        }
        println!("{}", numbers.join(" "));
    }
    Ok(())
}

/// The text as the engine's runtime would hand it to the driver.
fn to_spirv(row: &Dispatch) -> Result<(Module, Vec<u32>), Box<dyn Error>> {
    use naga::back::spv;
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};

    let text = row.kernel.source(&row.knobs, row.subgroups);
    let module =
        naga::front::wgsl::parse_str(&text).map_err(|error| error.emit_to_string(&text))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(&text))?;
    let options = spv::Options {
        lang_version: (1, 5), // of Vulkan 1.2
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Unchecked,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: row.kernel.name.into(),
    };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))?;
    Ok((module, words))
}

/// RADV, with a device that is not there. Lives as long as its process and frees nothing.
struct Compiler {
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    _entry: ash::Entry,
}

impl Compiler {
    fn new() -> Result<Self, Box<dyn Error>> {
        let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
        let instance_info = vk::InstanceCreateInfo::default().application_info(&app);
        let names = [ash::khr::pipeline_executable_properties::NAME.as_ptr()];
        let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
        let mut feature = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
            .pipeline_executable_info(true);
        let device_info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(&mut feature);
        // SAFETY: every structure above outlives the calls, and the entry outlives what comes from it.
        unsafe {
            let entry = ash::Entry::load()?;
            let instance = entry.create_instance(&instance_info, None)?;
            let physical = instance.enumerate_physical_devices()?;
            let physical = *physical.first().ok_or("RADV knows no such family")?;
            let device = instance.create_device(physical, &device_info, None)?;
            Ok(Self {
                executables: ash::khr::pipeline_executable_properties::Device::new(
                    &instance, &device,
                ),
                device,
                _entry: entry,
            })
        }
    }

    fn statistics(&self, row: &Dispatch) -> Result<Statistics, Box<dyn Error>> {
        let (module, words) = to_spirv(row)?;
        let bindings: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let kind = match variable.space {
                    AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                    _ => vk::DescriptorType::STORAGE_BUFFER,
                };
                let binding = vk::DescriptorSetLayoutBinding::default()
                    .binding(variable.binding?.binding)
                    .descriptor_type(kind)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE);
                Some(binding)
            })
            .collect();
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        let shader = vk::ShaderModuleCreateInfo::default().code(&words);
        let name = CString::new(row.kernel.name)?;
        let mut statistics = Statistics::new();
        // SAFETY: naga wrote valid SPIR-V, the layout has what it declares, and every structure outlives
        // the call that reads it.
        unsafe {
            let sets = [self.device.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(self.device.create_shader_module(&shader, None)?)
                .name(&name);
            let pipeline = vk::ComputePipelineCreateInfo::default()
                .stage(stage)
                .layout(self.device.create_pipeline_layout(&layout, None)?)
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR);
            let cache = vk::PipelineCache::null();
            let pipelines = self
                .device
                .create_compute_pipelines(cache, &[pipeline], None);
            let pipelines = pipelines.map_err(|(_, error)| error)?;
            let info = vk::PipelineInfoKHR::default().pipeline(pipelines[0]);
            for found in self.executables.get_pipeline_executable_properties(&info)? {
                statistics.insert(SUBGROUP_SIZE.into(), found.subgroup_size.into());
            }
            let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]);
            for found in self
                .executables
                .get_pipeline_executable_statistics(&executable)?
            {
                let name = CStr::from_ptr(found.name.as_ptr())
                    .to_string_lossy()
                    .into_owned();
                // RADV has integers only.
                statistics.insert(name, found.value.u64);
            }
        }
        Ok(statistics)
    }
}
