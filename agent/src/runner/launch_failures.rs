//! The counter of launches that failed, by step and reason.
//!
//! The reason is one of a closed set: it states who has to act, not which file, image or server
//! failed.

use argosy_state::task::{Code, Explanation, Reason};
use metrics::Counter;

use crate::core::CreateError;

/// A step of a launch that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaunchStep {
    /// Fetching files, and pulling the image.
    Fetch,
    Start,
}

/// The reason of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureReason {
    /// The task must be changed.
    Invalid,
    /// A server did not answer, or reported an internal error.
    ServerUnavailable,
    /// A server refused the request.
    ServerRefused,
    /// The agent does not allow it, or has no credentials.
    Forbidden,
    /// A file or an image is missing, damaged, too large, or for another platform.
    Content,
    /// A disk is full, or cannot be written.
    Disk,
    /// The agent could not create the container.
    Container,
    Other,
}

const STEPS: [LaunchStep; 2] = [LaunchStep::Fetch, LaunchStep::Start];
const REASONS: [FailureReason; 8] = [
    FailureReason::Invalid,
    FailureReason::ServerUnavailable,
    FailureReason::ServerRefused,
    FailureReason::Forbidden,
    FailureReason::Content,
    FailureReason::Disk,
    FailureReason::Container,
    FailureReason::Other,
];

impl LaunchStep {
    fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Start => "start",
        }
    }
}

impl FailureReason {
    fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::ServerUnavailable => "server-unavailable",
            Self::ServerRefused => "server-refused",
            Self::Forbidden => "forbidden",
            Self::Content => "content",
            Self::Disk => "disk",
            Self::Container => "container",
            Self::Other => "other",
        }
    }

    fn of(refusal: &CreateError) -> Self {
        match refusal.reason {
            Reason::TaskInvalid => Self::Invalid,
            Reason::FetchFailed => Self::of_causes(&refusal.why),
            _ => Self::Container,
        }
    }

    /// Returns the reason of the last cause that has one: a later cause explains the one before.
    fn of_causes(why: &Explanation) -> Self {
        let known = why.causes.iter().rev().filter_map(|cause| {
            let status = || cause.arguments.get(1)?.parse().ok();
            Self::of_code(Code::named(&cause.code)?, status)
        });
        known.into_iter().next().unwrap_or(Self::Other)
    }

    /// Returns the reason of a cause; `None` if its code does not decide it. `status` is the HTTP
    /// status in the arguments of a code that has one.
    fn of_code(code: Code, status: impl FnOnce() -> Option<u16>) -> Option<Self> {
        Some(match code {
            Code::FetchInvalid
            | Code::ImageMalformed
            | Code::ImagesUnavailable
            | Code::RegistryUnasked => Self::Invalid,
            Code::FetchFailed
            | Code::FetchStalled
            | Code::FetchUntrusted
            | Code::RegistryFailed
            | Code::RegistryStalled => Self::ServerUnavailable,
            Code::FetchStatus | Code::RegistryStatus => match status() {
                Some(408 | 429 | 500..) => Self::ServerUnavailable,
                Some(_) | None => Self::ServerRefused,
            },
            Code::RegistryLogin => Self::ServerRefused,
            Code::FetchForbidden
            | Code::ImageForbidden
            | Code::RegistryForbidden
            | Code::ImageCredentials => Self::Forbidden,
            Code::FetchUnread
            | Code::FetchTooLarge
            | Code::FetchDigest
            | Code::FetchArchive
            | Code::ImageUnread
            | Code::ImageLayout
            | Code::ImageTooLarge
            | Code::ImageLayers
            | Code::ImageSize
            | Code::ImageDigest
            | Code::ImageContent
            | Code::ImagePlatform
            | Code::LayerUnpacked => Self::Content,
            Code::FetchUnwritten | Code::ImageUnwritten | Code::FetchedTooMuch => Self::Disk,
            _ => return None,
        })
    }
}

/// Registers the series of all reasons: an increase is only seen after a first sample.
pub(super) fn register() {
    for step in STEPS {
        for reason in REASONS {
            counter(step, reason).increment(0);
        }
    }
}

/// Counts a launch that failed, but was not cancelled.
pub(super) fn count(step: LaunchStep, refusal: &CreateError) {
    counter(step, FailureReason::of(refusal)).increment(1);
}

fn counter(step: LaunchStep, reason: FailureReason) -> Counter {
    let (step, reason) = (step.name(), reason.name());
    metrics::counter!("argosy_agent_launch_failures_total", "step" => step, "reason" => reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_for_the_reason_that_explains_it_last() {
        let of = |code, arguments: &[&dyn std::fmt::Display]| Explanation::of(code, arguments);
        let image = || of(Code::ImageFailed, &[&"web:1"]);
        for (why, expected) in [
            (
                image().then(of(Code::RegistryFailed, &[&"https://r/v2"])),
                "server-unavailable",
            ),
            (
                image().then(of(Code::RegistryStatus, &[&"https://r/v2", &503, &""])),
                "server-unavailable",
            ),
            (
                image().then(of(Code::RegistryStatus, &[&"https://r/v2", &404, &""])),
                "server-refused",
            ),
            (
                of(Code::FetchStatus, &[&"http://x/f", &429]),
                "server-unavailable",
            ),
            (
                of(Code::FetchStatus, &[&"http://x/f", &403]),
                "server-refused",
            ),
            (of(Code::FetchForbidden, &[&"http://x/f"]), "forbidden"),
            (
                of(Code::FetchDigest, &[&"http://x/f", &"a", &"b"]),
                "content",
            ),
            (of(Code::FetchedTooMuch, &[&2, &1]), "disk"),
            (of(Code::ImageMalformed, &[]), "invalid"),
            (image(), "other"),
            ("no free users".into(), "other"),
        ] {
            let shown = why.to_string();
            let refusal = CreateError::fetch(why);
            assert_eq!(FailureReason::of(&refusal).name(), expected, "{shown}");
        }
        let started = |reason| CreateError {
            reason,
            why: "no".into(),
        };
        for (reason, expected) in [
            (Reason::TaskInvalid, "invalid"),
            (Reason::ContainerLaunchFailed, "container"),
        ] {
            assert_eq!(FailureReason::of(&started(reason)).name(), expected);
        }
    }
}
