//! Tells the program which commit it was built from: `SPARSIGHT_COMMIT` if set, as for a build from
//! a tarball, else what git says, else "unknown".

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
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
    println!("cargo:rustc-env=SPARSIGHT_COMMIT={commit}");
}
