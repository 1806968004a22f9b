// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels to boot: the host's, one of tests/kernels.toml, or one that the user names.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::ground::apt::Lists;
use crate::ground::arch::{Arch, Firmware};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::verdict::NotTestable;
use crate::ground::workspace::Workspace;
use crate::guest::arm64;
use crate::guest::bzimage::BzImage;
use crate::guest::kernels::{self, Source};
use crate::guest::modules::{Modules, Presence};

/// What the names of a kernel's own packages begin with: the kernel and its modules, in one or in several.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

/// What `--kernel` may say.
#[derive(Clone, Debug)]
pub enum Choice {
    /// The host's kernel if it is usable, else the first of tests/kernels.toml.
    Auto,
    /// One of tests/kernels.toml.
    Named(&'static Source),
    /// An image, with its modules beside it or on this host.
    File(PathBuf),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(source) = kernels::named(text) {
            return Ok(Self::Named(source));
        }
        if text.contains('/') {
            return Ok(Self::File(text.into()));
        }
        let names: Vec<&str> = kernels::all().iter().map(|source| &*source.name).collect();
        Err(format!("expected auto, {}, or a path with a /", names.join(", ")))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(source) => f.write_str(&source.name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A kernel that QEMU can start, and its modules.
pub struct Kernel {
    pub arch: &'static Arch,
    pub release: String,
    /// What a boot loader loads.
    pub image: PathBuf,
    /// What QEMU starts fastest: the ELF kernel in a bzImage, several seconds faster than that.
    pub fastest: PathBuf,
    pub modules: Modules,
}

/// Finds or fetches a kernel; the host's is taken only if it has these modules.
pub fn prepare(
    choice: &Choice,
    arch: &'static Arch,
    needed: &[&str],
    workspace: &Workspace,
) -> Result<Kernel> {
    match choice {
        Choice::Auto if !arch.is_native() => fetch(&kernels::all()[0], arch, workspace),
        Choice::Auto => match host(arch, needed, workspace) {
            Ok(kernel) => {
                progress::note(format_args!("kernel: the host's, {}", kernel.release));
                Ok(kernel)
            }
            Err(reason) => {
                let source = &kernels::all()[0];
                progress::note(format_args!(
                    "kernel: {} from Debian, because the host's is not usable: {reason:#}",
                    source.name
                ));
                fetch(source, arch, workspace)
            }
        },
        Choice::Named(source) => fetch(source, arch, workspace),
        Choice::File(path) => from_file(path, arch, workspace),
    }
}

/// Finds or fetches a kernel of tests/kernels.toml.
pub fn named(name: &str, arch: &'static Arch, workspace: &Workspace) -> Result<Kernel> {
    let source =
        kernels::named(name).with_context(|| format!("no kernel {name} in tests/kernels.toml"))?;
    fetch(source, arch, workspace)
}

fn host(arch: &'static Arch, needed: &[&str], workspace: &Workspace) -> Result<Kernel> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    let directory = PathBuf::from("/lib/modules").join(release);
    let image = image_of(Path::new("/"), &directory)?;
    let modules = Modules::open(&directory)?;
    let lacks = |name: &&&str| modules.presence(name) == Presence::Absent;
    if let Some(module) = needed.iter().find(lacks) {
        bail!("it has no {module}");
    }
    extract(&image, arch, modules, &workspace.scratch("kernels")?)
}

fn from_file(path: &Path, arch: &'static Arch, workspace: &Workspace) -> Result<Kernel> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let release = match arch.guest.firmware {
        Firmware::Pc => BzImage::parse(&bytes).and_then(|image| image.release().map(str::to_owned)),
        Firmware::DeviceTree => arm64::release(&bytes),
    }
    .with_context(|| format!("cannot use {}", path.display()))?;
    let modules = modules_of(path, &release)?;
    extract(path, arch, Modules::open(&modules)?, &workspace.scratch("kernels")?)
}

/// Where the modules of a kernel's image are: in the directory that it lies in, as it has been installed by Fedora,
/// Arch and Debian since 14; below the directory above it, as in an unpacked package; or the host's.
fn modules_of(image: &Path, release: &str) -> Result<PathBuf> {
    let directory = image.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let above = directory.join("..");
    let installed = |root: &Path| root.join("lib/modules").join(release);
    let places = [
        directory.to_owned(),
        installed(&above),
        installed(&above.join("usr")),
        installed(Path::new("/")),
    ];
    let is_home = |place: &&PathBuf| place.join("modules.builtin").is_file();
    places.iter().find(is_home).cloned().with_context(|| {
        format!("no modules of {release}: no modules.builtin in {}", list(&places))
    })
}

fn list(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

/// The image of the kernel with these modules, below a root.
fn image_of(root: &Path, modules: &Path) -> Result<PathBuf> {
    let release = modules.file_name().unwrap_or_default().to_string_lossy();
    let places = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    places
        .iter()
        .find(|place| place.is_file())
        .cloned()
        .with_context(|| format!("no kernel {release}: expected {}", list(&places)))
}

/// The kernel that Debian's package holds now; it is fetched unless it was before.
fn fetch(source: &Source, arch: &'static Arch, workspace: &Workspace) -> Result<Kernel> {
    let Source { name, suite, package, .. } = source;
    fetch_now(source, arch, workspace)
        .with_context(|| NotTestable(format!("no kernel {name}, {package} of {suite}")))
}

fn fetch_now(source: &Source, arch: &'static Arch, workspace: &Workspace) -> Result<Kernel> {
    let lists = Lists::of(workspace, &source.suite, arch.debian)?;
    let package = source.package.replace("{arch}", arch.debian);
    let parts = parts(&package, |package| lists.dependencies(package))?;
    let image = parts.iter().find(|part| is_image(part)).unwrap_or(&package);
    let cache = workspace.scratch(&format!("kernels/{}-{}", source.name, arch.debian))?;
    let directory = cache.join(image);
    if !directory.is_dir() {
        download(&lists, image, &parts, &cache)?;
    }
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|path| first_entry(&directory.join(path)))
        .with_context(|| format!("no modules in {}", directory.display()))?;
    extract(&image_of(&directory, &modules)?, arch, Modules::open(&modules)?, &directory)
}

/// The package and those parts of the kernel that it depends on, and they in turn.
fn parts(package: &str, dependencies: impl Fn(&str) -> Result<Vec<String>>) -> Result<Vec<String>> {
    let mut parts = vec![package.to_owned()];
    let mut next = 0;
    while let Some(part) = parts.get(next) {
        for dependency in dependencies(part)? {
            let is_part = PARTS.iter().any(|prefix| dependency.starts_with(prefix));
            if is_part && !parts.contains(&dependency) {
                parts.push(dependency);
            }
        }
        next += 1;
    }
    Ok(parts)
}

/// Whether a package is a certain kernel, and not one that depends on the newest: `linux-image-6.12.118+deb13-amd64`.
fn is_image(package: &str) -> bool {
    let rest = package.strip_prefix("linux-image-");
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Downloads and unpacks into the cache, where the directory is there whole or not at all, and the only one.
fn download(lists: &Lists, image: &str, parts: &[String], cache: &Path) -> Result<()> {
    let older: Vec<PathBuf> = fs::read_dir(cache)?.flatten().map(|entry| entry.path()).collect();
    let scratch = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(cache)
        .with_context(|| format!("cannot write to {}", cache.display()))?;
    progress::phase(format!("fetch {image}"), || lists.download(parts, scratch.path()))?;
    let root = scratch.path().join("root");
    progress::phase(format!("unpack {image}"), || unpack(scratch.path(), &root))?;
    fs::rename(&root, cache.join(image))
        .with_context(|| format!("cannot rename {}", root.display()))?;
    for directory in older {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

fn unpack(directory: &Path, root: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::check(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

fn first_entry(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().next().map(|entry| entry.path())
}

/// Unpacks what QEMU starts fastest into the cache, unless it is there already.
fn extract(image: &Path, arch: &'static Arch, modules: Modules, cache: &Path) -> Result<Kernel> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let unpack = || -> Result<(String, PathBuf)> {
        if arch.guest.firmware == Firmware::DeviceTree {
            return Ok((arm64::release(&bytes)?, image.to_owned()));
        }
        let kernel = BzImage::parse(&bytes)?;
        let release = kernel.release()?.to_owned();
        let vmlinux = cache.join(format!("vmlinux-{release}"));
        // Somebody who builds kernels builds one release many times.
        if !is_newer(&vmlinux, image) {
            progress::phase(format!("unpack kernel {release}"), || {
                install(&vmlinux, &kernel.vmlinux()?)
            })?;
        }
        Ok((release, vmlinux))
    };
    let (release, fastest) = unpack().with_context(|| format!("cannot use {}", image.display()))?;
    Ok(Kernel { arch, release, image: image.to_owned(), fastest, modules })
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    matches!((modified(file), modified(than)), (Ok(file), Ok(than)) if file > than)
}

/// Writes a file that is there whole or not at all, also when we are interrupted.
fn install(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("cannot rename {}", part.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let read = |text: &str| text.parse::<Choice>().map(|choice| choice.to_string());
        for text in ["auto", "6.12", "cloud", "newest", "./vmlinuz"] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        for text in ["6.x", "", "vmlinuz"] {
            let error = read(text).expect_err("it is no choice");
            assert!(error.contains("6.1, 6.12") && error.contains("a path with a /"), "{error}");
        }
    }

    #[test]
    fn the_parts_of_a_kernel_are_found_however_it_is_packed() -> Result<()> {
        let one = |package: &str| match package {
            "linux-image-amd64" => vec!["linux-image-6.1.0-56-amd64"],
            _ => vec!["kmod", "linux-base"],
        };
        let many = |package: &str| match package {
            "linux-image-amd64" => vec!["linux-base-amd64", "linux-image-7.2-amd64"],
            "linux-base-amd64" | "linux-modules-7.2-amd64" => vec!["kmod", "linux-base-7.2-amd64"],
            "linux-image-7.2-amd64" => {
                vec!["dracut", "linux-binary-7.2-amd64", "linux-modules-7.2-amd64"]
            }
            _ => vec![],
        };
        let owned = |names: Vec<&str>| Ok(names.into_iter().map(str::to_owned).collect());
        assert_eq!(
            parts("linux-image-amd64", |package| owned(one(package)))?,
            ["linux-image-amd64", "linux-image-6.1.0-56-amd64"]
        );
        let parts = parts("linux-image-amd64", |package| owned(many(package)))?;
        assert_eq!(
            parts[1..],
            [
                "linux-base-amd64",
                "linux-image-7.2-amd64",
                "linux-base-7.2-amd64",
                "linux-binary-7.2-amd64",
                "linux-modules-7.2-amd64",
            ]
        );
        assert_eq!(parts.iter().find(|part| is_image(part)), Some(&parts[2]));
        Ok(())
    }

    #[test]
    fn the_modules_of_an_image_are_found_wherever_it_was_installed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for (case, image, modules) in [
            ("sid", "usr/lib/modules/7.2/vmlinuz", "usr/lib/modules/7.2"),
            ("bookworm", "boot/vmlinuz-6.1", "lib/modules/6.1"),
            ("trixie", "boot/vmlinuz-6.12", "usr/lib/modules/6.12"),
        ] {
            let root = directory.path().join(case);
            let [image, modules] = [image, modules].map(|path| root.join(path));
            for file in [&image, &modules.join("modules.builtin")] {
                fs::create_dir_all(file.parent().context("a file is in a directory")?)?;
                fs::write(file, "")?;
            }
            let release = modules.file_name().unwrap_or_default().to_string_lossy();
            let found = modules_of(&image, &release)?;
            assert_eq!(found.canonicalize()?, modules.canonicalize()?);
            assert_eq!(image_of(&root, &modules)?, image);
        }
        let error =
            modules_of(&directory.path().join("vmlinuz"), "9.9").expect_err("there are none");
        assert!(error.to_string().starts_with("no modules of 9.9: "), "{error}");
        Ok(())
    }
}
