//! Compiles the `.proto` files without an external compiler.

use std::collections::BTreeSet;
use std::path::PathBuf;

use protox::prost_reflect::prost_types::FileDescriptorProto;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "types",
        "access",
        "certificates",
        "scheduler",
        "agents",
        "executor",
        "operator",
        "tickets",
        "leadership",
        "reigns",
    ]
    .map(|name| format!("argosy/v1/{name}.proto"));
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // Not the directory: its time changes with every clone.
    for file in &files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let bytes = protox::prost::Message::encode_to_vec(&descriptors);
    std::fs::write(out.join("descriptors.bin"), &bytes)?;
    let written = written(&descriptors.file);
    tonic_prost_build::configure()
        .bytes(".argosy.v1.Offer.token")
        // Their values are never shown: see `secret_value.rs`.
        .skip_debug([
            ".argosy.v1.SetSecret",
            ".argosy.v1.TaskSecret",
            ".argosy.v1.IssueCertificateRequest",
        ])
        .build_transport(false)
        .codec_path("crate::codec::MessageCodec")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .ignore_unknown_fields()
        .exclude(&written)
        .build(&[".argosy.v1"])?;
    // A misspelled field of a change must not be ignored.
    let strict = out.join("strict");
    std::fs::create_dir_all(&strict)?;
    pbjson_build::Builder::new()
        .out_dir(strict)
        .register_descriptors(&bytes)?
        .build(&Vec::from_iter(&written))?;
    Ok(())
}

/// The bodies of JSON requests. Unknown fields of these, and of the messages in them, are rejected.
const BODIES: [&str; 7] = [
    ".argosy.v1.IssueTicketsRequest",
    ".argosy.v1.WriteBatch",
    ".argosy.v1.Limits",
    ".argosy.v1.JoinMasterRequest",
    ".argosy.v1.RemoveMasterRequest",
    ".argosy.v1.TransferLeaderRequest",
    ".argosy.v1.RaiseLevelRequest",
];

/// Returns the bodies of JSON requests and all messages in them.
fn written(files: &[FileDescriptorProto]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<String> = BODIES.map(str::to_owned).to_vec();
    while let Some(name) = waiting.pop() {
        let messages = files.iter().flat_map(|file| &file.message_type);
        let mut named = messages.filter(|message| name == format!(".argosy.v1.{}", message.name()));
        if let Some(message) = named.next()
            && found.insert(name.clone())
        {
            let fields = message.field.iter();
            waiting.extend(fields.filter_map(|field| field.type_name.clone()));
        }
    }
    found
}
