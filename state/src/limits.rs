//! Bounds of the values that the registry stores and accepts, and the behaviour at each bound.
//!
//! Bytes are the estimated memory of records: see `registry/usage.rs`. The bounds of all kinds of
//! records add up to about 2.6 GiB; [`crate::Registry::usage`] returns usage and bound of each.

/// The longest id, role, attribute name or resource name, in bytes. Longer ones are refused.
pub const NAME_BYTES: usize = 255;
/// The longest role, in bytes.
pub const ROLE_BYTES: usize = 128;
/// The largest encoded task description (environment included), in bytes. Larger ones are refused.
pub const TASK_SPEC_BYTES: usize = 512 * 1024;
/// The longest argument, shell line or `NAME=value` of a task, in bytes without its NUL: Linux'
/// `MAX_ARG_STRLEN`. Longer ones are refused.
pub const ARGUMENT_BYTES: usize = 131_071;
/// The largest text of an update, in bytes. Longer ones are cut.
pub const MESSAGE_BYTES: usize = 1024;
/// The longest name of an image, in bytes. Longer ones are refused.
pub const IMAGE_BYTES: usize = 1024;
/// The number of ports that one task may publish. More are refused.
pub const PUBLISHED_PORTS: usize = 256;
/// The number of ports by which other programs find one task. More are refused.
pub const DISCOVERY_PORTS: usize = 64;
/// The number of labels of one task's discovery, and of each of its ports. More are refused.
pub const DISCOVERY_LABELS: usize = 64;
/// The bytes of those labels, names and values together. Longer ones are refused.
pub const DISCOVERY_LABEL_BYTES: usize = 4 * 1024;
/// The number of host paths of one task, which are compared in pairs. More are refused.
pub const HOST_PATHS: usize = 64;
/// The longest URI of a task, in bytes. Longer ones are refused.
pub const URI_BYTES: usize = 8 * 1024;
/// The number of volumes of one task. More are refused.
pub const VOLUMES: usize = 64;
/// The longest path of a volume, in bytes. Longer ones are refused.
pub const VOLUME_PATH_BYTES: usize = 1024;
/// The smallest tmpfs that a task may request, in bytes: a page.
pub const MIN_TMPFS_BYTES: u64 = 4096;
/// The largest tmpfs, in bytes: 1 TiB. Larger ones are refused, and so is one that exceeds the
/// task's memory.
pub const TMPFS_BYTES: u64 = 1 << 40;
/// The smallest number of open files that a task may request: with fewer, most programs cannot
/// start. Fewer are refused.
pub const MIN_OPEN_FILES: u64 = 64;
/// The largest number of open files: Linux' own bound (`fs.nr_open`). More are refused.
pub const OPEN_FILES: u64 = 1_048_576;
/// The longest grace period of an executor, in milliseconds: a minute. During it the executor's
/// resources no longer count as used.
pub const EXECUTOR_GRACE_MS: u64 = 60_000;
/// The longest time of a check (delay, interval, timeout, grace period), in milliseconds: a day.
/// Longer ones are refused.
pub const CHECK_TIME_MS: u64 = 86_400_000;
/// The shortest interval of a check, in milliseconds, because each probe costs a process. Shorter
/// ones are refused.
pub const CHECK_INTERVAL_MS: u64 = 100;
/// The longest command of a check, in bytes of its arguments and their separators. Longer ones are
/// refused.
pub const CHECK_COMMAND_BYTES: usize = 16 * 1024;
/// The longest path that a check requests, in bytes. Longer ones are refused.
pub const CHECK_PATH_BYTES: usize = 2_048;
/// The number of statuses that one check may expect. More are refused.
pub const CHECK_STATUSES: usize = 64;
/// The longest message between a framework and an executor, in bytes. Longer ones are refused.
pub const EXECUTOR_MESSAGE_BYTES: usize = 64 * 1024;
/// The number of tasks in one `Accept` of the log. More are refused.
pub const TASKS_PER_ACCEPT: usize = 1_000;
/// The number of operations in one `Accept`. More are refused.
pub const OPERATIONS_PER_ACCEPT: usize = 256;
/// The number of tasks in one group. More are refused.
pub const TASKS_PER_GROUP: usize = 16;
/// The number of records that one command changes at most; sweeps change the rest.
pub const RECORDS_PER_COMMAND: usize = 1_000;
/// The number of tasks that a leader launches by one `Accept`: each takes about 20 µs to apply, and
/// one iteration of the owner's loop 5 ms. More are refused. `apply` accepts [`TASKS_PER_ACCEPT`],
/// because earlier releases have logged as many.
pub const TASKS_PER_CALL: usize = 256;
/// The number of acknowledgements in one command of a leader. Each changes up to four records of
/// its task, and an end that becomes history evicts a task with up to six records and
/// [`ENDED_TRANSITIONS`]. `apply` accepts [`RECORDS_PER_COMMAND`] for the same reason.
pub const ACKNOWLEDGEMENTS_PER_COMMAND: usize = 30;
/// The number of updates in one command of a leader; fewer if they may change more than
/// [`CHANGED_RECORDS`], as ends of tasks with many transitions do.
pub const UPDATES_PER_COMMAND: usize = 60;
/// The number of tasks in one batch of a sweep, and the largest number that stop or are compared in
/// one command. Each changes up to four records, and an iteration of the loop is short. Since level
/// 3 a batch in which tasks become history has a fifth of them.
pub const TASKS_PER_SWEEP: usize = 250;
/// The number of records by which updates are divided into commands, and, since level 3, tasks into
/// batches of a sweep: the rest is for [`DROPPED_RECORDS`].
pub const CHANGED_RECORDS: usize = RECORDS_PER_COMMAND - DROPPED_RECORDS;
/// The number of records of former tasks that the history drops in one command, in addition to one
/// task for each that is added.
pub const DROPPED_RECORDS: usize = 100;
/// The number of answers to numbered calls kept for one framework. At the bound calls are refused
/// until the caller's lowest unanswered number rises.
pub const ANSWERS_PER_FRAMEWORK: usize = 1_024;
/// The number of former sessions remembered for one framework. Older ones count as new.
pub const PAST_SESSIONS: usize = 64;
/// The number of answers to operators' batches kept. At the bound new named batches are refused.
pub const OPERATOR_ANSWERS: usize = 100_000;
/// The time for which an operator's answer is kept, in milliseconds of cluster time.
pub const OPERATOR_ANSWER_MS: u64 = 600_000;
/// The number of operations in one operator batch. More are refused.
pub const OPERATIONS_PER_BATCH: usize = 256;
/// The longest name of a CNI network, in bytes. Longer ones are refused.
pub const CNI_NAME_BYTES: usize = 128;
/// The bytes of all tasks that have not ended, or whose end is not acknowledged. Launches beyond
/// the bound are refused.
pub const TASK_BYTES: u64 = 1 << 30;
/// The bytes of those tasks for one framework. Launches beyond the bound are refused, so that no
/// framework can take the space of all others.
pub const TASK_BYTES_PER_FRAMEWORK: u64 = 768 << 20;
/// The number of frameworks, without removed ones. New ones are refused.
pub const FRAMEWORKS: usize = 10_000;
/// The number of frameworks of one principal. For a new one, the principal's framework that has
/// been disconnected longest and has no tasks is removed. If there is none, the new one is refused.
pub const FRAMEWORKS_PER_PRINCIPAL: usize = 5_000;
/// The bytes of all frameworks. New ones and longer descriptions are refused.
pub const FRAMEWORK_BYTES: u64 = 256 << 20;
/// The number of agents, including lost ones. New ones are refused.
pub const AGENTS: usize = 100_000;
/// The bytes of all agents. New ones and longer descriptions are refused.
pub const AGENT_BYTES: u64 = 512 << 20;
/// The number of roles whose weight is set. More are refused.
pub const WEIGHTS: usize = 10_000;
/// The number of rules of access. More are refused.
pub const ACCESS_RULES: usize = 10_000;
/// The number of groups of the rules of access. More are refused.
pub const ACCESS_GROUPS: usize = 1_000;
/// The number of members of all groups. More are refused.
pub const ACCESS_MEMBERS: usize = 10_000;
/// The bytes of all rules and groups as text, so that one call sets them. More are refused.
pub const ACCESS_BYTES: usize = 960 << 10;
/// The number of tokens. For a new one, up to [`EXPIRED_TOKENS_DROPPED`] expired ones are removed.
/// If there are none, the new one is refused.
pub const TOKENS: usize = 10_000;
/// The number of expired tokens that one new token removes at most.
pub const EXPIRED_TOKENS_DROPPED: usize = 100;
/// The number of uses of a join token. More are refused.
pub const JOIN_TOKEN_USES: u32 = 10_000;
/// The number of revoked keys. More are refused.
pub const REVOKED_KEYS: usize = 10_000;
/// The number of principals that are bound to a key. More are refused.
pub const KEY_BINDINGS: usize = 200_000;
/// The number of limits of rate. More are refused.
pub const RATE_LIMITS: usize = 10_000;
/// The largest value of a secret in the registry, in bytes. Larger ones are refused.
pub const SECRET_VALUE_BYTES: usize = 64 * 1024;
/// The longest id of a key that seals secrets, in bytes. Longer ones are refused.
pub const SECRET_KEY_ID_BYTES: usize = 64;
/// The number of secrets of the registry that one task may use. More are refused. Together they fit
/// into one message.
pub const SECRETS_PER_TASK: usize = 16;
/// The number of secrets in the registry. More are refused.
pub const SECRETS: usize = 4_096;
/// The bytes of all secrets in the registry. New ones and longer values are refused.
pub const SECRET_BYTES: u64 = 64 << 20;
/// The number of answers to numbered calls of all frameworks. At the bound calls are refused.
pub const ANSWERS: usize = 500_000;
/// The bytes of answers to operators' batches. At the bound new named batches are refused.
pub const OPERATOR_ANSWER_BYTES: u64 = 64 << 20;
/// The records, and the bytes, of answers to operators' batches that one principal may have, as a
/// multiple of those that are free. Beyond it, its new named batches are refused, so that no
/// principal can take the space of all others.
pub const OPERATOR_ANSWER_SHARE: u64 = 4;
/// The number of finished tasks kept for display. At the bound the oldest task of the framework
/// with the largest history is dropped. Until then the ids of finished tasks are taken.
pub const FINISHED_TASKS: usize = 10_000;
/// The bytes of finished tasks kept for display, with the same behaviour at the bound.
pub const FINISHED_TASK_BYTES: u64 = 64 << 20;
/// The longest text of a finished task that is kept: its name, user, command, all labels. Longer
/// ones are cut.
pub const FINISHED_TEXT_BYTES: usize = 1024;
/// The number of transitions kept of a task that has not ended. At the bound, the oldest one after
/// the first [`FIRST_TRANSITIONS`] is dropped, and counted.
pub const TRANSITIONS: usize = 100;
/// The number of a task's first transitions that are kept at the bound.
pub const FIRST_TRANSITIONS: usize = 10;
/// The number of transitions kept of a task while the tasks take all the bytes that they may: an
/// update is never refused, so that their transitions must not grow further.
pub const TRANSITIONS_WHEN_FULL: usize = 8;
/// The number of transitions kept of an ended task: the last ones.
pub const ENDED_TRANSITIONS: usize = 20;
/// The number of removed frameworks kept for display. The oldest is dropped first.
pub const FINISHED_FRAMEWORKS: usize = 1_000;
/// The number of lost agents (unreachable or gone) that are kept. Above it, the agents without live
/// tasks that have been lost longest are removed. Those with live tasks are kept until
/// [`LOST_AGENT_MS`] has passed.
pub const LOST_AGENTS: usize = 10_000;
/// The default time for which a lost agent is kept: two weeks, in milliseconds.
pub const LOST_AGENT_MS: u64 = 14 * 24 * 3_600_000;
/// The number of unacknowledged terminal tasks of one framework. At the bound its launches are
/// refused.
pub const UNACKNOWLEDGED_TASKS: usize = 100_000;
/// The number of newest used offers remembered for one agent. Older ones are below the window's
/// floor and refused.
pub const USED_OFFERS: usize = 64;
/// The number of resources, ranges and set items of one agent or task in total. More are refused.
pub const RESOURCE_PARTS: usize = 4_096;
/// The number of names of scalar resources of all registered agents in total. Registrations that
/// would add more are refused.
pub const RESOURCE_KINDS: usize = 64;
/// The number of causes of one update that are kept as codes. If there are more, the text is kept.
pub const CAUSES: usize = 8;
/// The number of arguments of one cause. If there are more, the text is kept.
pub const CAUSE_ARGUMENTS: usize = 8;
/// The bytes of one cause. If it is longer, the text is kept.
pub const CAUSE_BYTES: usize = 1024;
/// The number of capabilities that one agent or framework may announce. More are refused.
pub const CAPABILITIES: usize = 64;
/// The longest name of a capability, in bytes. Longer ones are refused.
pub const CAPABILITY_BYTES: usize = 64;
/// The number of disks whose use one task may limit. More are refused.
pub const DISK_LIMITS: usize = 16;
/// The number of cgroup controllers that one agent may report as missing. More are refused.
pub const MISSING_CONTROLLERS: usize = 64;
/// The longest text of a remembered refusal, in bytes. Longer ones are cut.
pub const REFUSAL_BYTES: usize = 160;
/// The number of attributes of one agent. More are refused.
pub const ATTRIBUTES: usize = 256;
/// The longest attribute value, in bytes. Longer ones are refused.
pub const ATTRIBUTE_BYTES: usize = 4 * 1024;
/// The number of roles of one framework. More are refused.
pub const ROLES_PER_FRAMEWORK: usize = 64;
/// The number of labels of one framework. More are refused, unless it had the same ones before
/// level 3.
pub const LABELS_PER_FRAMEWORK: usize = 256;
/// The default time for which a disconnected framework keeps its tasks: one week, in milliseconds.
pub const FAILOVER_TIMEOUT_MS: u64 = 7 * 24 * 3_600_000;
/// The default time for which an offer is valid, in milliseconds of cluster time.
pub const OFFER_TIMEOUT_MS: u64 = 60_000;
/// The largest scalar, in thousandths. Sums of a million of them still fit an `i64`.
pub const SCALAR_MILLI: i64 = 1_000_000_000_000;
