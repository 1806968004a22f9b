//! What this host boots with, and how a parameter gets onto its kernel command line.

use crate::root::Root;

/// How to add a parameter.
pub struct BootLoader {
    pub name: &'static str,
    pub steps: Steps,
}

pub enum Steps {
    /// Write this line into this file, then run the command, if one is needed.
    Edit { file: &'static str, line: String, command: Option<&'static str> },
    /// Add the parameter to what is described so in this file.
    Append { file: &'static str, to: &'static str },
    /// Run this command.
    Run(String),
}

/// What boots this host and how to add `parameter` there; `None` where nothing known is found.
pub fn find(root: &Root, parameter: &str) -> Option<BootLoader> {
    let run = |name, command: String| Some(BootLoader { name, steps: Steps::Run(command) });
    let edit = |name, file, line, command| {
        Some(BootLoader { name, steps: Steps::Edit { file, line, command } })
    };
    let append = |name, file, to| Some(BootLoader { name, steps: Steps::Append { file, to } });
    if root.has("etc/NIXOS") {
        let line = format!("boot.kernelParams = [ \"{parameter}\" ];");
        return edit("NixOS", "/etc/nixos/configuration.nix", line, Some("nixos-rebuild boot"));
    }
    if root.has("run/ostree-booted") {
        return run("rpm-ostree", format!("rpm-ostree kargs --append='{parameter}'"));
    }
    if root.has("etc/kernel/proxmox-boot-uuids") {
        let line = command_line(root, parameter);
        return edit("Proxmox", "/etc/kernel/cmdline", line, Some("proxmox-boot-tool refresh"));
    }
    if root.has("etc/kernelstub/configuration") {
        return run("kernelstub", format!("kernelstub --add-options '{parameter}'"));
    }
    if root.first(&["usr/sbin/grubby", "usr/bin/grubby"]).is_some() {
        return run("grubby", format!("grubby --update-kernel=ALL --args='{parameter}'"));
    }
    if root.has(GRUB_FILE) {
        let command = GRUB_COMMANDS
            .iter()
            .find(|(program, _)| root.has(program))
            .map_or("grub-mkconfig -o /boot/grub/grub.cfg", |(_, command)| command);
        return match grub_line(root, parameter) {
            Some(line) => edit("GRUB", "/etc/default/grub", line, Some(command)),
            None => append("GRUB", "/etc/default/grub", "the value of GRUB_CMDLINE_LINUX_DEFAULT"),
        };
    }
    if root.has(KERNEL_INSTALL_FILE) {
        let line = command_line(root, parameter);
        let command = root.has("usr/bin/reinstall-kernels").then_some("reinstall-kernels");
        return edit(
            "systemd-boot",
            "/etc/kernel/cmdline",
            line,
            command.or(Some("kernel-install add-all")),
        );
    }
    for (directory, file) in [
        ("boot/loader/entries", "/boot/loader/entries/*.conf"),
        ("efi/loader/entries", "/efi/loader/entries/*.conf"),
    ] {
        if root.has(directory) {
            return append("systemd-boot", file, "the line that begins with options");
        }
    }
    if root.has("boot/refind_linux.conf") {
        return append(
            "rEFInd",
            "/boot/refind_linux.conf",
            "the second text in quotes of the first line",
        );
    }
    if root.has("boot/extlinux/extlinux.conf") {
        return append(
            "extlinux",
            "/boot/extlinux/extlinux.conf",
            "the line that begins with append",
        );
    }
    None
}

/// Where GRUB's defaults are, below the root.
pub const GRUB_FILE: &str = "etc/default/grub";
/// The variable with the command line, and its `=`.
pub const GRUB_NAME: &str = "GRUB_CMDLINE_LINUX_DEFAULT=";
/// Where kernel-install has the command line, below the root.
pub const KERNEL_INSTALL_FILE: &str = "etc/kernel/cmdline";

const GRUB_COMMANDS: [(&str, &str); 3] = [
    ("usr/sbin/update-grub", "update-grub"),
    ("usr/sbin/grub2-mkconfig", "grub2-mkconfig -o /boot/grub2/grub.cfg"),
    ("usr/bin/grub-mkconfig", "grub-mkconfig -o /boot/grub/grub.cfg"),
];

/// The line of GRUB's defaults with the parameter added: the one that the recovery entries do not use,
/// so that they stay a way out. `None` where the shell that reads it would find more in it than a text in quotes.
fn grub_line(root: &Root, parameter: &str) -> Option<String> {
    let keep = |line: &str| {
        let is_it = line.contains(GRUB_NAME) && !line.trim_start().starts_with('#');
        is_it.then(|| line.to_owned())
    };
    let lines = root.lines(GRUB_FILE, keep).unwrap_or_default();
    let value = match lines.last() {
        Some(line) if line.trim_start().starts_with(GRUB_NAME) => grub_value(line),
        Some(_) => return None,
        None => "",
    };
    let is_plain = !value.contains(['"', '\'', '$', '`', '\\', ';']);
    is_plain.then(|| format!("{GRUB_NAME}\"{}\"", with(value, parameter)))
}

/// A command line with the parameter, which may be there already.
fn with(line: &str, parameter: &str) -> String {
    if line.is_empty() {
        parameter.to_owned()
    } else if line.split_whitespace().any(|word| word == parameter) {
        line.to_owned()
    } else {
        format!("{line} {parameter}")
    }
}

/// The value of a line of GRUB's defaults, without its quotes.
pub fn grub_value(line: &str) -> &str {
    let value = line.trim_start().strip_prefix(GRUB_NAME).unwrap_or_default();
    let value = value.split(" #").next().unwrap_or_default().trim();
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// A whole command line with the parameter added.
fn command_line(root: &Root, parameter: &str) -> String {
    let keep = |line: &str| (!line.trim_start().starts_with('#')).then(|| line.trim().to_owned());
    let lines = root.lines(KERNEL_INSTALL_FILE, keep).unwrap_or_default();
    with(&lines.join(" "), parameter)
}
