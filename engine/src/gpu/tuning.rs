//! Which variant of the kernels an adapter gets, decided once when it is opened.

use shaders::Tuning;

use crate::{Error, Result};

/// Sets a knob for every adapter, to find out which variant is at fault: `subgroups=0,fat_threads=1`.
const VARIABLE: &str = "SPARSIGHT_TUNING";

/// The tuning for an adapter: a table by what it reports, then what the environment says.
///
/// | adapter | `subgroups` | `fat_threads` | why |
/// |---|---|---|---|
/// | software (lavapipe, SwiftShader) | no | yes | a lane is a SIMD lane of one core: barriers split the program; one lane a row was 2.4 times as fast for a matrix-vector product |
/// | any GPU with subgroup operations | yes | no | a workgroup sum without log2(WG) barriers |
/// | any other | no | no | |
///
/// # Errors
/// The variable names an unknown knob or a value other than 0 and 1, or subgroups that the adapter
/// does not have.
pub(crate) fn tuning(device_type: wgpu::DeviceType, has_subgroups: bool) -> Result<Tuning> {
    let software = device_type == wgpu::DeviceType::Cpu;
    let chosen = Tuning {
        subgroups: has_subgroups && !software,
        fat_threads: software,
    };
    match std::env::var(VARIABLE) {
        Ok(text) => overridden(chosen, has_subgroups, &text),
        Err(_) => Ok(chosen),
    }
}

fn overridden(mut tuning: Tuning, has_subgroups: bool, text: &str) -> Result<Tuning> {
    let wrong = |expected: &str| Error::Setting {
        name: VARIABLE.into(),
        found: text.into(),
        expected: expected.into(),
    };
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| wrong("NAME=0 or NAME=1"))?;
        let value = match value.trim() {
            "0" => false,
            "1" => true,
            _ => return Err(wrong("0 or 1 as a value")),
        };
        match name.trim() {
            "subgroups" if value && !has_subgroups => {
                return Err(wrong(
                    "subgroups=0: this adapter has no subgroup operations",
                ));
            }
            "subgroups" => tuning.subgroups = value,
            "fat_threads" => tuning.fat_threads = value,
            _ => return Err(wrong("subgroups or fat_threads as a name")),
        }
    }
    Ok(tuning)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn software_gets_fat_threads_and_gpus_get_subgroups() {
        let of = |kind, has| tuning(kind, has).unwrap();
        assert!(of(wgpu::DeviceType::Cpu, true).fat_threads);
        assert!(of(wgpu::DeviceType::DiscreteGpu, true).subgroups);
        assert!(!of(wgpu::DeviceType::IntegratedGpu, false).subgroups);
    }

    #[test]
    fn the_variable_is_checked() {
        let base = tuning(wgpu::DeviceType::Cpu, false).unwrap();
        let set = |text| overridden(base, false, text);
        assert!(!set("fat_threads=0").unwrap().fat_threads);
        for text in ["subgroups=1", "lanes=1", "fat_threads", "fat_threads=2"] {
            assert!(set(text).is_err(), "{text}");
        }
    }
}
