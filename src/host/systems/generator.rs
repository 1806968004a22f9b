//! What makes this host's initramfs, and whether the hook is in it.

use std::fs::File;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use vfio_override::cmdline;

use crate::machine::Machine;
use crate::machine::modules::is_module_file;
use crate::machine::root::Root;

/// An initramfs generator.
pub struct Generator {
    pub name: &'static str,
    /// Any of these shows that it is there.
    programs: &'static [&'static str],
    /// Where the hook is installed, below the root.
    hook: Option<&'static str>,
    /// Makes all images anew.
    pub rebuild: &'static str,
    /// Lists what an image holds, the image being its last argument.
    list: Option<&'static str>,
}

/// In the order in which they are looked for: where two are installed, the one that the distribution does
/// not bring of itself comes first.
const GENERATORS: [Generator; 4] = [
    Generator {
        name: "mkinitcpio",
        programs: &["usr/bin/mkinitcpio"],
        hook: Some("usr/lib/initcpio/install/vfio-override"),
        rebuild: "mkinitcpio -P",
        list: Some("lsinitcpio"),
    },
    Generator {
        name: "initramfs-tools",
        programs: &["usr/sbin/mkinitramfs"],
        hook: Some("usr/share/initramfs-tools/hooks/vfio-override"),
        rebuild: "update-initramfs -u -k all",
        list: Some("lsinitramfs"),
    },
    Generator {
        name: "dracut",
        programs: &["usr/bin/dracut", "usr/sbin/dracut"],
        hook: Some("usr/lib/dracut/modules.d/50vfio-override"),
        rebuild: "dracut --force --regenerate-all",
        list: Some("lsinitrd"),
    },
    Generator {
        name: "Booster",
        programs: &["usr/bin/booster"],
        hook: None,
        rebuild: "/usr/lib/booster/regenerate_images",
        list: None,
    },
];

/// Where the early binary is, on the host and in every image.
const EARLY: &str = "usr/lib/vfio-override/vfio-override-early";
/// Under this name a copy keeps what its image holds.
const LISTING: &str = "initramfs.list";

/// What is known of the initramfs of the running kernel.
pub struct Initramfs {
    pub generator: Option<&'static Generator>,
    /// Whether the generator has the hook.
    pub has_hook: bool,
    /// The file, below the root.
    pub image: Option<String>,
    /// Whether the early binary or the hook was installed after the image was made.
    pub is_older_than_hook: bool,
    /// The files of ours in it, and the modules.
    listing: Result<Vec<String>, Unlisted>,
    /// Whether the kernel starts the early binary itself, so that no hook is needed.
    pub is_strict: bool,
}

/// Why it is not known what an image holds.
enum Unlisted {
    /// It takes somebody else to read it.
    Forbidden,
    /// There is no image, or nothing here that could list it.
    Unknown,
}

impl Initramfs {
    /// Looks for it; `None` where the host's files are not there to look at.
    pub fn of(machine: &Machine, line: &[u8]) -> Option<Self> {
        let root = machine.root.as_ref()?;
        let generator =
            GENERATORS.iter().find(|generator| root.first(generator.programs).is_some());
        let hook = generator.and_then(|generator| generator.hook);
        let has_hook = hook.is_some_and(|hook| root.has(hook)) && is_listed(root, generator);
        let image = image_of(root, &machine.release()?);
        let newest = [hook, Some(EARLY)]
            .into_iter()
            .flatten()
            .filter_map(|path| root.has(path).then(|| root.modified(path)).flatten());
        let is_older_than_hook =
            match (image.as_deref().and_then(|i| root.modified(i)), newest.max()) {
                (Some(image), Some(hook)) => image < hook,
                _ => false,
            };
        let listing = match &image {
            Some(image) if is_forbidden(root, image) => Err(Unlisted::Forbidden),
            Some(image) => list(root, generator, image).ok_or(Unlisted::Unknown),
            None => Err(Unlisted::Unknown),
        };
        let is_strict = cmdline::parameters(line).any(|parameter| {
            matches!(parameter.name, b"rdinit" | b"init")
                && parameter.value.is_some_and(|value| value.ends_with(b"/vfio-override-early"))
        });
        Some(Self { generator, has_hook, image, is_older_than_hook, listing, is_strict })
    }

    /// Whether it takes somebody else to see what is in the image.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.listing, Err(Unlisted::Forbidden))
    }

    /// Whether the early binary is in the image; `None` where the image cannot be read.
    pub fn has_early(&self) -> Option<bool> {
        let listing = self.listing.as_ref().ok()?;
        Some(listing.iter().any(|path| path.ends_with("/vfio-override-early")))
    }

    /// Whether the module of this driver is in the image; `None` where the image cannot be read.
    pub fn has_module(&self, driver: &str) -> Option<bool> {
        let listing = self.listing.as_ref().ok()?;
        Some(listing.iter().any(|path| is_module_file(path, driver)))
    }
}

/// mkinitcpio installs only what its configuration lists.
fn is_listed(root: &Root, generator: Option<&Generator>) -> bool {
    if generator.is_none_or(|generator| generator.name != "mkinitcpio") {
        return true;
    }
    let hooks = |path: &str| {
        let keep = |line: &str| line.trim_start().starts_with("HOOKS").then(|| line.to_owned());
        root.lines(path, keep).unwrap_or_default()
    };
    let directory = "etc/mkinitcpio.conf.d";
    let more = root.names(directory).into_iter().map(|name| format!("{directory}/{name}"));
    let lines = ["etc/mkinitcpio.conf".to_owned()].into_iter().chain(more);
    lines.flat_map(|path| hooks(&path)).any(|line| {
        line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .any(|word| word == "vfio-override")
    })
}

/// The image of this kernel, where distributions put it.
fn image_of(root: &Root, release: &str) -> Option<String> {
    let preset = format!("lib/modules/{release}/pkgbase");
    let package = root.lines(&preset, |line| Some(line.to_owned())).unwrap_or_default();
    let mut names = vec![
        format!("boot/initrd.img-{release}"),
        format!("boot/initramfs-{release}.img"),
        format!("boot/initrd-{release}"),
        format!("boot/booster-{release}.img"),
    ];
    names.extend(package.first().map(|package| format!("boot/initramfs-{package}.img")));
    names.into_iter().find(|name| root.has(name))
}

fn is_forbidden(root: &Root, image: &str) -> bool {
    let opened = File::open(root.path(image));
    opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// What the image holds of ours, and its modules for VFIO, by the generator's own program.
fn list(root: &Root, generator: Option<&Generator>, image: &str) -> Option<Vec<String>> {
    let is_ours = |line: &str| {
        let path = line.split_whitespace().find(|word| word.contains('/'))?;
        let is_driver = ["vfio", "pci-stub", "pci_stub"].iter().any(|name| path.contains(name));
        is_driver.then(|| path.to_owned())
    };
    if !root.is_live() {
        return root.lines(LISTING, is_ours).ok();
    }
    let program = generator?.list?;
    let mut command = Command::new(program);
    command.arg(root.path(image)).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().filter_map(is_ours).collect();
    // An image without a single path is one that could not be read.
    if !text.lines().any(|line| line.contains('/')) {
        return None;
    }
    root.remember(LISTING, &lines.join("\n"));
    Some(lines)
}
