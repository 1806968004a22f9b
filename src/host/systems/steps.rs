//! What to do before the next boot: where the parameters go, and what the initramfs needs.

use serde::Serialize;

use crate::machine::Machine;
use crate::systems::advice;
use crate::systems::bootloader::{self, BootLoader, Steps};
use crate::systems::generator::Initramfs;

/// One thing to do.
#[derive(Serialize)]
pub struct Step {
    pub what: String,
    /// The file to edit.
    pub file: Option<String>,
    /// The line to write there.
    pub line: Option<String>,
    /// The command to run as root.
    pub command: Option<String>,
}

/// Where to write the parameters, and what else to do before the next boot.
pub fn before_boot(machine: &Machine, parameters: &[String]) -> Vec<Step> {
    let step = |what: String| Step { what, file: None, line: None, command: None };
    let Some(root) = &machine.root else { return Vec::new() };
    let words = parameters.join(" ");
    let mut steps = Vec::new();
    let command = match bootloader::find(root, parameters) {
        Some(BootLoader { name, steps: Steps::Edit { file, line, command } }) => {
            let what = format!("{name}: in {file}, make the line");
            steps.push(Step { file: Some(file), line: Some(line), ..step(what) });
            command
        }
        Some(BootLoader { name, steps: Steps::Append { file, to, command } }) => {
            let what = format!("{name}: in {file}, add to {to}");
            steps.push(Step { file: Some(file), line: Some(words), ..step(what) });
            command
        }
        Some(BootLoader { name, steps: Steps::Run(command) }) => {
            steps.push(Step { command: Some(command), ..step(format!("{name}:")) });
            None
        }
        None => {
            let what = "No boot loader is known here: add to the kernel command line".to_owned();
            steps.push(Step { line: Some(words), ..step(what) });
            None
        }
    };
    if let Some(command) = command {
        steps.push(Step { command: Some(command.to_owned()), ..step("Then".to_owned()) });
    }
    if let Some(image) = machine.cmdline().ok().and_then(|line| Initramfs::of(machine, &line)) {
        steps.extend(image_step(&image));
    }
    steps.push(Step {
        command: Some("vfio-override status".to_owned()),
        ..step("After the next boot, see what came of it".to_owned())
    });
    steps
}

/// What the initramfs needs, if anything: the parameter itself is not in it.
fn image_step(image: &Initramfs) -> Option<Step> {
    let advice = advice::about_hook(image)?;
    let generator = image.generator.filter(|_| image.has_hook);
    Some(Step {
        what: match generator {
            Some(generator) => format!(
                "Once, {}: rebuild the initramfs, so that it holds the hook",
                generator.name
            ),
            None => format!("Once: {}", advice.message),
        },
        file: None,
        line: None,
        command: generator.map(|generator| generator.rebuild.to_owned()),
    })
}
