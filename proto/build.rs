//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["control", "clock", "bulk", "results"].map(|name| format!("proto/tailcliff/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
