//! From WGSL to what each platform's driver takes, with the options of the engine's runtime: no checks
//! of bounds and loops, workgroup memory as it is found.

use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use naga::{Module, ShaderStage};

const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// Translates the entry point `entry` for every platform.
pub fn translate(
    entry: &str,
    module: &Module,
    info: &ModuleInfo,
    subgroups: bool,
) -> Result<(), String> {
    to_spirv(entry, module, info, subgroups).map_err(|error| format!("SPIR-V: {error}"))?;
    to_msl(entry, module, info).map_err(|error| format!("MSL: {error}"))?;
    to_hlsl(entry, module, info, subgroups).map_err(|error| format!("HLSL: {error}"))?;
    to_glsl(entry, module, info).map_err(|error| format!("GLSL ES: {error}"))
}

/// Vulkan. Version 1.0 and the one capability that every device has; subgroups came with 1.1.
fn to_spirv(
    entry: &str,
    module: &Module,
    info: &ModuleInfo,
    subgroups: bool,
) -> Result<(), spv::Error> {
    let mut capabilities = naga::FastHashSet::from_iter([spv::Capability::Shader]);
    if subgroups {
        capabilities.extend([
            spv::Capability::GroupNonUniform,
            spv::Capability::GroupNonUniformVote,
            spv::Capability::GroupNonUniformArithmetic,
            spv::Capability::GroupNonUniformBallot,
            spv::Capability::GroupNonUniformShuffle,
            spv::Capability::GroupNonUniformShuffleRelative,
        ]);
    }
    let options = spv::Options {
        lang_version: if subgroups { (1, 3) } else { (1, 0) },
        capabilities: Some(capabilities),
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: entry.into(),
    };
    spv::write_vec(module, info, &options, Some(&pipeline)).map(|_| ())
}

/// Metal 2.3: macOS 11, the first for Apple's own processors.
fn to_msl(entry: &str, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let bindings = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| variable.binding);
    let resources = msl::EntryPointResources {
        resources: bindings
            .map(|binding| {
                let target = msl::BindTarget {
                    buffer: Some(binding.binding as u8),
                    mutable: true,
                    ..msl::BindTarget::default()
                };
                (binding, target)
            })
            .collect(),
        // Behind all others; holds the lengths of the runtime's arrays.
        sizes_buffer: Some(30),
        ..msl::EntryPointResources::default()
    };
    let options = msl::Options {
        lang_version: (2, 3),
        per_entry_point_map: [(entry.to_string(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..msl::Options::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.into())),
        ..msl::PipelineOptions::default()
    };
    let written = msl::write_string(module, info, &options, &pipeline);
    let (_, info) = written.map_err(|error| error.to_string())?;
    all_written(info.entry_point_names)
}

/// Direct3D 12. Shader model 5.1 is what the compiler of every Windows takes; subgroups came with 6.0.
fn to_hlsl(entry: &str, module: &Module, info: &ModuleInfo, subgroups: bool) -> Result<(), String> {
    let bindings = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| variable.binding);
    let options = hlsl::Options {
        shader_model: match subgroups {
            true => hlsl::ShaderModel::V6_0,
            false => hlsl::ShaderModel::V5_1,
        },
        binding_map: bindings
            .map(|binding| {
                let target = hlsl::BindTarget {
                    register: binding.binding,
                    ..hlsl::BindTarget::default()
                };
                (binding, target)
            })
            .collect(),
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.into())),
    };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
    let info = writer
        .write(module, info, None)
        .map_err(|error| error.to_string())?;
    all_written(info.entry_point_names)
}

/// OpenGL ES 3.10: phones, small boards, virtual machines.
fn to_glsl(entry: &str, module: &Module, info: &ModuleInfo) -> Result<(), glsl::Error> {
    let options = glsl::Options {
        version: glsl::Version::new_gles(310),
        zero_initialize_workgroup_memory: false,
        ..glsl::Options::default()
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: entry.into(),
        multiview: None,
    };
    let mut text = String::new();
    let mut writer = glsl::Writer::new(&mut text, module, info, &options, &pipeline, UNCHECKED)?;
    writer.write().map(|_| ())
}

/// MSL and HLSL report an entry point's missing bindings apart from everything else.
fn all_written<E: std::fmt::Display>(names: Vec<Result<String, E>>) -> Result<(), String> {
    for name in names {
        name.map_err(|error| error.to_string())?;
    }
    Ok(())
}
