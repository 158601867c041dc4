//! Descriptors that go with a launch, and the check that they fit its description.

use std::os::fd::BorrowedFd;

use crate::spec::{LaunchSpec, Network, SpecError};

/// The descriptors that go with a launch.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaunchDescriptors<'a> {
    /// The network namespace that the container joins, exactly if it joins one
    /// ([`Network::Joined`]).
    pub namespace: Option<BorrowedFd<'a>>,
    /// A file in memory with the secrets, exactly if there are volumes with such secrets
    /// ([`VolumeSource::Delivered`](crate::VolumeSource::Delivered)). It is emptied once they are
    /// copied.
    pub secrets: Option<BorrowedFd<'a>>,
}

impl<'a> LaunchDescriptors<'a> {
    /// Returns those of a launch without secrets that joins this network namespace.
    #[must_use]
    pub fn joining(namespace: BorrowedFd<'a>) -> Self {
        Self {
            namespace: Some(namespace),
            secrets: None,
        }
    }

    pub(super) fn check(&self, spec: &LaunchSpec) -> Result<(), SpecError> {
        let joins = spec.network == Network::Joined;
        let has_secrets = spec.has_delivered_secrets();
        let wrong = |field, value, remedy| Err(SpecError::new(field, value, remedy));
        match (self.namespace.is_some(), self.secrets.is_some()) {
            (false, _) if joins => {
                let remedy = "launch it with the namespace that it is to be in";
                wrong("network", "joined", remedy)
            }
            (true, _) if !joins => {
                let remedy = "a namespace comes only with launches that join it";
                wrong("network", "not joined", remedy)
            }
            (_, with) if with != has_secrets => {
                let remedy =
                    "a file of secrets comes exactly with launches that have volumes for them";
                wrong("volumes", "delivered", remedy)
            }
            _ => Ok(()),
        }
    }
}
