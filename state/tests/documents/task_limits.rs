//! The bounds of descriptions of tasks.

/// As [`LIMITS`](super::limits::LIMITS).
pub(crate) const TASK_LIMITS: &[(&str, &str, &str)] = &[
    (
        "state/src/limits.rs",
        "PUBLISHED_PORTS: usize = 256",
        "| published ports of a task | 256 |",
    ),
    (
        "state/src/limits.rs",
        "DISCOVERY_PORTS: usize = 64",
        "| ports by which a task is found; labels of its discovery, and of each port | 64; 64, and 4 KiB together |",
    ),
    (
        "state/src/limits.rs",
        "DISCOVERY_LABELS: usize = 64",
        "| ports by which a task is found; labels of its discovery, and of each port | 64; 64, and 4 KiB together |",
    ),
    (
        "state/src/limits.rs",
        "DISCOVERY_LABEL_BYTES: usize = 4 * 1024",
        "| ports by which a task is found; labels of its discovery, and of each port | 64; 64, and 4 KiB together |",
    ),
    (
        "state/src/limits.rs",
        "HOST_PATHS: usize = 64",
        "| host paths of a task | 64 |",
    ),
    (
        "state/src/limits.rs",
        "URI_BYTES: usize = 8 * 1024",
        "| a URI of a task; its `output_file` | 8 KiB; 200 bytes |",
    ),
    (
        "state/src/limits.rs",
        "VOLUMES: usize = 64",
        "| volumes of a task; the path of one | 64; 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "VOLUME_PATH_BYTES: usize = 1024",
        "| volumes of a task; the path of one | 64; 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "MIN_TMPFS_BYTES: u64 = 4096",
        "| a file system in memory | 4 KiB to 1 TiB",
    ),
    (
        "state/src/limits.rs",
        "TMPFS_BYTES: u64 = 1 << 40",
        "| a file system in memory | 4 KiB to 1 TiB",
    ),
    (
        "state/src/limits.rs",
        "MIN_OPEN_FILES: u64 = 64",
        "| open files that a task requests | 64 to 1,048,576",
    ),
    (
        "state/src/limits.rs",
        "OPEN_FILES: u64 = 1_048_576",
        "| open files that a task requests | 64 to 1,048,576",
    ),
    (
        "state/src/limits.rs",
        "EXECUTOR_GRACE_MS: u64 = 60_000",
        "| grace of an executor | 60,000 ms |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_TIME_MS: u64 = 86_400_000",
        "| times of a check | 100 ms (interval), 1 ms (timeout) to a day |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_INTERVAL_MS: u64 = 100",
        "| times of a check | 100 ms (interval), 1 ms (timeout) to a day |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_COMMAND_BYTES: usize = 16 * 1024",
        "of a check | 16 KiB, 2,048 bytes, 64 |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_PATH_BYTES: usize = 2_048",
        "of a check | 16 KiB, 2,048 bytes, 64 |",
    ),
    (
        "state/src/limits.rs",
        "CHECK_STATUSES: usize = 64",
        "of a check | 16 KiB, 2,048 bytes, 64 |",
    ),
];
