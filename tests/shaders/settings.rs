//! The knob settings that are tried. The example `write_shaders` takes them from here too.

use std::collections::BTreeSet;

use shaders::kernel::Kernel;

/// A value for every knob of a kernel.
pub type Setting = Vec<(&'static str, u32)>;

/// Above this many, not every combination is tried but every value of every two knobs.
const MOST: usize = 400;

/// Every combination of knob values, or where they are too many every pair of values, the other knobs
/// at their defaults.
pub fn settings(kernel: &Kernel) -> Vec<Setting> {
    let defaults: Setting = kernel
        .knobs
        .iter()
        .map(|knob| (knob.name, knob.default))
        .collect();
    let combinations: usize = kernel.knobs.iter().map(|knob| knob.values.len()).product();
    let mut all = BTreeSet::from([defaults.clone()]);
    if combinations <= MOST {
        for at in 0..kernel.knobs.len() {
            all = with_every_value(kernel, all, at);
        }
    } else {
        for first in 0..kernel.knobs.len() {
            for second in 0..first {
                let one = with_every_value(kernel, BTreeSet::from([defaults.clone()]), first);
                all.extend(with_every_value(kernel, one, second));
            }
        }
    }
    all.into_iter().collect()
}

/// The settings, with every value of the knob `at` in turn.
fn with_every_value(kernel: &Kernel, from: BTreeSet<Setting>, at: usize) -> BTreeSet<Setting> {
    let values = kernel.knobs[at].values;
    from.iter()
        .flat_map(|setting| {
            values.iter().map(|&value| {
                let mut setting = setting.clone();
                setting[at].1 = value;
                setting
            })
        })
        .collect()
}
