//! How the early binary is linked, besides being static: see `xtask/src/build` for that.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=src/early/link.ld");
    let root = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("-Wl,-T,{root}/src/early/link.ld");
    let mut arguments = vec!["-Wl,-z,noseparate-code", "-Wl,--no-eh-frame-hdr", &script];
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        // Of musl only the dynamic loader protects what is read-only after relocation (`reloc_all` in
        // `ldso/dynlink.c`). In a static program the segment would be no more than a page of padding.
        arguments.push("-Wl,-z,norelro,-z,common-page-size=64");
    }
    for argument in arguments {
        println!("cargo::rustc-link-arg-bin=vfio-override-early={argument}");
    }
}
