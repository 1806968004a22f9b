//! How the early binary is linked, besides being static: see `xtask/src/build.rs` for that.

fn main() {
    println!("cargo::rerun-if-changed=src/early/link.ld");
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in [
        "-Wl,-z,noseparate-code",
        "-Wl,--no-eh-frame-hdr",
        &format!("-Wl,-T,{root}/src/early/link.ld"),
    ] {
        println!("cargo::rustc-link-arg-bin=vfio-override-early={argument}");
    }
}
