//! What to do before the next boot: where the parameter goes, and what the initramfs needs.

use serde::Serialize;

use crate::advice;
use crate::bootloader::{self, Steps};
use crate::generator::Initramfs;
use crate::machine::Machine;

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

/// Where to write the parameter, and what else to do before the next boot.
pub fn before_boot(machine: &Machine, parameter: &str) -> Vec<Step> {
    let step = |what: String| Step { what, file: None, line: None, command: None };
    let Some(root) = &machine.root else { return Vec::new() };
    let mut steps = Vec::new();
    match bootloader::find(root, parameter) {
        Some(loader) => match loader.steps {
            Steps::Edit { file, line, command } => {
                steps.push(Step {
                    file: Some(file.to_owned()),
                    line: Some(line),
                    ..step(format!("{}: in {file}, make the line", loader.name))
                });
                if let Some(command) = command {
                    steps.push(Step {
                        command: Some(command.to_owned()),
                        ..step("Then".to_owned())
                    });
                }
            }
            Steps::Append { file, to } => steps.push(Step {
                file: Some(file.to_owned()),
                line: Some(parameter.to_owned()),
                ..step(format!("{}: in {file}, add to {to}", loader.name))
            }),
            Steps::Run(command) => {
                steps.push(Step { command: Some(command), ..step(format!("{}:", loader.name)) });
            }
        },
        None => steps.push(Step {
            line: Some(parameter.to_owned()),
            ..step("No boot loader is known here: add to the kernel command line".to_owned())
        }),
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
