//! Compiles the raft transport's `.proto` file without an external compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/raft.proto");
    let descriptors = protox::compile(["raft.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Blocks and commands are passed on as they arrived, without a copy.
        .bytes(".argosy.raft.v1.SnapshotPart")
        .bytes(".argosy.raft.v1.Commands")
        .extern_path(".argosy.raft.v1.Member", "crate::types::Member")
        .codec_path("crate::transport::codec::ChecksumCodec")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
