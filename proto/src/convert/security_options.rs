//! Conversion of security options, sizes and limits.

use std::collections::BTreeSet;

use argosy_state::task::{DiskLimit, LinuxCapability, SecurityOptions, Sizes, TaskLimits};

use super::InvalidMessage;
use crate::v1;

/// Returns security options on the wire; absent if there are none.
#[must_use]
pub fn opt_outs(options: &SecurityOptions) -> Option<v1::OptOuts> {
    let names = options.capabilities.iter();
    (!options.is_empty()).then(|| v1::OptOuts {
        capabilities: names.map(|one| one.name().to_owned()).collect(),
        unconfined_seccomp: options.unconfined_seccomp,
        new_privileges: options.new_privileges,
        nested_user_namespaces: options.nested_user_namespaces,
        host_network: options.host_network,
    })
}

/// Reads security options.
///
/// # Errors
/// Names an invalid capability.
pub fn opt_outs_from(wire: Option<v1::OptOuts>) -> Result<SecurityOptions, InvalidMessage> {
    let Some(wire) = wire else {
        return Ok(SecurityOptions::default());
    };
    let mut capabilities = BTreeSet::new();
    for name in &wire.capabilities {
        let named = LinuxCapability::named(name);
        capabilities.insert(named.map_err(|text| InvalidMessage::new("capabilities", text))?);
    }
    Ok(SecurityOptions {
        capabilities,
        unconfined_seccomp: wire.unconfined_seccomp,
        new_privileges: wire.new_privileges,
        nested_user_namespaces: wire.nested_user_namespaces,
        host_network: wire.host_network,
    })
}

/// Returns sizes on the wire; absent if none is given.
#[must_use]
pub fn sizes(sizes: Sizes) -> Option<v1::ContainerSizes> {
    (!sizes.is_empty()).then_some(v1::ContainerSizes {
        open_files: sizes.open_files,
        shm_bytes: sizes.shm_bytes,
        tmp_bytes: sizes.tmp_bytes,
    })
}

/// Reads sizes; their values are checked with the task.
#[must_use]
pub fn sizes_from(wire: Option<v1::ContainerSizes>) -> Sizes {
    let wire = wire.unwrap_or_default();
    Sizes {
        open_files: wire.open_files,
        shm_bytes: wire.shm_bytes,
        tmp_bytes: wire.tmp_bytes,
    }
}

/// Returns limits on the wire.
#[must_use]
pub fn limits(limits: &TaskLimits) -> v1::Limits {
    let io = limits.io.iter().map(|limit| v1::DiskLimit {
        disk: limit.disk.clone(),
        read_bytes: limit.read_bytes,
        write_bytes: limit.write_bytes,
        read_operations: limit.read_operations,
        write_operations: limit.write_operations,
    });
    v1::Limits {
        cpu_millis: limits.cpu_millis,
        memory_bytes: limits.memory_bytes,
        pids: limits.pids,
        io_weight: limits.io_weight,
        io: io.collect(),
        exclusive_cpus: limits.exclusive_cpus,
    }
}

/// Reads limits; their values are checked with the task.
#[must_use]
pub fn limits_from(wire: v1::Limits) -> TaskLimits {
    let io = wire.io.into_iter().map(|limit| DiskLimit {
        disk: limit.disk,
        read_bytes: limit.read_bytes,
        write_bytes: limit.write_bytes,
        read_operations: limit.read_operations,
        write_operations: limit.write_operations,
    });
    TaskLimits {
        cpu_millis: wire.cpu_millis,
        memory_bytes: wire.memory_bytes,
        pids: wire.pids,
        io_weight: wire.io_weight,
        io: io.collect(),
        exclusive_cpus: wire.exclusive_cpus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_sizes_and_limits_round_trip() {
        let named = Sizes {
            open_files: Some(1),
            shm_bytes: Some(2),
            tmp_bytes: Some(3),
        };
        for ours in [Sizes::default(), named] {
            assert_eq!(sizes_from(sizes(ours)), ours);
        }
        assert_eq!(sizes(Sizes::default()), None);
        let all = SecurityOptions {
            capabilities: LinuxCapability::ALL.into(),
            unconfined_seccomp: true,
            new_privileges: true,
            nested_user_namespaces: true,
            host_network: true,
        };
        for ours in [SecurityOptions::default(), all] {
            assert_eq!(opt_outs_from(opt_outs(&ours)), Ok(ours));
        }
        assert_eq!(opt_outs(&SecurityOptions::default()), None);
        let ours = TaskLimits {
            cpu_millis: Some(1_500),
            memory_bytes: Some(1 << 20),
            pids: Some(7),
            io_weight: Some(50),
            io: vec![DiskLimit {
                disk: "/dev/sda".to_owned(),
                read_bytes: Some(1),
                write_bytes: None,
                read_operations: Some(2),
                write_operations: Some(3),
            }],
            exclusive_cpus: true,
        };
        assert_eq!(limits_from(limits(&ours)), ours);
    }

    #[test]
    fn an_unknown_capability_is_named() {
        let wire = v1::OptOuts {
            capabilities: vec!["CHOWN".to_owned(), "SYS_ADMIN".to_owned()],
            ..v1::OptOuts::default()
        };
        let refused = opt_outs_from(Some(wire)).unwrap_err();
        assert_eq!(refused.field, "capabilities");
        assert!(refused.to_string().contains("SYS_ADMIN"), "{refused}");
    }
}
