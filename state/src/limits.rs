//! Bounds of what the registry holds and accepts; each with what happens at the bound.
//!
//! Bytes are what records take in memory, roughly: see `registry/usage.rs`. Together the kinds of records are bounded by
//! their sum, about 2.4 GiB; [`crate::Registry::usage`] returns usage and bounds of each.

/// Longest id, role, attribute name or resource name, in bytes. Longer ones are refused.
pub const NAME_BYTES: usize = 255;
/// Longest role, in bytes.
pub const ROLE_BYTES: usize = 128;
/// Largest encoded task description (environment included), in bytes. Larger ones are refused.
pub const TASK_SPEC_BYTES: usize = 512 * 1024;
/// Longest argument, shell line or `NAME=value` of a task, in bytes without its NUL: Linux' `MAX_ARG_STRLEN`. Longer ones
/// are refused.
pub const ARGUMENT_BYTES: usize = 131_071;
/// Largest text of an update, in bytes. Longer ones are cut.
pub const MESSAGE_BYTES: usize = 1024;
/// Longest name of an image, in bytes. Longer ones are refused.
pub const IMAGE_BYTES: usize = 1024;
/// Ports that one task publishes. More are refused.
pub const PUBLISHED_PORTS: usize = 256;
/// Volumes of one task. More are refused.
pub const VOLUMES: usize = 64;
/// Longest path of a volume, in bytes. Longer ones are refused.
pub const VOLUME_PATH_BYTES: usize = 1024;
/// Smallest file system in memory that a task asks for, in bytes: a page.
pub const TMPFS_LEAST_BYTES: u64 = 4096;
/// Largest, in bytes: 1 TiB. Larger ones are refused, and what is larger than the task's memory.
pub const TMPFS_BYTES: u64 = 1 << 40;
/// Fewest open files that a task asks for: with fewer most programs cannot start. Fewer are refused.
pub const OPEN_FILES_LEAST: u64 = 64;
/// Most, which is Linux' own bound (`fs.nr_open`). More are refused.
pub const OPEN_FILES: u64 = 1_048_576;
/// Longest grace of an executor, in milliseconds: a minute. What it uses counts no more while it takes it.
pub const EXECUTOR_GRACE_MS: u64 = 60_000;
/// Longest time of a check (delay, interval, timeout, grace) in milliseconds: a day. Longer ones are refused.
pub const CHECK_TIME_MS: u64 = 86_400_000;
/// Shortest interval of a check, in milliseconds: each question costs a process. Shorter ones are refused.
pub const CHECK_INTERVAL_MS: u64 = 100;
/// Longest command of a check, in bytes of its words and what parts them. Longer ones are refused.
pub const CHECK_COMMAND_BYTES: usize = 16 * 1024;
/// Longest path that a check asks for, in bytes. Longer ones are refused.
pub const CHECK_PATH_BYTES: usize = 2_048;
/// Statuses that one check expects. More are refused.
pub const CHECK_STATUSES: usize = 64;
/// Longest message between a framework and an executor, in bytes. Longer ones are refused.
pub const EXECUTOR_MESSAGE_BYTES: usize = 64 * 1024;
/// Tasks in one `Accept` of the log. More are refused.
pub const TASKS_PER_ACCEPT: usize = 1_000;
/// Operations in one `Accept`. More are refused.
pub const OPERATIONS_PER_ACCEPT: usize = 256;
/// Tasks in one group. More are refused.
pub const TASKS_PER_GROUP: usize = 16;
/// Records that one command touches at most; the rest is left to sweeps.
pub const RECORDS_PER_COMMAND: usize = 1_000;
/// Tasks that a leader launches by one `Accept`: each takes some 20 µs to apply, and a turn 5 ms. More are
/// refused. `apply` takes [`TASKS_PER_ACCEPT`]: earlier releases have logged so many.
pub const TASKS_PER_CALL: usize = 256;
/// Acknowledgements in one command of a leader, and updates: each changes up to four records of its task, and an end that
/// becomes history drops one of up to six. `apply` takes [`RECORDS_PER_COMMAND`], likewise.
pub const ACKNOWLEDGEMENTS_PER_COMMAND: usize = 80;
/// Tasks of one piece of a sweep, and the most that stop or are compared in one command: each touches up to four records, and
/// a turn is short. Since level 3 a piece has a quarter of them where they become history.
pub const TASKS_PER_SWEEP: usize = 250;
/// Records of former tasks that the history drops in one command, beside one task for each that is added.
pub const DROPPED_RECORDS: usize = 200;
/// Answers to numbered calls kept for one framework. At the bound calls are refused until the
/// caller's lowest unanswered number rises.
pub const ANSWERS_PER_FRAMEWORK: usize = 1_024;
/// Former sessions remembered for one framework; older ones count as new.
pub const PAST_SESSIONS: usize = 64;
/// Answers to operators' batches kept. At the bound new named batches are refused.
pub const OPERATOR_ANSWERS: usize = 100_000;
/// How long an operator's answer is kept, in milliseconds of cluster time.
pub const OPERATOR_ANSWER_MS: u64 = 600_000;
/// Operations in one operator batch. More are refused.
pub const OPERATIONS_PER_BATCH: usize = 256;
/// Longest name of a CNI network, in bytes. Longer ones are refused.
pub const CNI_NAME_BYTES: usize = 128;
/// All tasks that have not ended, or whose end is not acknowledged, in bytes. Launches beyond are refused.
pub const TASK_BYTES: u64 = 1 << 30;
/// Those of one framework. Launches beyond are refused: no framework can take the room of all others.
pub const TASK_BYTES_PER_FRAMEWORK: u64 = 768 << 20;
/// Frameworks, removed ones apart. New ones are refused.
pub const FRAMEWORKS: usize = 10_000;
/// Frameworks of one principal. For a new one the principal's longest disconnected one without tasks is removed; if
/// there is none, the new one is refused.
pub const FRAMEWORKS_PER_PRINCIPAL: usize = 5_000;
/// All frameworks, in bytes. New ones and longer descriptions are refused.
pub const FRAMEWORK_BYTES: u64 = 256 << 20;
/// Agents, lost ones included. New ones are refused.
pub const AGENTS: usize = 100_000;
/// All agents, in bytes. New ones and longer descriptions are refused.
pub const AGENT_BYTES: u64 = 512 << 20;
/// Roles whose weight was set. More are refused.
pub const WEIGHTS: usize = 10_000;
/// Answers to numbered calls of all frameworks. At the bound calls are refused.
pub const ANSWERS: usize = 500_000;
/// Answers to operators' batches, in bytes. At the bound new named batches are refused.
pub const OPERATOR_ANSWER_BYTES: u64 = 64 << 20;
/// Finished tasks kept for display. At the bound the oldest of the framework with the longest history is dropped; until
/// then their ids are taken.
pub const FINISHED_TASKS: usize = 10_000;
/// The same in bytes.
pub const FINISHED_TASK_BYTES: u64 = 64 << 20;
/// Longest text of a finished task that is kept: its name, user, command, all labels. Longer ones are cut.
pub const FINISHED_TEXT_BYTES: usize = 1024;
/// Removed frameworks kept for display, oldest dropped first.
pub const FINISHED_FRAMEWORKS: usize = 1_000;
/// Lost agents, unreachable or gone, that are kept. Above it the longest lost without live tasks are forgotten: those
/// with live tasks are kept until [`LOST_AGENT_MS`] is over.
pub const LOST_AGENTS: usize = 10_000;
/// How long a lost agent is kept unless an operator says otherwise: two weeks, in milliseconds.
pub const LOST_AGENT_MS: u64 = 14 * 24 * 3_600_000;
/// Unacknowledged terminal tasks of one framework. At the bound its launches are refused.
pub const UNACKNOWLEDGED_TASKS: usize = 100_000;
/// Newest used offers remembered for one agent; older ones are below the window's floor and refused.
pub const USED_OFFERS: usize = 64;
/// Resources, ranges and set items of one agent or task, counted together. More are refused.
pub const RESOURCE_PARTS: usize = 4_096;
/// Names of scalar resources that all registered agents have together. Registrations that would bring more are refused.
pub const RESOURCE_KINDS: usize = 64;
/// Causes of one update that are kept; of more the text is kept.
pub const CAUSES: usize = 8;
/// Arguments of one cause. Of more the text is kept.
pub const CAUSE_ARGUMENTS: usize = 8;
/// Bytes of one cause. Of a longer one the text is kept.
pub const CAUSE_BYTES: usize = 1024;
/// Capabilities that one agent or framework announces. More are refused.
pub const CAPABILITIES: usize = 64;
/// Longest name of a capability, in bytes. Longer ones are refused.
pub const CAPABILITY_BYTES: usize = 64;
/// Disks of which one task limits the use. More are refused.
pub const DISK_LIMITS: usize = 16;
/// cgroup controllers that one agent may miss. More are refused.
pub const MISSING_CONTROLLERS: usize = 64;
/// Longest text of a remembered refusal, in bytes. Longer ones are cut.
pub const REFUSAL_BYTES: usize = 160;
/// Attributes of one agent. More are refused.
pub const ATTRIBUTES: usize = 256;
/// Longest attribute value, in bytes. Longer ones are refused.
pub const ATTRIBUTE_BYTES: usize = 4 * 1024;
/// Roles of one framework. More are refused.
pub const ROLES_PER_FRAMEWORK: usize = 64;
/// How long a disconnected framework keeps its tasks unless it says otherwise: one week, in milliseconds.
pub const FAILOVER_TIMEOUT_MS: u64 = 7 * 24 * 3_600_000;
/// How long an offer stays good unless the framework says otherwise, in milliseconds of cluster time.
pub const OFFER_TIMEOUT_MS: u64 = 60_000;
/// Largest scalar, in thousandths; sums of a million of them still fit an `i64`.
pub const SCALAR_MILLI: i64 = 1_000_000_000_000;
