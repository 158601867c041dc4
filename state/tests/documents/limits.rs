//! The bounds that are visible to clients, as the sources and the protocol page state them.

/// The location of a limit in the sources, and its text on the protocol page.
pub(crate) const LIMITS: &[(&str, &str, &str)] = &[
    (
        "master/src/service/mod.rs",
        "MESSAGE_BYTES: usize = 4 << 20",
        "| a message | 4 MiB |",
    ),
    (
        "master/src/service/mod.rs",
        "CALL_BYTES: usize = 1 << 20",
        "the `info` of a subscription | 1 MiB |",
    ),
    (
        "master/src/http/discovery.rs",
        "LIST_BYTES: usize = 32 << 20",
        "A list of more than 32 MiB is answered with 429",
    ),
    (
        "master/src/http/discovery.rs",
        "ZONE_BYTES: usize = 128",
        "the attribute `zone` of an agent, if it has one of at most 128 bytes",
    ),
    (
        "master/src/service/calls.rs",
        "FILTER_BYTES: usize = 64 * 1024",
        "| `filters` of a subscription | 64 KiB |",
    ),
    (
        "master/src/link_memory.rs",
        "STREAM_BYTES: usize = 8 << 20",
        "| messages of agents that wait for the leader: of one stream, of all | 8 MiB; 16,384 and 64 MiB |",
    ),
    (
        "master/src/link_memory.rs",
        "LANE_BYTES: usize = 64 << 20",
        "| messages of agents that wait for the leader: of one stream, of all | 8 MiB; 16,384 and 64 MiB |",
    ),
    (
        "master/src/run.rs",
        "INBOX: usize = 16_384",
        "| messages of agents that wait for the leader: of one stream, of all | 8 MiB; 16,384 and 64 MiB |",
    ),
    (
        "proto/src/server.rs",
        "(descriptors / 4).max(MIN_RESERVE)",
        "the limit of open files less a quarter of it, and less 512 at least;",
    ),
    (
        "proto/src/server.rs",
        "MIN_RESERVE: u64 = 512",
        "the limit of open files less a quarter of it, and less 512 at least;",
    ),
    (
        "proto/src/server.rs",
        "per_peer: connections / 2",
        "less 512 at least; half of that.",
    ),
    (
        "raft/src/port.rs",
        "CONNECTIONS: usize = 128",
        "of the Raft port 128,",
    ),
    (
        "raft/src/port/frames.rs",
        "FRAMED: usize = 64",
        "and 64 that carry log entries |",
    ),
    (
        "proto/src/server.rs",
        "head_timeout: Duration::from_secs(10)",
        "for the head of a later request of HTTP/1.1 | 10 s |",
    ),
    (
        "proto/src/server.rs",
        "idle_timeout: Duration::from_secs(60)",
        "the answer to a ping | 60 s (of the Raft port an hour); 20 s |",
    ),
    (
        "proto/src/server.rs",
        "ping_timeout: Duration::from_secs(20)",
        "the answer to a ping | 60 s (of the Raft port an hour); 20 s |",
    ),
    (
        "proto/src/server.rs",
        "ping_interval: Duration::from_secs(5)",
        "A master pings each HTTP/2 connection every 5 s and closes it when no answer comes within 20 s.",
    ),
    (
        "proto/src/server.rs",
        "incomplete_bytes: 512 << 20",
        "of one connection, of one port | 128 MiB; 512 MiB |",
    ),
    (
        "proto/src/server.rs",
        "incomplete_bytes_of_connection: 128 << 20",
        "of one connection, of one port | 128 MiB; 512 MiB |",
    ),
    (
        "proto/src/server.rs",
        "message_timeout: Duration::from_secs(30)",
        "| time from the first byte of a message to its last | 30 s |",
    ),
    (
        "proto/src/server.rs",
        "stall_timeout: Duration::from_secs(120)",
        "| the time in which a client must read something of output that waits for it | 120 s;",
    ),
    (
        "proto/src/transport.rs",
        "KEEPALIVE_IDLE_SECONDS: u32 = 60",
        "probes the other host; unanswered probes | 60 s; 4, one each 15 s |",
    ),
    (
        "proto/src/transport.rs",
        "KEEPALIVE_INTERVAL_SECONDS: u32 = 15",
        "probes the other host; unanswered probes | 60 s; 4, one each 15 s |",
    ),
    (
        "proto/src/transport.rs",
        "KEEPALIVE_PROBES: u32 = 4",
        "probes the other host; unanswered probes | 60 s; 4, one each 15 s |",
    ),
    (
        "proto/src/server.rs",
        "streams: 1_000",
        "| calls and streams at a time on one connection | 1,000.",
    ),
    (
        "raft/src/port.rs",
        "STREAMS: u32 = 64",
        "1,000. Of the Raft port 64 | wait |",
    ),
    (
        "raft/src/port.rs",
        "SNAPSHOTS: usize = 2",
        "| snapshots that a master receives at a time; the length of one | 2; 64 GiB |",
    ),
    (
        "raft/src/transport/snapshot_transfer.rs",
        "LENGTH_LIMIT_BYTES: u64 = 64 << 30",
        "| snapshots that a master receives at a time; the length of one | 2; 64 GiB |",
    ),
    (
        "master/src/service/reconcile.rs",
        "PAGE_BYTES: usize = MESSAGE_BYTES / 2",
        "| the answer to `Reconcile` | 4 MiB |",
    ),
    (
        "master/src/leader/calls.rs",
        "REPEATS: usize = 16",
        "numbered call that wait | 16 |",
    ),
    (
        "master/src/leader/calls.rs",
        "accept.offers.len() > limits::RECORDS_PER_COMMAND",
        "| offers in an `Accept`",
    ),
    (
        "master/src/owner_handle.rs",
        "CONFIRMED: Duration = Duration::from_secs(1)",
        "confirmed by a quorum within one second",
    ),
    (
        "master/src/links.rs",
        "LINK_MESSAGES: usize = 8_192",
        "holds 8,192 unread messages",
    ),
    (
        "master/src/service/lists.rs",
        "LARGEST_PAGE: usize = 10_000",
        "1,000 by default, 10,000 at most",
    ),
    (
        "state/src/limits.rs",
        "RECORDS_PER_COMMAND: usize = 1_000",
        "offers in an event | 1,000 |",
    ),
    (
        "state/src/limits.rs",
        "OPERATIONS_PER_ACCEPT: usize = 256",
        "| tasks in an `Accept`; operations | 256; 256 |",
    ),
    (
        "state/src/limits.rs",
        "TASKS_PER_CALL: usize = 256",
        "One call has at most 256 tasks",
    ),
    (
        "master/src/service/lists.rs",
        "PAGE_BYTES: usize = 3 << 20",
        "| a page of a list | 3 MiB, each record counted with 1 KiB more |",
    ),
    (
        "master/src/service/feed.rs",
        "SUBSCRIBERS: usize = 2_000",
        "| subscribers of changes of one master | 2,000 |",
    ),
    (
        "master/src/service/feed/places.rs",
        "SUBSCRIBERS_PER_CONNECTION: usize = 256",
        "| subscribers of changes of one connection | 256 |",
    ),
    (
        "proto/src/watch.rs",
        "OPEN_TIMEOUT: Duration = Duration::from_secs(3)",
        "or has not applied the revision within 3 s |",
    ),
    (
        "proto/src/watch.rs",
        "SILENCE: Duration = Duration::from_secs(15)",
        "If nothing arrives for 15 s, the connection or the master is lost",
    ),
    (
        "master/src/service/feed/slot.rs",
        "BACKLOG_BYTES: i64 = 4 << 20",
        "| changes that wait for a subscriber; the time in which it reads nothing | 4 MiB; 60 s |",
    ),
    (
        "master/src/service/feed/slot.rs",
        "STALL_TIMEOUT: Duration = Duration::from_secs(60)",
        "| changes that wait for a subscriber; the time in which it reads nothing | 4 MiB; 60 s |",
    ),
    (
        "master/src/service/feed.rs",
        "SNAPSHOTS: usize = 16",
        "| snapshots that one master sends at a time; the time for one | 16;",
    ),
    (
        "master/src/service/feed/window.rs",
        "WINDOW_BYTES: usize = 96 << 20",
        "| events that subscribers of changes share, in the memory of one master | 96 MiB |",
    ),
    (
        "master/src/change_ring.rs",
        "records: 100_000,",
        "| changes that a master keeps for readers that resume | 100,000, and 64 MiB |",
    ),
    (
        "master/src/reads.rs",
        "max_waiting: 1_024",
        "| reads that wait; for how long | 1,024; 2 s |",
    ),
    (
        "state/src/limits.rs",
        "TASK_SPEC_BYTES: usize = 512 * 1024",
        "| one task's description | 512 KiB |",
    ),
    (
        "state/src/limits.rs",
        "ANSWERS_PER_FRAMEWORK: usize = 1_024",
        "at most 1,024 for each framework",
    ),
    (
        "state/src/limits.rs",
        "PAST_SESSIONS: usize = 64",
        "The 64 newest former sessions",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWERS: usize = 100_000",
        "100,000 are kept",
    ),
    (
        "state/src/limits.rs",
        "OPERATIONS_PER_BATCH: usize = 256",
        "up to 256 operations",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_TASKS: usize = 10_000",
        "kept in the history | 10,000,",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_TASK_BYTES: u64 = 64 << 20",
        "kept in the history | 10,000, and 64 MiB |",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_TEXT_BYTES: usize = 1024",
        "1,024 bytes each of name, user, command and all labels",
    ),
    (
        "state/src/limits.rs",
        "ARGUMENT_BYTES: usize = 131_071",
        "one `NAME=value` of an environment | 131,071 bytes",
    ),
    (
        "state/src/limits.rs",
        "TASK_BYTES: u64 = 1 << 30",
        "of one framework, of all | 768 MiB, 1 GiB ",
    ),
    (
        "state/src/limits.rs",
        "TASK_BYTES_PER_FRAMEWORK: u64 = 768 << 20",
        "of one framework, of all | 768 MiB, 1 GiB ",
    ),
    (
        "state/src/limits.rs",
        "FRAMEWORKS_PER_PRINCIPAL: usize = 5_000",
        "| frameworks of one principal | 5,000 |",
    ),
    (
        "state/src/limits.rs",
        "FRAMEWORKS: usize = 10_000",
        "their descriptions | 10,000; 256 MiB |",
    ),
    (
        "state/src/limits.rs",
        "FRAMEWORK_BYTES: u64 = 256 << 20",
        "their descriptions | 10,000; 256 MiB |",
    ),
    (
        "state/src/limits.rs",
        "AGENTS: usize = 100_000",
        "their descriptions | 100,000; 512 MiB |",
    ),
    (
        "state/src/limits.rs",
        "AGENT_BYTES: u64 = 512 << 20",
        "their descriptions | 100,000; 512 MiB |",
    ),
    (
        "state/src/limits.rs",
        "WEIGHTS: usize = 10_000",
        "| roles with a weight | 10,000 |",
    ),
    (
        "state/src/limits.rs",
        "SECRETS: usize = 4_096",
        "| secrets of the registry; their memory together | 4,096; 64 MiB |",
    ),
    (
        "state/src/limits.rs",
        "SECRET_BYTES: u64 = 64 << 20",
        "| secrets of the registry; their memory together | 4,096; 64 MiB |",
    ),
    (
        "state/src/limits.rs",
        "SECRET_VALUE_BYTES: usize = 64 * 1024",
        "| the value of a secret; secrets of the registry that one task uses | 64 KiB; 16 |",
    ),
    (
        "state/src/limits.rs",
        "SECRETS_PER_TASK: usize = 16",
        "| the value of a secret; secrets of the registry that one task uses | 64 KiB; 16 |",
    ),
    (
        "state/src/limits.rs",
        "ANSWERS: usize = 500_000",
        "| answers kept of all frameworks | 500,000 |",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWER_BYTES: u64 = 64 << 20",
        "100,000 are kept, and 64 MiB of them",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWER_SHARE: u64 = 4",
        "of one principal at most four times what is free",
    ),
    (
        "master/src/links.rs",
        "LINK_BYTES: usize = 64 << 20",
        "8,192 unread messages, or 64 MiB of them",
    ),
    (
        "master/src/allocator/offering.rs",
        "const MAX_OFFERS: usize = 2",
        "at most two offers of one agent in one role",
    ),
    (
        "master/src/allocator/offering.rs",
        "MERGE_DELAY_MS: u64 = 1_000",
        "wait until both have been open for a second",
    ),
    (
        "state/src/limits.rs",
        "FINISHED_FRAMEWORKS: usize = 1_000",
        "| removed frameworks kept | 1,000 |",
    ),
    (
        "state/src/limits.rs",
        "USED_OFFERS: usize = 64",
        "across epochs | 64 |",
    ),
    (
        "state/src/limits.rs",
        "UNACKNOWLEDGED_TASKS: usize = 100_000",
        "At 100,000 unacknowledged ended tasks",
    ),
    (
        "proto/src/exec.rs",
        "DATA_LIMIT_BYTES: usize = 32 * 1024",
        "a payload of at most 32 KiB",
    ),
    (
        "proto/src/exec.rs",
        "INPUT_WINDOW_BYTES: usize = 128 * 1024",
        "At most 128 KiB of input may be outstanding",
    ),
    (
        "raft/src/membership.rs",
        "MAX_VOTERS: usize = 5",
        "which has at most five voters and four learners;",
    ),
    (
        "raft/src/membership.rs",
        "MAX_LEARNERS: usize = 4",
        "which has at most five voters and four learners;",
    ),
    (
        "master/src/http/exec.rs",
        "STREAMS: usize = 1024",
        "at a time | 64, 512, 1,024 |",
    ),
    (
        "state/src/limits.rs",
        "NAME_BYTES: usize = 255",
        "| ids, names | 255 bytes; roles 128 |",
    ),
    (
        "state/src/limits.rs",
        "ROLE_BYTES: usize = 128",
        "of at most 128 bytes. No part is empty",
    ),
    (
        "state/src/limits.rs",
        "MESSAGE_BYTES: usize = 1024",
        "| text of an update | 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "IMAGE_BYTES: usize = 1024",
        "| name of an image | 1,024 bytes |",
    ),
    (
        "state/src/limits.rs",
        "EXECUTOR_MESSAGE_BYTES: usize = 64 * 1024",
        "| a message to or from an executor | 64 KiB |",
    ),
    (
        "state/src/limits.rs",
        "TASKS_PER_GROUP: usize = 16",
        "| tasks of a group | 16 |",
    ),
    (
        "state/src/limits.rs",
        "OPERATOR_ANSWER_MS: u64 = 600_000",
        "remembered for ten minutes of cluster time",
    ),
    (
        "state/src/limits.rs",
        "CNI_NAME_BYTES: usize = 128",
        "| name of a CNI network | 128 bytes |",
    ),
    (
        "state/src/limits.rs",
        "LOST_AGENTS: usize = 10_000",
        "| lost agents that are remembered | 10,000, or more",
    ),
    (
        "state/src/limits.rs",
        "LOST_AGENT_MS: u64 = 14 * 24 * 3_600_000",
        "each for two weeks |",
    ),
    (
        "state/src/limits.rs",
        "RESOURCE_PARTS: usize = 4_096",
        "of one agent or task, together | 4,096 |",
    ),
    (
        "state/src/limits.rs",
        "RESOURCE_KINDS: usize = 64",
        "| names of countable resources of all registered agents | 64 |",
    ),
    (
        "state/src/limits.rs",
        "DISK_LIMITS: usize = 16",
        "| disks of which a task limits the use | 16 |",
    ),
    (
        "state/src/limits.rs",
        "MISSING_CONTROLLERS: usize = 64",
        "| missing controllers of an agent | 64 |",
    ),
    (
        "state/src/limits.rs",
        "REFUSAL_BYTES: usize = 160",
        "| the message of a remembered refusal | 160 bytes |",
    ),
    (
        "state/src/limits.rs",
        "ATTRIBUTES: usize = 256",
        "| attributes of an agent; a value | 256; 4,096 bytes |",
    ),
    (
        "state/src/limits.rs",
        "ATTRIBUTE_BYTES: usize = 4 * 1024",
        "| attributes of an agent; a value | 256; 4,096 bytes |",
    ),
    (
        "master/src/allocator/eligibility.rs",
        "MINIMUM_BYTES: usize = 1024",
        "| the label `argosy.offers/minimum` | 1,024 bytes; 16 alternatives |",
    ),
    (
        "master/src/allocator/eligibility.rs",
        "MINIMUM_ALTERNATIVES: usize = 16",
        "| the label `argosy.offers/minimum` | 1,024 bytes; 16 alternatives |",
    ),
    (
        "state/src/limits.rs",
        "ROLES_PER_FRAMEWORK: usize = 64",
        "| roles of a framework | 64 |",
    ),
    (
        "state/src/limits.rs",
        "ROLES_PER_FRAMEWORK: usize = 64",
        "| roles that one `Suppress` or `Revive` names | 64 |",
    ),
    (
        "state/src/limits.rs",
        "FAILOVER_TIMEOUT_MS: u64 = 7 * 24 * 3_600_000",
        "(absent: one week;",
    ),
    (
        "state/src/limits.rs",
        "OFFER_TIMEOUT_MS: u64 = 60_000",
        "(0: 60,000)",
    ),
    (
        "state/src/limits.rs",
        "SCALAR_MILLI: i64 = 1_000_000_000_000",
        "| one amount | 1,000,000,000 units |",
    ),
    (
        "state/src/apply/calls.rs",
        "MAX_REFUSED_STORED: usize = 64",
        "| refused positions of a remembered answer | 64, without messages |",
    ),
    (
        "state/src/apply/frameworks.rs",
        "labels > 64 * 1024",
        "| labels of a framework | 256 (more before feature level 3); 64 KiB together |",
    ),
    (
        "state/src/limits.rs",
        "LABELS_PER_FRAMEWORK: usize = 256",
        "| labels of a framework | 256 (more before feature level 3); 64 KiB together |",
    ),
    (
        "master/src/service/calls.rs",
        "HELD_OFFERS: usize = 10_000",
        "| `held` of a subscription | 10,000 offers;",
    ),
    (
        "client/src/scheduler/offers.rs",
        "HELD_OFFERS: usize = 1_000",
        "1,000 offers and 3 MiB",
    ),
    (
        "client/src/scheduler/offers.rs",
        "HELD_BYTES: usize = 3 * 1024 * 1024",
        "1,000 offers and 3 MiB",
    ),
    (
        "master/src/service/operator.rs",
        "BATCHES: usize = 64",
        "| in-flight batches of one `Write` stream | 64 |",
    ),
    (
        "master/src/links.rs",
        "BACKLOG_BYTES: usize = 1 << 20",
        "8,192; offers pause at 1 MiB",
    ),
    (
        "master/src/leader/delivery.rs",
        "IN_FLIGHT: usize = 1_000",
        "| tasks with updates in flight on a stream | 1,000 |",
    ),
    (
        "master/src/leader/messages.rs",
        "BYTES_PER_SECOND: usize = 1024 * 1024",
        "and to one framework | 1 MiB a second |",
    ),
    (
        "master/src/allocator/mod.rs",
        "LONGEST_FILTER_MS: u64 = 365 * 24 * 3_600_000",
        "| longest filter | 365 days |",
    ),
    (
        "master/src/allocator/mod.rs",
        "DECLINE_CODE: usize = 64",
        "of a decline | 64, 256 characters |",
    ),
    (
        "master/src/allocator/mod.rs",
        "DECLINE_TEXT: usize = 256",
        "of a decline | 64, 256 characters |",
    ),
    (
        "master/src/allocator/eligibility.rs",
        "cpus:0.01|mem:32",
        "is 0.01 `cpus` or 32 MiB of `mem`",
    ),
    (
        "state/src/limits.rs",
        "TRANSITIONS: usize = 100",
        "| changes of state kept of a task that has not ended; while its tasks take all the memory that they may | 100; 8 |",
    ),
    (
        "state/src/limits.rs",
        "FIRST_TRANSITIONS: usize = 10",
        "the oldest after the first 10 (4) is dropped, and counted in `history_dropped`",
    ),
    (
        "state/src/limits.rs",
        "TRANSITIONS_WHEN_FULL: usize = 8",
        "| changes of state kept of a task that has not ended; while its tasks take all the memory that they may | 100; 8 |",
    ),
    (
        "state/src/limits.rs",
        "ENDED_TRANSITIONS: usize = 20",
        "| changes of state kept of an ended task | 20 |",
    ),
    (
        "state/src/limits.rs",
        "CAUSES: usize = 8",
        "arguments of one; bytes of one | 8; 8; 1,024 |",
    ),
    (
        "state/src/limits.rs",
        "CAUSE_ARGUMENTS: usize = 8",
        "arguments of one; bytes of one | 8; 8; 1,024 |",
    ),
    (
        "state/src/limits.rs",
        "CAUSE_BYTES: usize = 1024",
        "arguments of one; bytes of one | 8; 8; 1,024 |",
    ),
    (
        "state/src/limits.rs",
        "CAPABILITY_BYTES: usize = 64",
        "a name | 64; 64 bytes | `invalid` |",
    ),
    (
        "state/src/limits.rs",
        "CAPABILITIES: usize = 64",
        "| capabilities that an agent or a framework announces; a name | 64; 64 bytes | `invalid` |",
    ),
];
