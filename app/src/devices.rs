//! `sparsight devices`: what can compute here, and what is taken without `--device`.

use clap::Args;
use engine::device::{self, DeviceInfo, DeviceKind};
use serde_json::json;

use crate::{Outcome, terminal};

#[derive(Args, Debug)]
pub struct Arguments {
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let devices = device::list();
    // The order of kinds is the engine's order of choice; those after the CPU are taken by name only.
    let default = devices
        .iter()
        .filter(|info| info.kind <= DeviceKind::Cpu)
        .min_by_key(|info| info.kind)
        .map(|info| info.id.as_str());
    let is_default = |info: &DeviceInfo| default == Some(info.id.as_str());
    if arguments.json {
        let list: Vec<_> = devices
            .iter()
            .map(|info| {
                json!({
                    "id": info.id,
                    "name": info.name,
                    "backend": info.backend,
                    "kind": info.kind.word(),
                    "driver": info.driver,
                    "max_binding_bytes": info.max_binding_bytes,
                    "default": is_default(info),
                })
            })
            .collect();
        terminal::print_line(format_args!("{:#}", json!(list)))?;
        return Ok(Outcome::Success);
    }
    let head = ["device", "kind", "name", "driver", "largest binding"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for info in &devices {
        let mark = if is_default(info) { " *" } else { "" };
        rows.push(vec![
            format!("{}{mark}", info.id),
            info.kind.word().into(),
            info.name.clone(),
            info.driver.clone(),
            info.max_binding_bytes
                .map_or_else(String::new, terminal::bytes),
        ]);
    }
    terminal::print(&terminal::table(&rows))?;
    terminal::note("* is taken without --device; software GPUs and references by name only");
    Ok(Outcome::Success)
}
