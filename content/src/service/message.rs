//! The messages between an agent and its service. Both are of one build; nothing here is stored.

use std::path::PathBuf;

use argosy_host::packets::limit_text;
use argosy_state::task::{Cause, Explanation};
use serde::{Deserialize, Serialize};

use crate::fetcher::{ClusterAuthorities, FetchSettings, ServerAccess};
use crate::images::{BlobDescriptor, InsecureRegistry, RegistryReference};

/// A message of an agent. Each request has an id, under which it is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ServiceRequest {
    /// Sent once, before anything else.
    Begin(Box<ServiceConfig>),
    /// Downloads a file of a server to the accompanying descriptor.
    Fetch {
        id: u64,
        uri: String,
        sha256: String,
        framework: u64,
        reach: ServerAccess,
        /// Only with the URI of another agent.
        authorities: Option<ClusterAuthorities>,
        /// For messages.
        path: PathBuf,
    },
    /// Requests the parts of an image of a registry.
    Plan { id: u64, image: RegistryLogin },
    /// Downloads a blob of a registry to the accompanying descriptor.
    Blob {
        id: u64,
        image: RegistryLogin,
        blob: BlobDescriptor,
        /// For messages.
        path: PathBuf,
    },
    /// Cancels a request that was sent before. The service ignores an unknown id.
    Cancel { id: u64 },
}

/// The configuration of the service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ServiceConfig {
    pub(super) fetch: FetchSettings,
    pub(super) insecure_registries: Vec<InsecureRegistry>,
    pub(super) image_limit_bytes: u64,
}

/// An image of a registry, with the credentials for it, for a framework. It has no debug output.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct RegistryLogin {
    pub(super) reference: RegistryReference,
    /// The value of an `Authorization` header.
    pub(super) secret: Option<String>,
    pub(super) framework: u64,
}

/// An answer of the service.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ServiceReply {
    /// A sign of life, sent every two seconds while there is work.
    #[serde(rename = "alive")]
    Heartbeat,
    /// The progress of a request. Reports are skipped while none is read.
    Progress {
        id: u64,
        done_bytes: u64,
        total_bytes: u64,
    },
    /// The request is done. The parts of an image come as JSON in the accompanying descriptor.
    Done { id: u64 },
    /// The request failed.
    Failed { id: u64, why: ErrorExplanation },
}

/// The cause of a failure, in the form of a message. Servers choose the length of its texts, which
/// are cut.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorExplanation {
    /// Codes with their arguments.
    causes: Vec<(String, Vec<String>)>,
    detail: String,
}

impl From<Explanation> for ErrorExplanation {
    fn from(explanation: Explanation) -> Self {
        let Explanation { causes, detail } = explanation;
        let causes = causes.into_iter();
        Self {
            causes: causes
                .map(|Cause { code, arguments }| {
                    (code, arguments.into_iter().map(limit_text).collect())
                })
                .collect(),
            detail: limit_text(detail),
        }
    }
}

impl From<ErrorExplanation> for Explanation {
    fn from(explanation: ErrorExplanation) -> Self {
        let causes = explanation.causes.into_iter();
        Self {
            causes: causes
                .map(|(code, arguments)| Cause { code, arguments })
                .collect(),
            detail: explanation.detail,
        }
    }
}
