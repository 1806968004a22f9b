// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is tested of other architectures without a guest: the tests of the binaries, run by QEMU's emulation of a
//! process, and the library under Miri, which also shows undefined behaviour. Both are for `--all`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::build::Binary;
use crate::ground::arch::Arch;
use crate::ground::command;
use crate::ground::setup;
use crate::ground::workspace::{Workspace, cargo};

/// What of the early binary cannot be tested by the emulation of a process, each with why.
pub const NOT_EMULATED: [(&str, &str); 13] = [
    ("below::no_link_on_the_way_leads_out_of_the_tree", OPENAT2),
    ("below::what_is_no_file_costs_one_function_and_plan_says_the_same", OPENAT2),
    ("cost::", "what is counted would be the emulation's system calls"),
    (
        "environment::a_filter_that_refuses_processes_is_told",
        "the emulation starts processes and threads by calls of its own",
    ),
    (
        "environment::a_limit_on_memory_costs_all_or_nothing",
        "the emulation takes memory of its own, and then says why it has none",
    ),
    ("environment::a_limit_on_processes_is_told", NOBODY),
    (
        "environment::signals_that_were_ignored_or_blocked_change_nothing",
        "the emulation writes a signal's old action before it reads the new one",
    ),
    (
        "environment::where_no_file_can_be_opened_that_is_told_and_the_run_ends",
        "the emulation opens files of its own before the program",
    ),
    ("inject::", "faults would be put into the emulation's system calls"),
    ("pid1::a_hang_leaves_no_function_unprotected", WORKER),
    ("pid1::a_worker_that_crashes_or_is_killed_does_not_stop_the_boot", WORKER),
    ("pid1::a_worker_that_hangs_delays_the_boot_by_five_seconds", WORKER),
    (
        "pid1::the_real_init_finds_signals_as_they_were",
        "the emulation handles signals by itself, and so changes which ones are ignored",
    ),
];

/// The same of the host tool.
pub const HOST_NOT_EMULATED: [(&str, &str); 7] = [
    ("bad_input::a_file_of_the_host_that_is_none_is_no_harm", MEMORY),
    ("commands::a_directory_is_not_left_by_links_in_it", OPENAT2),
    ("commands::a_large_machine_is_answered_in_bounds", MEMORY),
    ("commands::looking_changes_nothing_and_takes_no_privilege", NOBODY),
    ("commands::who_may_not_change_anything_is_told_so", NOBODY),
    ("commands::what_is_suggested_does_what_it_says", EVERY_MACHINE),
    ("commands::what_json_holds_is_as_the_schema_says", EVERY_MACHINE),
];

const EVERY_MACHINE: &str =
    "it runs the tool on every machine, which takes the emulation ten minutes";
const MEMORY: &str = "what is bounded would be the emulation's memory";
const OPENAT2: &str = "the emulation has no openat2";
const NOBODY: &str = "it takes a user who is not root";
const WORKER: &str = "the worker is looked for by its file, which is the emulation's";

/// Tells the kernel, in name spaces of a script's own, who runs the files that its first argument describes. It takes
/// Linux 6.7.
pub const REGISTER: &str = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && \
                            printf %s \"$1\" >/proc/sys/fs/binfmt_misc/register && shift";

/// What [`REGISTER`] is to be told of an architecture's files.
pub fn description(arch: &Arch) -> Result<String> {
    setup::ensure(&[&arch.emulation])?;
    let emulator = arch.emulation.path()?;
    let (header, mask) = (escaped(&header(arch)), escaped(&MASK));
    Ok(format!(":vfio-override:M::{header}:{mask}:{}:OCF", emulator.display()))
}

/// The tests of the early binary for another architecture.
pub fn early(binary: &Binary) -> Result<Command> {
    let mut command = emulated(binary.target.arch)?;
    command
        .args(["--tests", "--", "--ignored"])
        .args(NOT_EMULATED.iter().flat_map(|(name, _)| ["--skip", name]))
        .env("VFIO_OVERRIDE_EARLY", &binary.path);
    Ok(command)
}

/// What cargo is to test of the host tool.
pub const HOST_TESTS: [&str; 2] = ["--test", "host"];
/// Where these tests look for the tool, if not where cargo has built it.
pub const TOOL: &str = "VFIO_OVERRIDE_TOOL";

/// Those of the host tool.
pub fn host(arch: &Arch, tool: &Path) -> Result<Command> {
    let mut command = emulated(arch)?;
    command
        .args(HOST_TESTS)
        .arg("--")
        .args(HOST_NOT_EMULATED.iter().flat_map(|(name, _)| ["--skip", name]))
        .env(TOOL, tool);
    Ok(command)
}

/// `cargo test`, where the kernel knows who runs another architecture's programs.
fn emulated(arch: &Arch) -> Result<Command> {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("{REGISTER} && exec \"$@\""))
        .args(["sh", &description(arch)?])
        // What a longer form of a test would show does not depend on the architecture.
        .args(["env", "--unset=VFIO_OVERRIDE_ALL"])
        .arg(cargo())
        .args(["test", "--locked", "--quiet"]);
    Ok(command)
}

/// How an executable file of an architecture begins.
fn header(arch: &Arch) -> [u8; 20] {
    let mut header = [0; 20];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16] = 2;
    header[18..].copy_from_slice(&arch.elf_machine.to_le_bytes());
    header
}

/// Which bits of that count: not the operating system, and not whether the file may be moved.
const MASK: [u8; 20] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xfe, 0xff, 0xff, 0xff,
];

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("\\x{byte:02x}"))
}

/// The platforms that Miri takes the library to run on: this one's kind, and one with the bytes the other way round.
pub const MIRI: [&str; 2] = ["x86_64-unknown-linux-gnu", "s390x-unknown-linux-gnu"];

/// The library's own tests under Miri, with fewer inputs where a test makes them up.
pub fn miri(workspace: &Workspace, platform: &str) -> Result<()> {
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    command::check(install.args(["--component", "miri,rust-src"]))?;
    let mut test = Command::new("rustup");
    test.args(["run", "nightly", "cargo", "miri", "test", "--locked", "--quiet", "--lib"])
        .args(["--no-default-features", "--target", platform, "--target-dir"])
        .arg(workspace.scratch("miri")?)
        // Set by the rustup shim that runs us, and meant for its own cargo only.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "8")
        .current_dir(&workspace.root);
    command::check(&mut test).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::arch::AARCH64;

    #[test]
    fn an_architectures_files_are_known_by_their_first_bytes() {
        assert_eq!(
            escaped(&header(AARCH64)),
            r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
        );
    }
}
