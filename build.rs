// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the early binary is linked, besides being static: see `xtask/src/build` for that.

use std::env;

/// The architectures on which the early binary is built, proven and booted (`xtask/src/ground/arch.rs`).
const TESTED: [&str; 2] = ["x86_64", "aarch64"];

fn main() {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if env::var_os("CARGO_FEATURE_EARLY").is_some() && !TESTED.contains(&arch.as_str()) {
        println!(
            "cargo::error=nobody has tested vfio-override-early on {arch}: it makes system calls and reads \
             directories by itself, as they are on {}. docs/architectures.md says what a further one takes",
            TESTED.join(" and ")
        );
    }
    println!("cargo::rerun-if-changed=src/early/link.ld");
    println!("cargo::rerun-if-changed=src/early/musl.ld");
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let (script, more): (_, &[&str]) = match env::var("CARGO_CFG_TARGET_ENV").as_deref() {
        Ok("musl") => (
            "musl.ld",
            &[
                // The one linker that leaves out texts to which nothing refers: std's panics have a kilobyte.
                "-fuse-ld=lld",
                "-Wl,--defsym=rust_eh_personality=0",
                // Of musl only the dynamic loader protects what is read-only after relocation (`reloc_all` in
                // `ldso/dynlink.c`). In a static program the segment would be no more than a page of padding.
                "-Wl,-z,norelro,--no-rosegment,--no-dynamic-linker",
            ],
        ),
        _ => ("link.ld", &[]),
    };
    let script = format!("-Wl,-T,{root}/src/early/{script}");
    let arguments = ["-Wl,-z,noseparate-code,--no-eh-frame-hdr", &script];
    for argument in arguments.iter().chain(more) {
        println!("cargo::rustc-link-arg-bin=vfio-override-early={argument}");
    }
}
