//! What this host boots with, and how parameters get onto its kernel command line.

use crate::machine::root::Root;

/// How to add parameters.
pub struct BootLoader {
    pub name: &'static str,
    pub steps: Steps,
}

pub enum Steps {
    /// Write this line into this file, then run the command, if one is needed.
    Edit { file: String, line: String, command: Option<&'static str> },
    /// Add the parameters to what is described so in this file, then run the command, if one is needed.
    Append { file: String, to: &'static str, command: Option<&'static str> },
    /// Run this command.
    Run(String),
}

/// What boots this host and how to add `parameters` there; `None` where nothing known is found.
pub fn find(root: &Root, parameters: &[String]) -> Option<BootLoader> {
    let words = parameters.join(" ");
    let run = |name, command: String| Some(BootLoader { name, steps: Steps::Run(command) });
    if root.has("etc/NIXOS") {
        let quoted: Vec<String> = parameters.iter().map(|word| format!("\"{word}\"")).collect();
        let steps = Steps::Edit {
            file: "/etc/nixos/configuration.nix".to_owned(),
            line: format!("boot.kernelParams = [ {} ];", quoted.join(" ")),
            command: Some("nixos-rebuild boot"),
        };
        return Some(BootLoader { name: "NixOS", steps });
    }
    if root.has("run/ostree-booted") {
        let options: Vec<String> =
            parameters.iter().map(|word| format!("--append='{word}'")).collect();
        return run("rpm-ostree", format!("rpm-ostree kargs {}", options.join(" ")));
    }
    let is_systemd_boot = was_started_by_systemd_boot(root);
    if root.has("etc/kernel/proxmox-boot-uuids") {
        let command = "proxmox-boot-tool refresh";
        // It serves either, and both files are there.
        return Some(if is_systemd_boot || !root.has(GRUB_FILE) {
            kernel_install(root, parameters, "Proxmox, systemd-boot", command)
        } else {
            grub(root, parameters, "Proxmox, GRUB", command)
        });
    }
    if root.has("etc/kernelstub/configuration") {
        return run("kernelstub", format!("kernelstub --add-options '{words}'"));
    }
    if root.first(&["usr/sbin/grubby", "usr/bin/grubby"]).is_some() {
        return run("grubby", format!("grubby --update-kernel=ALL --args='{words}'"));
    }
    // One that was there before may have left its files.
    if root.has(GRUB_FILE) && !is_systemd_boot {
        let command = GRUB_COMMANDS
            .iter()
            .find(|(program, _)| root.has(program))
            .map_or("grub-mkconfig -o /boot/grub/grub.cfg", |(_, command)| command);
        return Some(grub(root, parameters, "GRUB", command));
    }
    if root.has(KERNEL_INSTALL_FILE) {
        let has_all = root.has("usr/bin/reinstall-kernels");
        let command = if has_all { "reinstall-kernels" } else { "kernel-install add-all" };
        return Some(kernel_install(root, parameters, "systemd-boot", command));
    }
    by_hand(root)
}

/// Boot loaders whose own files have the command line.
fn by_hand(root: &Root) -> Option<BootLoader> {
    const FILES: [(&str, &str, &str, &str); 4] = [
        (
            "boot/loader/entries",
            "systemd-boot",
            "/boot/loader/entries/*.conf",
            "the line that begins with options",
        ),
        (
            "efi/loader/entries",
            "systemd-boot",
            "/efi/loader/entries/*.conf",
            "the line that begins with options",
        ),
        (
            "boot/refind_linux.conf",
            "rEFInd",
            "/boot/refind_linux.conf",
            "the second text in quotes of the first line",
        ),
        (
            "boot/extlinux/extlinux.conf",
            "extlinux",
            "/boot/extlinux/extlinux.conf",
            "the line that begins with append",
        ),
    ];
    let (_, name, file, to) = FILES.into_iter().find(|(path, ..)| root.has(path))?;
    let steps = Steps::Append { file: file.to_owned(), to, command: None };
    Some(BootLoader { name, steps })
}

/// Whether the boot loader has told the firmware so (`LoaderInfo` of the Boot Loader Interface).
fn was_started_by_systemd_boot(root: &Root) -> bool {
    const LOADER_INFO: &str =
        "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    // The variable is in UTF-16.
    let keep = |line: &str| {
        let name = "systemd-boot";
        line.replace('\0', "").contains(name).then(|| name.to_owned())
    };
    root.lines(LOADER_INFO, keep).is_ok_and(|lines| !lines.is_empty())
}

/// Where GRUB's defaults are, below the root.
pub const GRUB_FILE: &str = "etc/default/grub";
/// Where Debian's GRUB has more of them, in files that end so.
const GRUB_MORE: (&str, &str) = ("etc/default/grub.d", ".cfg");
/// The variable with the command line, and its `=`: the one that the recovery entries do not use, so that they
/// stay a way out.
pub const GRUB_NAME: &str = "GRUB_CMDLINE_LINUX_DEFAULT=";
/// Where kernel-install has the command line, below the root.
pub const KERNEL_INSTALL_FILE: &str = "etc/kernel/cmdline";

const UPDATE_GRUB: &str = "usr/sbin/update-grub";
const GRUB_COMMANDS: [(&str, &str); 3] = [
    (UPDATE_GRUB, "update-grub"),
    ("usr/sbin/grub2-mkconfig", "grub2-mkconfig -o /boot/grub2/grub.cfg"),
    ("usr/bin/grub-mkconfig", "grub-mkconfig -o /boot/grub/grub.cfg"),
];

/// Whether GRUB's defaults are in this file, which has no leading slash.
pub fn is_grub_file(path: &str) -> bool {
    let (directory, end) = GRUB_MORE;
    path == GRUB_FILE || path.starts_with(directory) && path.ends_with(end)
}

fn grub(
    root: &Root,
    parameters: &[String],
    name: &'static str,
    command: &'static str,
) -> BootLoader {
    let command = Some(command);
    let assignment = grub_assignment(root);
    let file = assignment.as_ref().map_or(GRUB_FILE, |(file, _)| file);
    let file = format!("/{file}");
    let steps = match assignment.as_ref().map_or(Some(""), |(_, line)| plain_value(line)) {
        Some(value) => {
            let line = format!("{GRUB_NAME}\"{}\"", with(value, parameters));
            Steps::Edit { file, line, command }
        }
        None => Steps::Append { file, to: "the value of GRUB_CMDLINE_LINUX_DEFAULT", command },
    };
    BootLoader { name, steps }
}

/// The assignment to the variable that counts, and the file that it is in: the last, but for those that only add to
/// what was there before.
fn grub_assignment(root: &Root) -> Option<(String, String)> {
    let keep = |line: &str| {
        let is_it = line.contains(GRUB_NAME) && !line.trim_start().starts_with('#');
        is_it.then(|| line.to_owned())
    };
    let (directory, end) = GRUB_MORE;
    let mut files = vec![GRUB_FILE.to_owned()];
    if root.has(UPDATE_GRUB) {
        let names = root.names(directory).into_iter().filter(|name| name.ends_with(end));
        files.extend(names.map(|name| format!("{directory}/{name}")));
    }
    let lines = files.into_iter().flat_map(|file| {
        let lines = root.lines(&file, keep).unwrap_or_default();
        lines.into_iter().map(move |line| (file.clone(), line))
    });
    lines.filter(|(_, line)| !only_adds(line)).last()
}

/// Whether an assignment keeps what the variable had.
pub fn only_adds(line: &str) -> bool {
    let name = GRUB_NAME.trim_end_matches('=');
    line.contains(&format!("${name}")) || line.contains(&format!("${{{name}}}"))
}

/// The value of an assignment; `None` where the shell that reads it would find more in it than a text in quotes.
pub fn plain_value(line: &str) -> Option<&str> {
    let value = line.trim_start().strip_prefix(GRUB_NAME)?;
    let value = value.split(" #").next()?.trim();
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = inner('"').or_else(|| inner('\'')).unwrap_or(value);
    (!value.contains(['"', '\'', '$', '`', '\\', ';'])).then_some(value)
}

/// What kernel-install, or Proxmox in its place, makes boot entries of.
fn kernel_install(
    root: &Root,
    parameters: &[String],
    name: &'static str,
    command: &'static str,
) -> BootLoader {
    let keep = |line: &str| (!line.trim_start().starts_with('#')).then(|| line.trim().to_owned());
    let lines = root.lines(KERNEL_INSTALL_FILE, keep).unwrap_or_default();
    let steps = Steps::Edit {
        file: format!("/{KERNEL_INSTALL_FILE}"),
        line: with(&lines.join(" "), parameters),
        command: Some(command),
    };
    BootLoader { name, steps }
}

/// A command line with the parameters, which may be there already, and without what would switch them off.
fn with(line: &str, parameters: &[String]) -> String {
    let mut words: Vec<&str> =
        line.split_whitespace().filter(|word| *word != "vfio.override=off").collect();
    for parameter in parameters {
        if !words.contains(&parameter.as_str()) {
            words.push(parameter);
        }
    }
    words.join(" ")
}
