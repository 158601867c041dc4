//! The requests that an agent sends to its service: files for its fetcher, and images of
//! registries.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use argosy_proto::uri::RedactedUri;
use argosy_state::ids::FrameworkId;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::client::{ContentService, RequestError};
use super::message::{RegistryLogin, ServiceRequest};
use crate::fetcher::{Downloader, FetchError, FetchProgress, RequestedFile, Requester};
use crate::images::{
    AuthHeader, BlobDescriptor, PullErrorKind, RegistryClient, RegistryReference, ResolvedImage,
};

/// The maximum length of an image description, in bytes.
const PLAN_BYTES: u64 = 32 * 1024 * 1024;

impl Downloader for ContentService {
    fn fetch<'a>(
        self: Arc<Self>,
        wanted: RequestedFile<'a>,
        requester: Requester,
        (path, file): (&'a Path, &'a File),
        meter: &'a watch::Sender<FetchProgress>,
    ) -> BoxFuture<'a, Result<(), FetchError>> {
        let authorities = self.authorities_for(wanted.uri);
        let ask = move |id| ServiceRequest::Fetch {
            id,
            uri: wanted.uri.to_owned(),
            sha256: wanted.sha256.to_owned(),
            framework: requester.framework.0,
            reach: requester.reach,
            authorities: authorities.clone(),
            path: path.to_owned(),
        };
        let on_progress = move |done_bytes, total_bytes| {
            meter.send_modify(|shown| {
                (shown.done_bytes, shown.total_bytes) = (done_bytes, total_bytes);
            });
        };
        async move {
            let answer = self.request(ask, Some(file), on_progress).await;
            answer.map(drop).map_err(|error| match error {
                RequestError::Failed(why) => FetchError::Service { why },
                lost => FetchError::Invalid {
                    uri: RedactedUri::of(wanted.uri),
                    rule: lost.explanation().to_string(),
                },
            })
        }
        .boxed()
    }
}

impl RegistryClient for ContentService {
    fn plan<'a>(
        self: Arc<Self>,
        reference: &'a RegistryReference,
        login: Option<&'a AuthHeader>,
        framework: FrameworkId,
    ) -> BoxFuture<'a, Result<ResolvedImage, PullErrorKind>> {
        let image = RegistryLogin::of(reference, login, framework);
        let ask = move |id| ServiceRequest::Plan {
            id,
            image: image.clone(),
        };
        async move {
            let answer = self.request(ask, None, |_, _| {}).await;
            let answer = answer.map_err(PullErrorKind::from)?;
            let reading = tokio::task::spawn_blocking(move || read_plan(answer));
            let plan = reading.await.expect("reading a description never panics");
            plan.map_err(|error| PullErrorKind::Service {
                why: format!("the content service returned no valid image: {error}").into(),
            })
        }
        .boxed()
    }

    fn blob<'a>(
        self: Arc<Self>,
        (reference, login, framework): (&'a RegistryReference, Option<&'a AuthHeader>, FrameworkId),
        blob: &'a BlobDescriptor,
        (path, file): (&'a Path, &'a File),
        progress: &'a watch::Sender<u64>,
    ) -> BoxFuture<'a, Result<(), PullErrorKind>> {
        let image = RegistryLogin::of(reference, login, framework);
        let ask = move |id| ServiceRequest::Blob {
            id,
            image: image.clone(),
            blob: blob.clone(),
            path: path.to_owned(),
        };
        let on_progress = move |done_bytes, _| {
            progress.send_replace(done_bytes);
        };
        async move {
            let answer = self.request(ask, Some(file), on_progress).await;
            answer.map(drop).map_err(PullErrorKind::from)
        }
        .boxed()
    }
}

/// Reads the parts of an image from the file that came with an answer. Blocks.
fn read_plan(descriptors: Vec<OwnedFd>) -> io::Result<ResolvedImage> {
    let descriptor = descriptors.into_iter().next();
    let mut file = File::from(descriptor.ok_or(io::ErrorKind::UnexpectedEof)?);
    if !file.metadata()?.is_file() {
        // No other kind is certain to end.
        return Err(io::Error::other(
            "it passed a descriptor that is not a file",
        ));
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(PLAN_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

impl RegistryLogin {
    pub(super) fn of(
        reference: &RegistryReference,
        login: Option<&AuthHeader>,
        FrameworkId(framework): FrameworkId,
    ) -> Self {
        Self {
            reference: reference.clone(),
            secret: login.map(AuthHeader::text),
            framework,
        }
    }
}

impl From<RequestError> for PullErrorKind {
    fn from(error: RequestError) -> Self {
        Self::Service {
            why: error.explanation(),
        }
    }
}
