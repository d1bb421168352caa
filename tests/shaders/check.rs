//! What a kernel's row of the table promises about its text, and what every adapter asks of it.

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, GlobalVariable, Module, ScalarKind, ShaderStage, StorageAccess, TypeInner,
};
use shaders::kernel::Kernel;

/// Storage bindings that a launch may have: WebGPU grants 8, the engine's runtime keeps one.
const MOST_STORAGE: usize = 7;
/// Lanes that WebGPU grants.
const MOST_LANES: u32 = 256;
/// Bytes of workgroup memory that WebGPU grants.
const MOST_WORKGROUP_BYTES: u32 = 16 << 10;

/// Fails unless `condition` holds.
fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// The `override` lines of the unchanged text and the knobs are the same, and so are the defaults.
pub fn check_knobs(kernel: &Kernel) -> Result<(), String> {
    let mut left: Vec<_> = kernel.knobs.iter().collect();
    for piece in kernel.pieces {
        for text in [Some(piece.plain), piece.subgroup].into_iter().flatten() {
            for line in text.lines().filter(|line| line.starts_with("override")) {
                let (name, default) = parse_override(line)
                    .ok_or_else(|| format!("not `override NAME: u32 = 1u;`: {line}"))?;
                let at = left.iter().position(|knob| knob.name == name);
                let at = at.ok_or_else(|| format!("no knob for `{line}`, or two such lines"))?;
                let knob = left.remove(at);
                ensure(knob.default == default, || {
                    format!("knob {name} says {}, the text {default}", knob.default)
                })?;
            }
        }
    }
    ensure(left.is_empty(), || format!("no override line for {left:?}"))?;
    for knob in kernel.knobs {
        let mut values = knob.values.to_vec();
        values.sort_unstable();
        values.dedup();
        ensure(values.len() == knob.values.len(), || {
            format!("{knob:?} has a value twice")
        })?;
        ensure(values.contains(&knob.default), || {
            format!("{knob:?} has a default of its own")
        })?;
    }
    Ok(())
}

/// Name and default of a line `override NAME: u32 = 1u;`.
fn parse_override(line: &str) -> Option<(&str, u32)> {
    let (declaration, _comment) = line.strip_prefix("override ")?.split_once(';')?;
    let (name, default) = declaration.split_once(": u32 = ")?;
    Some((name, default.strip_suffix('u')?.parse().ok()?))
}

/// Parses a text with all knobs fixed and checks it against the row.
pub fn check_text(
    kernel: &Kernel,
    text: &str,
    subgroups: bool,
) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    ensure(module.overrides.is_empty(), || "an override is left".into())?;
    // What every adapter of WebGPU has, and no more. This one is `unpack2x16float`.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    check_entry_point(kernel, &module, &info)?;
    check_bindings(kernel, &module, &info)?;
    check_params(kernel, &module)?;
    Ok((module, info))
}

/// One entry point, named as the kernel, of a size that every adapter runs.
fn check_entry_point(kernel: &Kernel, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let [entry] = module.entry_points.as_slice() else {
        return Err(format!("{} entry points", module.entry_points.len()));
    };
    ensure(
        entry.name == kernel.name && entry.stage == ShaderStage::Compute,
        || format!("entry point {:?} {}", entry.stage, entry.name),
    )?;
    let lanes: u32 = entry.workgroup_size.iter().product();
    ensure(lanes <= MOST_LANES, || format!("{lanes} lanes"))?;
    let mut layouter = naga::proc::Layouter::default();
    layouter
        .update(module.to_ctx())
        .map_err(|error| error.to_string())?;
    let used = info.get_entry_point(0);
    // Each variable takes a multiple of 16 bytes.
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(at, variable)| variable.space == AddressSpace::WorkGroup && !used[*at].is_empty())
        .map(|(_, variable)| layouter[variable.ty].size.next_multiple_of(16))
        .sum();
    ensure(bytes <= MOST_WORKGROUP_BYTES, || {
        format!("{bytes} bytes of workgroup memory")
    })
}

/// Bindings are those of the row, in its order, all of them in use, and `params` behind them.
fn check_bindings(kernel: &Kernel, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let mut bound: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(at, variable)| variable.binding.map(|binding| (binding, at, variable)))
        .collect();
    bound.sort_by_key(|(binding, ..)| (binding.group, binding.binding));
    let names: Vec<_> = bound
        .iter()
        .map(|(_, _, variable)| name(variable))
        .collect();
    let expected: Vec<_> = kernel.bindings.iter().copied().chain(["params"]).collect();
    ensure(names == expected, || {
        format!("bindings {names:?} and not {expected:?}")
    })?;
    ensure(kernel.bindings.len() <= MOST_STORAGE, || {
        format!("{} storage bindings", kernel.bindings.len())
    })?;
    let used = info.get_entry_point(0);
    for (at, (binding, handle, variable)) in bound.iter().enumerate() {
        let name = name(variable);
        ensure((binding.group, binding.binding as usize) == (0, at), || {
            format!(
                "{name} is at group {} binding {}",
                binding.group, binding.binding
            )
        })?;
        let space = match at < kernel.bindings.len() {
            // Tensors are slices of shared buffers: `read` beside `read_write` of one buffer is an error.
            true => AddressSpace::Storage {
                access: StorageAccess::LOAD | StorageAccess::STORE,
            },
            false => AddressSpace::Uniform,
        };
        ensure(variable.space == space, || {
            format!("{name} is {:?} and not {space:?}", variable.space)
        })?;
        // An automatic layout leaves unused ones out, and the launch fails.
        ensure(!used[*handle].is_empty(), || format!("{name} is not used"))?;
    }
    Ok(())
}

/// `Params` has the fields of its Rust struct, at the same places.
fn check_params(kernel: &Kernel, module: &Module) -> Result<(), String> {
    let params = module
        .global_variables
        .iter()
        .find(|(_, variable)| name(variable) == "params")
        .map(|(_, variable)| &module.types[variable.ty]);
    let Some(naga::Type {
        name: Some(name),
        inner: TypeInner::Struct { members, span },
    }) = params
    else {
        return Err(format!("params is no struct but {params:?}"));
    };
    ensure(name == "Params", || format!("params is a {name}"))?;
    let fields: Vec<_> = members
        .iter()
        .map(|member| (member.name.as_deref().unwrap_or(""), member.offset as usize))
        .collect();
    let expected = kernel.params;
    ensure(fields == expected.fields, || {
        format!("Params {fields:?} and not {:?}", expected.fields)
    })?;
    ensure(*span as usize == expected.size_bytes, || {
        format!("Params has {span} bytes and not {}", expected.size_bytes)
    })?;
    // The runtime takes parameters as 8-byte words.
    ensure(span % 8 == 0, || {
        format!("Params has {span} bytes, no multiple of 8")
    })?;
    for member in members {
        let four_bytes = matches!(
            module.types[member.ty].inner,
            TypeInner::Scalar(scalar) if scalar.width == 4 && scalar.kind != ScalarKind::Bool
        );
        ensure(four_bytes, || {
            format!("Params field {:?} is no 4-byte scalar", member.name)
        })?;
    }
    Ok(())
}

fn name(variable: &GlobalVariable) -> &str {
    variable.name.as_deref().unwrap_or("")
}
