//! How the kernel is linked: alone, at a fixed address, by its own script. Plain `cargo build` on the host target.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link.ld");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("ARCH") != "x86_64" {
        // The program is then a message that says so.
        return;
    }
    let script = format!("{}/link.ld", env!("CARGO_MANIFEST_DIR"));
    // Through the C compiler where the target has an operating system, which then stays out; directly to the linker otherwise.
    let arguments: &[&str] = if target("OS") == "none" {
        &["--no-pie", "--build-id=none", "-zmax-page-size=4096", "--gc-sections"]
    } else {
        &[
            "-nostartfiles",
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
            "-Wl,-z,max-page-size=4096",
            "-Wl,--gc-sections",
        ]
    };
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-T{script}");
}
