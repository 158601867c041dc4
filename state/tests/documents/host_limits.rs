//! The bounds of agents, their containers and what they fetch, as the sources and the protocol page
//! state them.

/// The location of a limit in the sources, and its text on the protocol page.
pub(crate) const HOST_LIMITS: &[(&str, &str, &str)] = &[
    (
        "isolation/src/runtime/output/time_log.rs",
        "SHARE_OF_OUTPUT: u64 = 64",
        "a 64th of the limits of its log files, but 16 KiB to 1 MiB;",
    ),
    (
        "isolation/src/runtime/output/time_log.rs",
        "SMALLEST_LIMIT: u64 = 16 * 1024",
        "but 16 KiB to 1 MiB;",
    ),
    (
        "isolation/src/runtime/output/times.rs",
        "SPAN_MS: i64 = 100",
        "10 | older spans are merged;",
    ),
    (
        "agent/src/environment.rs",
        "API_CONNECTIONS: usize = 4_096",
        "Of agents 4,096;",
    ),
    (
        "agent/src/files/listing.rs",
        "ENTRIES: usize = 10_000",
        "| 10,000, the first by name, and 8 MiB; 16 |",
    ),
    (
        "agent/src/files/listing.rs",
        "LISTINGS: usize = 16",
        "| 10,000, the first by name, and 8 MiB; 16 |",
    ),
    (
        "agent/src/files/listing.rs",
        "LISTING_BYTES: usize = 8 << 20",
        "| 10,000, the first by name, and 8 MiB; 16 |",
    ),
    (
        "proto/src/file_path.rs",
        "MAX_BYTES: usize = 4_096",
        "| the path of a file in a sandbox; with a ticket | 4,096 bytes; 1,024 | 400; 403 |",
    ),
    (
        "agent/src/files/answer_limits.rs",
        "MAX_ANSWERS: usize = 512",
        "likewise other reads and downloads | 512, and fewer",
    ),
    (
        "agent/src/files/answer_limits.rs",
        "MAX_TASK_ANSWERS: usize = 64",
        "if the limit of open files is below 8,192; 64 | 429 |",
    ),
    (
        "agent/src/exec/session.rs",
        "STALL_LIMIT: Duration = Duration::from_secs(3_600)",
        "must take a frame, of exec and attach | an hour |",
    ),
    (
        "content/src/fetcher/web.rs",
        "REDIRECTS: usize = 10",
        "| redirects of a file that is fetched | 10 |",
    ),
    (
        "agent/src/config.rs",
        "FETCH_LIMIT_BYTES: u64 = 8 * 1024 * 1024 * 1024",
        "| size of a file that is fetched | 8 GiB |",
    ),
    (
        "isolation/src/spec/image.rs",
        "LAYERS_MAX: usize = 128",
        "| layers of an image; their packed size together | 128; 32 GiB |",
    ),
    (
        "content/src/images/mod.rs",
        "IMAGE_LIMIT_BYTES: u64 = 32 * 1024 * 1024 * 1024",
        "| layers of an image; their packed size together | 128; 32 GiB |",
    ),
    (
        "isolation/src/runtime/init.rs",
        "ENTRIES: usize = 64",
        "at a time | 64, 512, 1,024 |",
    ),
    (
        "agent/src/exec/mod.rs",
        "SESSIONS: usize = 512",
        "at a time | 64, 512, 1,024 |",
    ),
];
