// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel modules: what depends on what, and the index files that modprobe reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

use crate::guest::bzimage::decompress;

/// The modules of one kernel, as unpacked from its package.
pub struct Modules {
    root: PathBuf,
    /// Files by module name; names are written with underscores, as the kernel does.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module ready for an image.
#[derive(Clone)]
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
    pub dependencies: Vec<String>,
    pub aliases: Vec<String>,
}

/// Where a driver of the kernel is.
#[derive(Debug, PartialEq, Eq)]
pub enum Presence {
    Module,
    Builtin,
    Absent,
}

impl Modules {
    /// Reads `/lib/modules/<release>`.
    pub fn open(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&root.join("kernel"), &mut files)
            .with_context(|| format!("cannot read the modules in {}", root.display()))?;
        let builtin = fs::read_to_string(root.join("modules.builtin"))
            .with_context(|| format!("cannot read {}/modules.builtin", root.display()))?;
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { root: root.to_owned(), files, builtin })
    }

    /// The directory that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn presence(&self, name: &str) -> Presence {
        if self.files.contains_key(name) {
            Presence::Module
        } else if self.builtin.contains(name) {
            Presence::Builtin
        } else {
            Presence::Absent
        }
    }

    /// The named modules and all that they need, each behind its dependencies.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut done, &mut order)?;
        }
        Ok(order)
    }

    /// The `vfio_pci:` aliases of every VFIO driver of this kernel, as lines of modules.alias.
    pub fn vfio_aliases(&self) -> Result<String> {
        let mut lines = String::new();
        for (name, path) in &self.files {
            if !path.starts_with(self.root.join("kernel/drivers/vfio")) {
                continue;
            }
            for alias in self.load(name)?.aliases {
                if alias.starts_with("vfio_pci:") {
                    writeln!(lines, "alias {alias} {name}")?;
                }
            }
        }
        Ok(lines)
    }

    fn visit(
        &self,
        name: &str,
        done: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<()> {
        if !done.insert(name.to_owned()) || self.presence(name) == Presence::Builtin {
            return Ok(());
        }
        let module = self.load(name)?;
        for dependency in &module.dependencies {
            self.visit(dependency, done, order)?;
        }
        order.push(module);
        Ok(())
    }

    fn load(&self, name: &str) -> Result<Module> {
        let path = self
            .files
            .get(name)
            .with_context(|| format!("no module {name} in {}", self.root.display()))?;
        let packed = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let bytes =
            decompress(&packed).with_context(|| format!("cannot unpack {}", path.display()))?;
        let info = Info::read(&bytes)
            .with_context(|| format!("cannot read .modinfo of {}", path.display()))?;
        Ok(Module {
            name: name.to_owned(),
            dependencies: info.dependencies,
            aliases: info.aliases,
            bytes,
        })
    }
}

/// modules.dep for modules that lie side by side as `<name>.ko`, in load order.
pub fn modules_dep(modules: &[Module]) -> Result<String> {
    let direct: BTreeMap<&str, &[String]> =
        modules.iter().map(|module| (&*module.name, &*module.dependencies)).collect();
    let mut text = String::new();
    for module in modules {
        let mut needed = BTreeSet::new();
        need(&module.name, &direct, &mut needed);
        write!(text, "{}.ko:", module.name)?;
        // depmod's order: what is to be loaded last comes first.
        for dependency in modules.iter().rev() {
            if needed.contains(&*dependency.name) {
                write!(text, " {}.ko", dependency.name)?;
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// modules.alias for the modules.
pub fn modules_alias(modules: &[Module]) -> Result<String> {
    let mut text = String::new();
    for module in modules {
        for alias in &module.aliases {
            writeln!(text, "alias {alias} {}", module.name)?;
        }
    }
    Ok(text)
}

fn need<'a>(name: &str, direct: &BTreeMap<&str, &'a [String]>, needed: &mut BTreeSet<&'a str>) {
    for dependency in direct.get(name).copied().unwrap_or_default() {
        // A dependency without a file is built in.
        if direct.contains_key(&**dependency) && needed.insert(dependency) {
            need(dependency, direct, needed);
        }
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `snd-hda-intel.ko.xz` → `snd_hda_intel`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
}

struct Info {
    dependencies: Vec<String>,
    aliases: Vec<String>,
}

impl Info {
    fn read(module: &[u8]) -> Result<Self> {
        let file = object::File::parse(module)?;
        let section = file.section_by_name(".modinfo").context("the section is missing")?;
        Ok(Self::parse(section.data()?))
    }

    /// The section holds `key=value` texts, each ended by a zero byte.
    fn parse(section: &[u8]) -> Self {
        let mut info = Self { dependencies: Vec::new(), aliases: Vec::new() };
        for entry in section.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            if let Some(names) = entry.strip_prefix("depends=") {
                info.dependencies = names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(|name| name.replace('-', "_"))
                    .collect();
            } else if let Some(alias) = entry.strip_prefix("alias=") {
                info.aliases.push(alias.to_owned());
            }
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, dependencies: &[&str]) -> Module {
        Module {
            name: name.to_owned(),
            bytes: Vec::new(),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
            aliases: vec![format!("{name}:v*")],
        }
    }

    #[test]
    fn module_names_are_the_kernels() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("a/snd-hda-intel.ko.xz").as_deref(), Some("snd_hda_intel"));
        assert_eq!(name("kernel/vfio_pci.ko").as_deref(), Some("vfio_pci"));
        assert_eq!(name("e1000e.ko.zst").as_deref(), Some("e1000e"));
        assert_eq!(name("modules.builtin"), None);
        assert_eq!(name("x.ko.sig"), None);
    }

    #[test]
    fn modinfo_is_read() {
        let info = Info::parse(
            b"license=GPL\0depends=vfio-pci-core,irqbypass\0alias=vfio_pci:v*d*\0\0alias=x\0",
        );
        assert_eq!(info.dependencies, ["vfio_pci_core", "irqbypass"]);
        assert_eq!(info.aliases, ["vfio_pci:v*d*", "x"]);
        assert!(Info::parse(b"depends=\0").dependencies.is_empty());
    }

    #[test]
    fn modules_dep_lists_the_dependencies_of_dependencies() -> Result<()> {
        let modules =
            [module("vfio", &[]), module("core", &["vfio", "built_in"]), module("pci", &["core"])];
        assert_eq!(modules_dep(&modules)?, "vfio.ko:\ncore.ko: vfio.ko\npci.ko: core.ko vfio.ko\n");
        Ok(())
    }

    #[test]
    fn modules_alias_names_the_module() -> Result<()> {
        assert_eq!(modules_alias(&[module("pci", &[])])?, "alias pci:v* pci\n");
        Ok(())
    }
}
