//! Compiles the `.proto` files without an external compiler.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "types",
        "scheduler",
        "agents",
        "executor",
        "operator",
        "leadership",
        "reigns",
    ]
    .map(|name| format!("argosy/v1/{name}.proto"));
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let bytes = protox::prost::Message::encode_to_vec(&descriptors);
    std::fs::write(out.join("descriptors.bin"), &bytes)?;
    tonic_prost_build::configure()
        .bytes(".argosy.v1.Offer.token")
        .build_transport(false)
        .codec_path("crate::codec::MessageCodec")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .ignore_unknown_fields()
        .build(&[".argosy.v1"])?;
    Ok(())
}
