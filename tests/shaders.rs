//! Every kernel of the table without a device: what its row says is in its text, and the text stays
//! within what every adapter grants and translates for every platform. Errors of this kind come late and
//! far from their cause otherwise: as a panic of a device's thread, or on somebody else's machine.

mod check;
mod faults;
mod settings;
mod translate;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use shaders::KERNELS;
use shaders::kernel::Kernel;

use check::{check_knobs, check_text};
use settings::{Setting, settings};
use translate::translate;

/// Everything that must hold of one text of a kernel.
fn check(kernel: &Kernel, setting: &Setting, subgroups: bool) -> Result<(), String> {
    let text = kernel.source(setting, subgroups);
    let (module, info) = check_text(kernel, &text, subgroups)?;
    translate(kernel.name, &module, &info, subgroups)
}

/// Every text of a kernel: each setting, without and with subgroups.
fn texts(kernel: &'static Kernel) -> impl Iterator<Item = (&'static Kernel, Setting, bool)> {
    settings(kernel).into_iter().flat_map(move |setting| {
        let variants: &[bool] = match kernel.has_subgroup_text() {
            true => &[false, true],
            false => &[false],
        };
        variants
            .iter()
            .map(move |&subgroups| (kernel, setting.clone(), subgroups))
    })
}

/// What each worker takes from `items` until none is left.
fn for_each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let n_workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..n_workers {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

#[test]
fn every_text_keeps_what_its_row_says_and_translates_for_every_platform() {
    let texts: Vec<_> = KERNELS.iter().copied().flat_map(texts).collect();
    let errors = Mutex::new(Vec::new());
    for_each(&texts, |(kernel, setting, subgroups)| {
        if let Err(error) = check(kernel, setting, *subgroups) {
            let variant = if *subgroups { "subgroups" } else { "plain" };
            let message = format!("{} {setting:?} {variant}: {error}", kernel.name);
            errors.lock().unwrap().push((kernel.name, message));
        }
    });
    let mut errors = errors.into_inner().unwrap();
    errors.sort();
    let n_errors = errors.len();
    // A mistake shows in every setting: one of each kernel is enough.
    errors.dedup_by_key(|(kernel, _)| *kernel);
    let first: Vec<_> = errors.iter().map(|(_, message)| message.as_str()).collect();
    assert!(
        first.is_empty(),
        "{n_errors} of {} texts:\n{}",
        texts.len(),
        first.join("\n")
    );
    println!("{} texts of {} kernels", texts.len(), KERNELS.len());
}

#[test]
fn every_override_line_is_a_knob() {
    for kernel in KERNELS {
        check_knobs(kernel).unwrap_or_else(|error| panic!("{}: {error}", kernel.name));
    }
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names.len(), KERNELS.len());
}

/// Names and texts of the folder's `.wgsl` files.
fn files() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wgsl")
        {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

#[test]
fn every_file_is_a_kernel_or_a_piece_of_one() {
    let files = files();
    for (name, text) in &files {
        assert!(
            text.starts_with("// "),
            "{name}.wgsl opens with what it computes"
        );
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name);
        let used = match kernel {
            Some(kernel) => kernel
                .pieces
                .last()
                .is_some_and(|piece| piece.plain == text),
            None => KERNELS
                .iter()
                .flat_map(|kernel| kernel.pieces)
                .any(|piece| piece.plain == text || piece.subgroup == Some(text)),
        };
        assert!(used, "{name}.wgsl is in no row of the table");
    }
    for kernel in KERNELS {
        let there = files.iter().any(|(name, _)| name == kernel.name);
        assert!(there, "{} has no file of its name", kernel.name);
    }
}

#[test]
fn no_kernel_joins_a_piece_twice() {
    for kernel in KERNELS {
        let texts: BTreeSet<_> = kernel.pieces.iter().map(|piece| piece.plain).collect();
        assert_eq!(
            texts.len(),
            kernel.pieces.len(),
            "{} has a piece twice",
            kernel.name
        );
    }
}
