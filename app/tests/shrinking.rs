//! A checkpoint that is cut while the program writes.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_file_that_shrinks_under_an_answer_is_named_in_one_line() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/v32-bf16");
    for length in [0, 5000] {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_sparsight"))
            .args([
                "generate", "--device", "cpu", "--ids", "1,2,3", "-n", "100000", "--model",
            ])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The first ids are out, so it writes.
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 16]).unwrap();
        let weights = folder.path().join("model.safetensors");
        let file = std::fs::File::options().write(true).open(&weights).unwrap();
        file.set_len(length).unwrap();
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        let line = format!(
            "error: {}: became shorter, or unreadable, while its weights were in use",
            weights.display()
        );
        assert_eq!(told.lines().last(), Some(line.as_str()), "{told}");
        // Before it, only what is told of loading.
        assert_eq!(told.lines().count(), 2, "{told}");
    }
}
