// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where vfio-override itself is on a machine: what steps and pages have to name.

use std::env;
use std::path::{Path, PathBuf};

use super::sign::Facts;
use super::steps::Step;
use super::table::{HOMES, NIXOS, UNRAID_SIGN};
use crate::machine::root::Root;

/// Where it is installed, below the root.
const INSTALLED: &str = "usr/lib/vfio-override";
const EARLY: &str = "vfio-override-early";
/// Where a shell finds the tool by its name alone, sudo's too.
const COMMANDS: [&str; 6] = [
    "usr/bin/vfio-override",
    "usr/sbin/vfio-override",
    "bin/vfio-override",
    "usr/local/bin/vfio-override",
    "usr/local/sbin/vfio-override",
    "run/current-system/sw/bin/vfio-override",
];

pub struct Own {
    /// The directory of the early binary, for a shell's command between double quotes.
    pub early: String,
    /// What the tool is called by.
    pub tool: String,
    /// How it gets there, where it is not there yet.
    pub install: Option<Step>,
}

impl Own {
    pub fn of(facts: &Facts<'_>) -> Self {
        let root = facts.root;
        let is_installed = root.has(&format!("{INSTALLED}/{EARLY}"));
        let (beside, program) = if root.is_live() { running() } else { (None, None) };
        let is_home = facts.show(&NIXOS) && !is_installed && beside.is_none();
        let tool = match program {
            Some(program) if root.first(&COMMANDS).is_none() => program,
            None if is_home => format!("~/{HOMES}/bin/vfio-override"),
            _ => "vfio-override".to_owned(),
        };
        if is_installed {
            return Self { early: format!("/{INSTALLED}"), tool, install: None };
        }
        if let Some(early) = beside {
            return Self { early, tool, install: None };
        }
        if is_home {
            let page = page(root, "nixos.md");
            let what =
                format!("Unpack vfio-override's archive into ~/{HOMES}, as step 1 of {page} says");
            let early = format!("$HOME/{HOMES}/lib/vfio-override");
            return Self { early, tool, install: Some(Step::text(what)) };
        }
        let mut what =
            format!("Install vfio-override, as {}#use-it says", env!("CARGO_PKG_REPOSITORY"));
        if facts.show(&UNRAID_SIGN) {
            what.push_str(" for any other system (that lasts until the next boot; to see then what came of it, do so again)");
        }
        Self { early: format!("/{INSTALLED}"), tool, install: Some(Step::text(what)) }
    }
}

/// Where a page of the documentation is for whoever reads this.
pub fn page(root: &Root, name: &str) -> String {
    const PAGES: &str = "usr/share/doc/vfio-override";
    // They come all together.
    if root.has(&format!("{PAGES}/overlay.md")) {
        format!("/{PAGES}/{name}")
    } else {
        format!("{}/blob/main/docs/{name}", env!("CARGO_PKG_REPOSITORY"))
    }
}

/// Where the program that runs is, and the early binary that came with it, as installed below any directory or as
/// unpacked.
fn running() -> (Option<String>, Option<String>) {
    let program = env::current_exe().ok();
    let directory = program.as_deref().and_then(Path::parent);
    let places = directory.into_iter().flat_map(|directory| {
        let installed = directory.parent().map(|prefix| prefix.join("lib/vfio-override"));
        installed.into_iter().chain([directory.to_owned()])
    });
    let beside = places.into_iter().find(|place| place.join(EARLY).is_file());
    (beside.and_then(plain), program.clone().and_then(plain))
}

/// A path that is the same to any shell, in quotes or without.
fn plain(path: PathBuf) -> Option<String> {
    let text = path.into_os_string().into_string().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:".contains(&byte);
    text.bytes().all(is_plain).then_some(text)
}
