//! `write_shaders FOLDER` writes the text of every kernel at every knob setting, for tools that read
//! WGSL: `make lint-shaders` hands them to a second compiler.

#[path = "../../tests/shaders/settings.rs"]
mod settings;

use std::error::Error;
use std::path::PathBuf;

use shaders::KERNELS;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or("usage: write_shaders FOLDER")?;
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;
    // Texts of a kernel that is gone, or of a value that is not tried any more.
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wgsl")
        {
            std::fs::remove_file(path)?;
        }
    }
    for kernel in KERNELS {
        for setting in settings::settings(kernel) {
            let mut name = kernel.name.to_string();
            for (knob, value) in &setting {
                name += &format!(".{knob}={value}");
            }
            let text = kernel.source(&setting, false);
            std::fs::write(folder.join(format!("{name}.wgsl")), text)?;
            if kernel.has_subgroup_text() {
                let text = kernel.source(&setting, true);
                std::fs::write(folder.join(format!("{name}.subgroups.wgsl")), text)?;
            }
        }
    }
    Ok(())
}
