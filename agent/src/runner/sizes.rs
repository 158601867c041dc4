//! Sizes of a task's container, within the limits of this agent's configuration.
//!
//! The masters have checked the same; this check is authoritative.

use argosy_isolation::{Isolation, ResourceLimit};
use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::task::{Cause, Code, SizeExceeded, Sizes};

const MIB: u64 = 1024 * 1024;
/// Default number of open files of a process.
const OPEN_FILES: u64 = 4_096;
/// Default size of each of `/tmp` and `/dev/shm` of a task; it counts as its memory.
const SCRATCH_BYTES: u64 = 64 * MIB;

/// The complete sizes of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContainerSizes {
    pub(super) open_files: u64,
    pub(super) shm_bytes: u64,
    pub(super) tmp_bytes: u64,
}

/// Returns the largest sizes that an agent gives: those of its configuration, and no more open
/// files than it may have itself. Only with full isolation tasks have limits and their own mounts.
pub(crate) fn largest(configured: Sizes, isolation: Isolation) -> Sizes {
    if isolation != Isolation::Full {
        return Sizes::default();
    }
    let files = configured.open_files;
    Sizes {
        open_files: files.map(|most| ResourceLimit::at_most("nofile", most).hard),
        ..configured
    }
}

/// Returns the sizes of a task's container, or the reason for a refusal.
pub(super) fn of_task(task: &v1::TaskSpec, largest: &Sizes) -> Result<ContainerSizes, Cause> {
    let container = task.container.as_ref();
    let requested = convert::sizes_from(container.and_then(|container| container.sizes));
    match requested.first_exceeding(largest) {
        None => Ok(ContainerSizes {
            open_files: requested.open_files.unwrap_or(OPEN_FILES),
            shm_bytes: requested.shm_bytes.unwrap_or(SCRATCH_BYTES),
            tmp_bytes: requested.tmp_bytes.unwrap_or(SCRATCH_BYTES),
        }),
        Some(SizeExceeded {
            field, most: None, ..
        }) => Err(Cause::new(Code::SizeUnavailable, &[&field])),
        Some(SizeExceeded {
            field,
            asked,
            most: Some(most),
            flag,
        }) => Err(Cause::new(
            Code::SizeTooLarge,
            &[&field, &asked, &most, &flag],
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(sizes: Sizes) -> v1::TaskSpec {
        v1::TaskSpec {
            container: Some(v1::ContainerSpec {
                sizes: convert::sizes(sizes),
                ..v1::ContainerSpec::default()
            }),
            ..v1::TaskSpec::default()
        }
    }

    #[test]
    fn a_task_has_the_default_sizes_unless_it_requests_others() {
        let usual = of_task(&v1::TaskSpec::default(), &Sizes::default()).unwrap();
        assert_eq!((usual.open_files, usual.shm_bytes), (4_096, 64 << 20));
        let most = Sizes {
            open_files: Some(100),
            shm_bytes: Some(1 << 20),
            tmp_bytes: Some(2 << 20),
        };
        let asked = asking(Sizes {
            open_files: Some(99),
            tmp_bytes: Some(2 << 20),
            ..Sizes::default()
        });
        let given = of_task(&asked, &most).unwrap();
        let wanted = ContainerSizes {
            open_files: 99,
            shm_bytes: 64 << 20,
            tmp_bytes: 2 << 20,
        };
        assert_eq!(given, wanted);
        let greedy = asking(Sizes {
            shm_bytes: Some((1 << 20) + 1),
            ..Sizes::default()
        });
        let why = of_task(&greedy, &most).unwrap_err().to_string();
        assert!(why.contains("container.sizes.shm_bytes: 1048577"), "{why}");
        assert!(why.contains("--max-shm-size 2M"), "{why}");
        let why = of_task(&greedy, &Sizes::default()).unwrap_err().to_string();
        assert!(why.contains("isolates in full"), "{why}");
    }

    #[test]
    fn open_file_limits_are_bounded_by_the_agents_own() {
        let configured = Sizes {
            open_files: Some(u64::MAX),
            shm_bytes: Some(5),
            tmp_bytes: None,
        };
        let own = ResourceLimit::at_most("nofile", u64::MAX).hard;
        let given = largest(configured, Isolation::Full);
        assert_eq!((given.open_files, given.shm_bytes), (Some(own), Some(5)));
        for other in [Isolation::UserNamespaces, Isolation::Processes] {
            assert_eq!(largest(configured, other), Sizes::default());
        }
    }
}
