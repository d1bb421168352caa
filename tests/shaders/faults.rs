//! The checks by themselves: each mistake that was made once, or easily could be, is found.

use shaders::kernel::{Kernel, Knob, Layout, Piece};

use super::check::check_knobs;
use super::{check, settings};

/// `y = a * x + y`: a kernel with nothing wrong.
const TEXT: &str = "
override WG: u32 = 64u; // lanes

struct Params {
    n: u32,
    a: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>; // [n]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [n]
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> scratch: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn axpy(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    scratch[lane] = vec4<f32>(params.a);
    workgroupBarrier();
    let i = group.x * WG + lane;
    if i < params.n {
        y[i] += scratch[lane ^ 1u].x * x[i];
    }
}
";

const FIELDS: &[(&str, usize)] = &[("n", 0), ("a", 4)];

fn axpy(text: String) -> Kernel {
    // Tests are short; the table holds `'static` texts.
    let piece = Piece {
        plain: text.leak(),
        subgroup: None,
    };
    Kernel {
        name: "axpy",
        pieces: vec![piece].leak(),
        bindings: &["x", "y"],
        knobs: &[Knob {
            name: "WG",
            default: 64,
            values: &[64, 256],
        }],
        params: Layout {
            fields: FIELDS,
            size_bytes: 8,
        },
        reference: |_, _| (),
    }
}

/// The first thing that is wrong with a kernel.
fn fault(kernel: &Kernel) -> Option<String> {
    let texts = || {
        settings(kernel)
            .iter()
            .try_for_each(|setting| check(kernel, setting, false))
    };
    check_knobs(kernel).and_then(|()| texts()).err()
}

/// Puts `mistake` in place of `original` and expects an error that says `expected`.
#[track_caller]
fn finds(original: &str, mistake: &str, expected: &str) {
    assert!(TEXT.contains(original), "{original} is in the text");
    let found = fault(&axpy(TEXT.replace(original, mistake)));
    let found = found.unwrap_or_else(|| panic!("{mistake} is not found"));
    assert!(found.contains(expected), "{mistake} is found as: {found}");
}

#[test]
fn nothing_is_wrong_with_a_good_kernel() {
    assert_eq!(fault(&axpy(TEXT.into())), None);
}

#[test]
fn mistakes_in_params_are_found() {
    finds(
        "n: u32,\n    a: f32,",
        "a: f32,\n    n: u32,",
        "Params [(\"a\", 0)",
    );
    finds("a: f32,", "a: f32,\n    b: f32,", "Params [");
    finds("a: f32,", "@align(16) a: f32,", "Params [");
    finds("Params", "Parameters", "is a Parameters");
    let good = axpy(TEXT.into());
    let params = Layout {
        fields: FIELDS,
        size_bytes: 16,
    };
    assert!(fault(&Kernel { params, ..good }).is_some_and(|found| found.contains("8 bytes")));
}

#[test]
fn mistakes_in_bindings_are_found() {
    finds("read_write> x", "read> x", "x is Storage");
    finds("* x[i]", "", "x is not used");
    finds("x: array", "w: array", "no definition in scope");
    finds("params", "parameters", "\"parameters\"]");
    finds(
        "@group(0) @binding(1)",
        "@group(1) @binding(1)",
        "bindings [",
    );
    finds(
        "@binding(2)",
        "@binding(3)",
        "params is at group 0 binding 3",
    );
    finds(
        "var<uniform>",
        "var<storage, read_write>",
        "params is Storage",
    );
    let swapped = Kernel {
        bindings: &["y", "x"],
        ..axpy(TEXT.into())
    };
    assert!(fault(&swapped).is_some_and(|found| found.contains("bindings [")));
    let typo = Kernel {
        bindings: &["x", "yy"],
        ..axpy(TEXT.into())
    };
    assert!(fault(&typo).is_some_and(|found| found.contains("bindings [")));
}

#[test]
fn more_bindings_than_every_adapter_grants_are_found() {
    let names: Vec<String> = (2..9).map(|at| format!("more_{at}")).collect();
    let mut text = TEXT.replace("@binding(2)", "@binding(9)");
    for (at, name) in (2..).zip(&names) {
        text += &format!("@group(0) @binding({at}) var<storage, read_write> {name}: array<f32>;\n");
        text = text.replace(
            "if i < params.n {",
            &format!("if i < params.n {{\n{name}[i] = 0.0;"),
        );
    }
    let mut bindings = vec!["x", "y"];
    bindings.extend(names.iter().map(|name| &*name.clone().leak()));
    let kernel = Kernel {
        bindings: bindings.leak(),
        ..axpy(text)
    };
    assert_eq!(fault(&kernel), Some("9 storage bindings".into()));
}

#[test]
fn mistakes_in_knobs_are_found() {
    finds("= 64u;", "= 128u;", "knob WG says 64");
    finds("= 64u;", "= 64;", "not `override NAME");
    finds(
        "override WG: u32 = 64u;",
        "const WG = 64u;",
        "no override line",
    );
    finds(
        "override WG",
        "override TILE: u32 = 1u;\noverride WG",
        "no knob for",
    );
    finds(
        "override WG",
        " override TILE: u32 = 1u;\noverride WG",
        "an override is left",
    );
    let none = Kernel {
        knobs: &[],
        ..axpy(TEXT.into())
    };
    assert!(fault(&none).is_some_and(|found| found.contains("no knob for")));
    let stray = Kernel {
        knobs: &[Knob {
            name: "WG",
            default: 64,
            values: &[128],
        }],
        ..axpy(TEXT.into())
    };
    assert!(fault(&stray).is_some_and(|found| found.contains("a default of its own")));
}

#[test]
fn what_not_every_adapter_grants_is_found() {
    finds("@workgroup_size(WG)", "@workgroup_size(WG, 8)", "512 lanes");
    finds(
        "vec4<f32>, WG>",
        "vec4<f32>, 17 * WG>",
        "17408 bytes of workgroup memory",
    );
    finds(
        "params.n {",
        "params.n && subgroupAdd(1u) > 0u {",
        "SUBGROUP",
    );
    finds("let i =", "let half = f16(1.0);\n    let i =", "f16");
    finds("let i =", "let wide = u64(1);\n    let i =", "u64");
}

#[test]
fn mistakes_in_the_text_are_found() {
    finds("fn axpy", "fn main", "entry point Compute main");
    finds(
        "\nvar<workgroup>",
        "\n@compute @workgroup_size(1) fn other() {}\nvar<workgroup>",
        "2 entry",
    );
    finds("lane ^ 1u", "lanes ^ 1u", "no definition in scope");
}
