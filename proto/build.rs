//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ours = ["control", "clock", "bulk", "evidence", "server", "results"]
        .map(|name| format!("proto/tailcliff/v1/{name}.proto"));
    let files = ours.into_iter().chain(["proto/opentelemetry/trace.proto".to_owned()]);
    let descriptors = protox::compile(files, ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    // They carry secrets, and are printed by hand.
    tonic_prost_build::configure()
        .skip_debug(["tailcliff.v1.Target", "tailcliff.v1.Header"])
        .compile_fds(descriptors)?;
    Ok(())
}
