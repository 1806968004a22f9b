//! Kernels to boot: the host's, Debian's, or one that the user names.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::ground::arch::{Arch, X86_64};
use crate::ground::command;
use crate::ground::progress;
use crate::ground::setup;
use crate::ground::workspace::Workspace;
use crate::guest::bzimage::BzImage;
use crate::guest::machine;
use crate::guest::modules::{Modules, Presence};

/// What `--kernel` may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The host's kernel if it is usable, else the distribution's default package.
    Auto,
    /// A Debian package of this version, such as 6.1.
    Version(String),
    /// Debian's kernel for cloud machines, with few drivers and some of them built in.
    Cloud,
    /// A bzImage, with its modules beside it or on this host.
    File(PathBuf),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_version =
            text.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor));
        match text {
            "auto" => Ok(Self::Auto),
            "cloud" => Ok(Self::Cloud),
            _ if is_version => Ok(Self::Version(text.to_owned())),
            _ if text.contains('/') => Ok(Self::File(text.into())),
            _ => Err("expected auto, cloud, a version such as 6.12, or a path with a /".into()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Version(version) => f.write_str(version),
            Self::Cloud => f.write_str("cloud"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A kernel that QEMU can start, and its modules.
pub struct Kernel {
    pub arch: &'static Arch,
    pub release: String,
    /// What a boot loader loads.
    pub bzimage: PathBuf,
    /// The ELF kernel in it, which QEMU starts several seconds faster.
    pub vmlinux: PathBuf,
    pub modules: Modules,
}

/// Finds or fetches a kernel.
pub fn prepare(choice: &Choice, workspace: &Workspace) -> Result<Kernel> {
    let cache = workspace.scratch("kernels")?;
    match choice {
        Choice::Auto => match host(&cache) {
            Ok(kernel) => {
                progress::note(format_args!("kernel: the host's, {}", kernel.release));
                Ok(kernel)
            }
            Err(reason) => {
                progress::note(format_args!(
                    "kernel: a package, because the host's is not usable: {reason:#}"
                ));
                packaged(&Query::newest(), &cache)
            }
        },
        Choice::Version(version) => packaged(&Query::version(version), &cache),
        Choice::Cloud => packaged(&Query::cloud(), &cache),
        Choice::File(path) => from_file(path, &cache),
    }
}

fn host(cache: &Path) -> Result<Kernel> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    let modules = PathBuf::from("/lib/modules").join(release);
    let image = [format!("/boot/vmlinuz-{release}").into(), modules.join("vmlinuz")]
        .into_iter()
        .find(|path: &PathBuf| path.exists())
        .with_context(|| format!("no vmlinuz of {release} in /boot or {}", modules.display()))?;
    let modules = Modules::open(&modules)?;
    let demo = machine::demo().host_modules();
    let wanted = demo.iter().chain(&machine::VFIO_MODULES);
    if let Some(module) = wanted.copied().find(|name| modules.presence(name) == Presence::Absent) {
        bail!("it has no {module}");
    }
    extract(&image, modules, cache)
}

fn from_file(path: &Path, cache: &Path) -> Result<Kernel> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let release = BzImage::parse(&bytes)
        .and_then(|image| image.release())
        .with_context(|| format!("cannot use {}", path.display()))?;
    let beside = path.parent().unwrap_or(Path::new("/")).join("..");
    let modules = [&beside, &beside.join("usr"), Path::new("/")]
        .into_iter()
        .map(|root| root.join("lib/modules").join(release))
        .find(|directory| directory.is_dir())
        .with_context(|| {
            format!("no modules of {release}: expected {}/lib/modules/{release}", beside.display())
        })?;
    extract(path, Modules::open(&modules)?, cache)
}

fn packaged(query: &Query, cache: &Path) -> Result<Kernel> {
    if setup::program("apt-get").is_none() {
        bail!(
            "kernels can be fetched with apt-get only, and there is none here; name a vmlinuz \
             with --kernel (its modules are looked for beside it and in /lib/modules)"
        );
    }
    setup::apt_update_if_never_done()?;
    let fetched = || -> Result<PathBuf> {
        let packages = query.resolve()?;
        let directory = packages.directory(cache);
        if !directory.is_dir() {
            packages.fetch(cache)?;
        }
        Ok(directory)
    };
    let directory = fetched().or_else(|_| {
        // Lists older than the mirror lack what is new, and name versions that are gone.
        setup::apt_update()?;
        fetched()
    })?;
    let image = first_entry(&directory.join("boot"), "vmlinuz-")?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|path| directory.join(path))
        .into_iter()
        .find(|path| path.is_dir())
        .with_context(|| format!("no modules in {}", directory.display()))?;
    let modules = Modules::open(&first_entry(&modules, "")?)?;
    extract(&image, modules, cache)
}

/// Unpacks the ELF kernel into the cache, unless it is there already.
fn extract(image: &Path, modules: Modules, cache: &Path) -> Result<Kernel> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let unpack = || -> Result<(String, PathBuf)> {
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
    let (release, vmlinux) = unpack().with_context(|| format!("cannot use {}", image.display()))?;
    Ok(Kernel { arch: X86_64, release, bzimage: image.to_owned(), vmlinux, modules })
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

/// Which kernel package to look for.
struct Query {
    /// Packages that depend on the wanted one, in order of preference.
    metas: Vec<String>,
    /// What the wanted package's name begins with.
    prefix: String,
}

impl Query {
    fn newest() -> Self {
        Self {
            metas: vec![format!("linux-image-{}", X86_64.debian), "linux-image-generic".to_owned()],
            prefix: "linux-image-".to_owned(),
        }
    }

    fn version(version: &str) -> Self {
        Self {
            metas: vec![
                format!("linux-image-{version}-amd64"),
                "linux-image-amd64".to_owned(),
                "linux-image-generic".to_owned(),
            ],
            prefix: format!("linux-image-{version}."),
        }
    }

    fn cloud() -> Self {
        Self {
            metas: vec![
                "linux-image-6.12-cloud-amd64".to_owned(),
                "linux-image-cloud-amd64".to_owned(),
            ],
            prefix: "linux-image-".to_owned(),
        }
    }

    fn resolve(&self) -> Result<Packages> {
        for meta in &self.metas {
            let wanted = dependencies(meta)?;
            if let Some(image) = wanted.iter().find(|name| name.starts_with(&self.prefix)) {
                // Ubuntu keeps the modules in packages of their own.
                let modules = wanted
                    .iter()
                    .cloned()
                    .chain(dependencies(image)?)
                    .filter(|name| name.starts_with("linux-modules-"));
                return Ok(Packages { modules: modules.collect(), image: image.clone() });
            }
        }
        bail!(
            "no kernel package {}* here: asked for {}; name a vmlinuz with --kernel instead",
            self.prefix,
            self.metas.join(", ")
        )
    }
}

/// What holds a kernel and its modules.
struct Packages {
    image: String,
    modules: BTreeSet<String>,
}

impl Packages {
    fn directory(&self, cache: &Path) -> PathBuf {
        cache.join(&self.image)
    }

    /// Downloads and unpacks; the directory is there whole or not at all.
    fn fetch(&self, cache: &Path) -> Result<()> {
        let scratch = tempfile::Builder::new()
            .prefix("fetch-")
            .tempdir_in(cache)
            .with_context(|| format!("cannot write to {}", cache.display()))?;
        let root = scratch.path().join("root");
        progress::phase(format!("fetch {}", self.image), || {
            command::check(
                Command::new("apt-get")
                    .arg("download")
                    .arg(&self.image)
                    .args(&self.modules)
                    .current_dir(scratch.path()),
            )
        })?;
        progress::phase(format!("unpack {}", self.image), || unpack(scratch.path(), &root))?;
        fs::rename(&root, self.directory(cache))
            .with_context(|| format!("cannot rename {}", root.display()))
    }
}

/// The packages that a package depends on; none if there is no such package.
fn dependencies(package: &str) -> Result<Vec<String>> {
    let output = command::output(Command::new("apt-cache").args(["depends", package]))?;
    Ok(parse_dependencies(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start_matches([' ', '|']).strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
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

fn first_entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("no {prefix}* in {}", directory.display()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let read = |text: &str| text.parse::<Choice>();
        assert_eq!(read("auto"), Ok(Choice::Auto));
        assert_eq!(read("cloud"), Ok(Choice::Cloud));
        assert_eq!(read("6.12"), Ok(Choice::Version("6.12".to_owned())));
        assert_eq!(read("./vmlinuz"), Ok(Choice::File("./vmlinuz".into())));
        assert!(read("6.x").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn apt_cache_depends_is_read() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n |Depends: kmod\n  \
                    Conflicts: x\n    dracut\n";
        assert_eq!(parse_dependencies(text), ["linux-image-6.1.0-56-amd64", "kmod"]);
    }

    #[test]
    fn version_6_1_is_not_6_12() {
        let query = Query::version("6.1");
        assert!("linux-image-6.1.0-56-amd64".starts_with(&query.prefix));
        assert!(!"linux-image-6.12.117+deb12-amd64".starts_with(&query.prefix));
    }
}
