//! Unpacking of image layers and fetched archives, in isolated processes of the launcher.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

use argosy_isolation::ContainerUser;
use argosy_isolation::unpack::{ArchiveFormat, UnpackHandle, UnpackReport, UnpackResult};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::Interest;

use crate::broker_client::BrokerClient;
use crate::descriptors::watched;
use argosy_content::fetcher::Extractor;
use argosy_content::images::{Digest, LayerCompression, UnpackError, UnpackedLayer, Unpacker};

/// The size of an archive's header that identifies its format, in bytes.
const HEADER_BYTES: u64 = 262;

/// Maximum number of archives and layers that are unpacked concurrently: each may take a decoder's
/// 128 MiB, and a core.
pub(super) const SLOTS: usize = 4;

/// Unpacking by the agent's launcher.
pub(super) struct LauncherUnpacker {
    broker: BrokerClient,
}

impl LauncherUnpacker {
    pub(super) fn new(broker: BrokerClient) -> Self {
        Self { broker }
    }
}

impl Unpacker for LauncherUnpacker {
    fn unpack<'a>(
        &'a self,
        layer: File,
        packing: LayerCompression,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>> {
        let format = match packing {
            LayerCompression::Tar => ArchiveFormat::Tar,
            LayerCompression::TarGzip => ArchiveFormat::TarGzip,
            LayerCompression::TarZstd => ArchiveFormat::TarZstd,
        };
        let (broker, draft) = (self.broker.clone(), draft_of(into));
        let unpacking = unpack(move || {
            let draft = draft.ok_or("a layer is unpacked into a directory of the store")?;
            broker.unpack_layer(format, layer.as_fd(), draft)
        });
        async move {
            let unpacked = unpacking.await.map_err(UnpackError)?;
            let diff_id = unpacked.digest.expect("every layer has a digest");
            Ok(UnpackedLayer {
                diff_id: Digest::from(diff_id),
                bytes: unpacked.progress.written_bytes,
            })
        }
        .boxed()
    }
}

/// Returns the draft of the layer with this directory of files.
fn draft_of(root: &Path) -> Option<String> {
    let draft = root.parent()?.file_name()?.to_str()?;
    Some(draft.to_owned())
}

impl Extractor for LauncherUnpacker {
    fn extract<'a>(
        &'a self,
        mut archive: File,
        into: File,
        owner: Option<&'a ContainerUser>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let own = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        let owner = owner.map_or(own, |user| (user.uid, user.gid));
        let broker = self.broker.clone();
        let unpacking = unpack(move || {
            let mut beginning = Vec::new();
            let read = (&mut archive)
                .take(HEADER_BYTES)
                .read_to_end(&mut beginning);
            read.and_then(|_| archive.rewind())
                .map_err(|error| format!("cannot read the fetched file: {error}"))?;
            let format = ArchiveFormat::of(&beginning).ok_or(
                "it is not a known kind of archive: tar, also with gzip, zstd or xz, or zip",
            )?;
            broker.unpack_files(format, owner, archive.as_fd(), into.as_fd())
        });
        async move { unpacking.await.map(drop) }.boxed()
    }
}

/// Unpacks an archive that starts with `begin`. If it is dropped, it ends the process.
async fn unpack(
    begin: impl FnOnce() -> Result<UnpackHandle, String> + Send + 'static,
) -> Result<UnpackResult, String> {
    let begun = tokio::task::spawn_blocking(begin).await;
    let unpacking = begun.expect("asking the launcher never panics");
    finish(unpacking?).await
}

async fn finish(unpacking: UnpackHandle) -> Result<UnpackResult, String> {
    let deaf = |error: std::io::Error| {
        format!("cannot read from the unpacking process: {error}; try again")
    };
    let mut socket = watched(unpacking, Interest::READABLE).map_err(deaf)?;
    loop {
        while let Some(report) = socket.get_mut().report() {
            match report {
                UnpackReport::Progress(_) => {}
                UnpackReport::Done(unpacked) => return Ok(unpacked),
                UnpackReport::Failed(failure) => return Err(failure.reason),
            }
        }
        socket.readable().await.map_err(deaf)?.clear_ready();
    }
}
