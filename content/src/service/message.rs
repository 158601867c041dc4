//! What an agent and its service tell each other. Both are of one build; nothing here is stored.

use std::path::PathBuf;

use argosy_state::task::{Cause, Explanation};
use serde::{Deserialize, Serialize};

use crate::fetcher::{FetchSettings, Reach};
use crate::images::{Content, InsecureRegistry, RegistryReference};

/// What an agent asks. Each request has a number, under which it is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Once, before anything else.
    Begin(Box<Begin>),
    /// A file of a server, to be written to the descriptor that comes with this.
    Fetch {
        id: u64,
        uri: String,
        sha256: String,
        reach: Reach,
        /// For sentences.
        path: PathBuf,
    },
    /// What an image of a registry consists of.
    Plan { id: u64, image: Login },
    /// A blob of a registry, to be written to the descriptor that comes with this.
    Blob {
        id: u64,
        image: Login,
        blob: Content,
        /// For sentences.
        path: PathBuf,
    },
    /// Nobody waits for this answer any more.
    Cancel { id: u64 },
}

/// What the service is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) fetch: FetchSettings,
    pub(super) insecure_registries: Vec<InsecureRegistry>,
    pub(super) image_limit_bytes: u64,
}

/// An image of a registry, and as whom it is asked for. Not to be printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Login {
    pub(super) reference: RegistryReference,
    /// The value of an `Authorization` header.
    pub(super) secret: Option<String>,
}

/// What the service answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It goes on. While there is work, every two seconds.
    Alive,
    /// How far a request is. Some are left out if nobody reads them.
    Progress {
        id: u64,
        done_bytes: u64,
        total_bytes: u64,
    },
    /// The request is done. What an image consists of comes as JSON, in the descriptor that comes with this.
    Done { id: u64 },
    /// It cannot be done.
    Failed { id: u64, why: Said },
}

/// Why something cannot be done, as a message has it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Said {
    /// Codes with their arguments.
    causes: Vec<(String, Vec<String>)>,
    detail: String,
}

impl From<Explanation> for Said {
    fn from(explanation: Explanation) -> Self {
        let Explanation { causes, detail } = explanation;
        let causes = causes.into_iter();
        Self {
            causes: causes.map(|cause| (cause.code, cause.arguments)).collect(),
            detail,
        }
    }
}

impl From<Said> for Explanation {
    fn from(said: Said) -> Self {
        let causes = said.causes.into_iter();
        Self {
            causes: causes
                .map(|(code, arguments)| Cause { code, arguments })
                .collect(),
            detail: said.detail,
        }
    }
}
