// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a shipped file was made of, inside it, as `cargo auditable` puts it there and `cargo audit bin` reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use auditable_info::Limits;
use auditable_serde::{DependencyKind, Package, Source, VersionInfo};
use cargo_metadata::{Metadata, MetadataCommand, Node, PackageId};
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::ground::command;
use crate::ground::workspace::{Workspace, cargo};

/// The ELF section that holds it. No segment does, so that it is never loaded.
const SECTION: &str = ".dep-v0";

/// The package and all that it is linked with and built by for this target, with this feature alone.
pub fn of(workspace: &Workspace, feature: &str, triple: &str) -> Result<VersionInfo> {
    let metadata = MetadataCommand::new()
        .cargo_path(cargo())
        .current_dir(&workspace.root)
        .other_options(
            [
                "--locked",
                "--no-default-features",
                "--features",
                feature,
                "--filter-platform",
                triple,
            ]
            .map(str::to_owned),
        )
        .exec()
        .context("cannot ask cargo what the binary is made of")?;
    list(&metadata)
}

fn list(metadata: &Metadata) -> Result<VersionInfo> {
    let resolve = metadata.resolve.as_ref().context("cargo did not resolve the dependencies")?;
    let root = resolve.root.as_ref().context("cargo did not name the package")?;
    let nodes: BTreeMap<&PackageId, &Node> =
        resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut found = BTreeMap::new();
    visit(root, DependencyKind::Runtime, &nodes, &mut found);
    let mut order: Vec<&PackageId> = found.keys().copied().collect();
    order.sort_by_key(|id| metadata[*id].name.as_str());

    let index = |id: &PackageId| order.iter().position(|known| *known == id);
    let packages = order.iter().map(|&id| {
        let package = &metadata[id];
        let needed = nodes.get(id).into_iter().flat_map(|node| needs(node));
        let dependencies: BTreeSet<usize> = needed.filter_map(|(id, _)| index(id)).collect();
        Package {
            name: package.name.to_string(),
            version: package.version.clone(),
            source: match &package.source {
                None => Source::Local,
                Some(source) if source.is_crates_io() => Source::CratesIo,
                Some(_) => Source::Registry,
            },
            kind: found[id],
            dependencies: dependencies.into_iter().collect(),
            root: id == root,
        }
    });
    Ok(VersionInfo { packages: packages.collect(), format: 1 })
}

/// Finds a package and all that it needs. What only a build script needs runs on the builder alone.
fn visit<'m>(
    id: &'m PackageId,
    kind: DependencyKind,
    nodes: &BTreeMap<&'m PackageId, &'m Node>,
    found: &mut BTreeMap<&'m PackageId, DependencyKind>,
) {
    if found.get(id).is_some_and(|known| *known >= kind) {
        return;
    }
    found.insert(id, kind);
    for (needed, edge) in nodes.get(id).into_iter().flat_map(|node| needs(node)) {
        visit(needed, kind.min(edge), nodes, found);
    }
}

/// What a package needs, but for its tests.
fn needs(node: &Node) -> impl Iterator<Item = (&PackageId, DependencyKind)> {
    node.deps.iter().filter_map(|dependency| {
        let kinds = || dependency.dep_kinds.iter().map(|kind| kind.kind);
        let kind = if kinds().any(|kind| kind == cargo_metadata::DependencyKind::Normal) {
            DependencyKind::Runtime
        } else if kinds().any(|kind| kind == cargo_metadata::DependencyKind::Build) {
            DependencyKind::Build
        } else {
            return None;
        };
        Some((&dependency.pkg, kind))
    })
}

/// Writes it into a file, and reads it back as others will.
pub fn embed(made_of: &VersionInfo, objcopy: &OsStr, file: &Path) -> Result<()> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&serde_json::to_vec(made_of)?)?;
    let section = file.with_extension("dep-v0");
    fs::write(&section, encoder.finish()?)
        .with_context(|| format!("cannot write {}", section.display()))?;
    let added = format!("{SECTION}={}", section.display());
    let flags = format!("{SECTION}=noload,readonly");
    command::check(
        Command::new(objcopy)
            .args(["--add-section", &added, "--set-section-flags", &flags])
            .arg(file),
    )?;
    fs::remove_file(&section).with_context(|| format!("cannot remove {}", section.display()))?;
    let read = auditable_info::audit_info_from_file(file, Limits::default())
        .with_context(|| format!("cannot read what {} is made of", file.display()))?;
    ensure!(read == *made_of, "{} does not say what it is made of", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::arch;

    #[test]
    fn the_early_binary_is_made_of_three_crates_and_theirs() -> Result<()> {
        let made_of = of(&Workspace::locate()?, "early", arch::X86_64.musl.triple)?;
        let names = |kind: DependencyKind| -> Vec<&str> {
            let packages = made_of.packages.iter().filter(|package| package.kind == kind);
            packages.map(|package| package.name.as_str()).collect()
        };
        for name in ["heapless", "libc", "log", "nix", "vfio-override"] {
            assert!(names(DependencyKind::Runtime).contains(&name), "{name}: {made_of:?}");
        }
        // The host tool's.
        for name in ["clap", "serde", "tar"] {
            assert!(!made_of.packages.iter().any(|package| package.name == name), "{name}");
        }
        let root: Vec<_> = made_of.packages.iter().filter(|package| package.root).collect();
        assert_eq!(root.len(), 1);
        let direct: Vec<&str> =
            root[0].dependencies.iter().map(|&at| made_of.packages[at].name.as_str()).collect();
        assert_eq!(direct, ["heapless", "log", "nix"]);
        Ok(())
    }

    #[test]
    fn each_version_was_read_before_it_is_used() -> Result<()> {
        let workspace = Workspace::locate()?;
        let notes = fs::read_to_string(workspace.root.join("docs/audits.md"))?;
        for arch in arch::ALL {
            check_notes(&notes, &of(&workspace, "early", arch.musl.triple)?);
        }
        Ok(())
    }

    fn check_notes(notes: &str, made_of: &VersionInfo) {
        for Package { name, version, .. } in made_of.packages.iter().filter(|it| !it.root) {
            let told = format!("{name} {version}");
            assert!(
                notes.contains(&told),
                "docs/audits.md says nothing of {told}: read it, and say so"
            );
        }
    }
}
