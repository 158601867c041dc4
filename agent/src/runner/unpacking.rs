//! Layers of images and fetched archives, unpacked by processes of the launcher's that can reach nothing else.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_isolation::User;
use argosy_isolation::unpack::{Format, Job, Owner, Report, Rules, Unpacked, Unpacking};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::Interest;
use tokio::sync::Semaphore;

use super::launching::Launching;
use crate::descriptors::watched;
use argosy_content::fetcher::Extractor;
use argosy_content::images::{Digest, Packing, UnpackError, UnpackedLayer, Unpacker};

/// The first bytes of an archive, which say what it is.
const BEGINNING_BYTES: u64 = 262;

/// Archives and layers that are unpacked at a time: each may take a decoder's 128 MiB, and a core.
const AT_A_TIME: usize = 4;

/// Unpacks by the agent's launcher.
pub(super) struct Unpackings {
    launching: Arc<Launching>,
    turns: Arc<Semaphore>,
    /// The control group in which it is done.
    group: Option<PathBuf>,
}

impl Unpackings {
    pub(super) fn new(launching: Arc<Launching>, group: Option<PathBuf>) -> Self {
        Self {
            launching,
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            group,
        }
    }
}

impl Unpacker for Unpackings {
    fn unpack<'a>(
        &'a self,
        layer: File,
        packing: Packing,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<UnpackedLayer, UnpackError>> {
        let format = match packing {
            Packing::Tar => Format::Tar,
            Packing::TarGzip => Format::TarGzip,
            Packing::TarZstd => Format::TarZstd,
        };
        let group = self.group.clone();
        let job = move |_: &mut File| {
            Ok(Job {
                format,
                rules: Rules::layer(),
                owner: Owner { uid: 0, gid: 0 },
                group,
            })
        };
        let folder = into.to_owned();
        let target = move || {
            File::open(&folder)
                .map_err(|error| format!("cannot open {}: {error}", folder.display()))
        };
        let unpacking = self.unpack(layer, target, job);
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

impl Extractor for Unpackings {
    fn extract<'a>(
        &'a self,
        archive: File,
        into: File,
        owner: Option<&'a User>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let own = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        let (uid, gid) = owner.map_or(own, |user| (user.uid, user.gid));
        let group = self.group.clone();
        let job = move |archive: &mut File| {
            let mut beginning = Vec::new();
            let read = archive.take(BEGINNING_BYTES).read_to_end(&mut beginning);
            read.and_then(|_| archive.rewind())
                .map_err(|error| format!("cannot read what was fetched: {error}"))?;
            let format = Format::of(&beginning).ok_or(
                "it is no archive that is known here: tar, also with gzip, zstd or xz, or zip",
            )?;
            Ok(Job {
                format,
                rules: Rules::archive(),
                owner: Owner { uid, gid },
                group,
            })
        };
        let unpacking = self.unpack(archive, || Ok(into), job);
        async move { unpacking.await.map(drop) }.boxed()
    }
}

impl Unpackings {
    /// Unpacks an archive into a folder, as the job says that is made of its beginning. Dropped, it ends the process.
    fn unpack(
        &self,
        mut archive: File,
        target: impl FnOnce() -> Result<File, String> + Send + 'static,
        job: impl FnOnce(&mut File) -> Result<Job, String> + Send + 'static,
    ) -> impl Future<Output = Result<Unpacked, String>> + Send + 'static {
        let (launching, turns) = (Arc::clone(&self.launching), Arc::clone(&self.turns));
        let begin = move || -> Result<Unpacking, String> {
            let target = target()?;
            let job = job(&mut archive)?;
            launching
                .unpack(&job, archive.as_fd(), target.as_fd())
                .map_err(|error| crate::error::sentence(&error))
        };
        async move {
            let turn = turns.acquire().await;
            let _turn = turn.expect("turns are given as long as there is an agent");
            let begun = tokio::task::spawn_blocking(begin).await;
            let unpacking = begun.expect("asking the launcher never panics");
            finish(unpacking?).await
        }
    }
}

async fn finish(unpacking: Unpacking) -> Result<Unpacked, String> {
    let deaf =
        |error: std::io::Error| format!("cannot hear the unpacking process: {error}; try again");
    let mut socket = watched(unpacking, Interest::READABLE).map_err(deaf)?;
    loop {
        while let Some(report) = socket.get_mut().report() {
            match report {
                Report::Progress(_) => {}
                Report::Done(unpacked) => return Ok(unpacked),
                Report::Failed(failure) => return Err(failure.reason),
            }
        }
        socket.readable().await.map_err(deaf)?.clear_ready();
    }
}
