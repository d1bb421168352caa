//! Tells the program which commit it was built from: `SPARSIGHT_COMMIT` if set, as for a build from
//! a tarball, else what git says, else "unknown". And has it linked small.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// What makes the program smaller by a tenth where linker and C library can do it: functions that came
/// out alike are kept once (LLD, mold), relocations are packed (glibc 2.36).
const SMALLER: [&str; 2] = ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

/// Whether a program that is linked so can be made and runs.
fn works(argument: &str) -> Option<bool> {
    let folder = std::env::var_os("OUT_DIR")?;
    let source = Path::new(&folder).join("probe.rs");
    let program = Path::new(&folder).join("probe");
    std::fs::write(&source, "fn main() {}").ok()?;
    let mut rustc = Command::new(std::env::var_os("RUSTC")?);
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={}", linker.to_str()?));
    }
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let flags = flags.split('\u{1f}').filter(|flag| !flag.is_empty());
    rustc.args(flags).arg(format!("-Clink-arg={argument}"));
    let made = rustc.arg(&source).arg("-o").arg(&program).output().ok()?;
    Some(made.status.success() && Command::new(&program).output().ok()?.status.success())
}

fn main() {
    println!("cargo:rerun-if-env-changed=SPARSIGHT_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    // The log of HEAD gets a line with every commit and checkout. Cargo runs this again for ever for
    // a file that is not there.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let commit = std::env::var("SPARSIGHT_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".into());
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let is_native = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    if is("CARGO_CFG_TARGET_OS", "linux") && is_native {
        for argument in SMALLER
            .iter()
            .filter(|argument| works(argument) == Some(true))
        {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
    println!("cargo:rustc-env=SPARSIGHT_COMMIT={commit}");
}
