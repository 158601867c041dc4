//! Limits of a task that differ from its resources, and the results of changes.

use crate::codec::canonical::CanonicalWriter;
use crate::codec::error::DecodeResult;
use crate::codec::message::{Codec, put};
use crate::codec::scalars::{MaybeText, Number, Text};
use crate::codec::stored::stored;
use crate::codec::wire::FieldSlot;
use crate::ids::{OrderIndex, Revision};
use crate::task::{Cause, LIMITS_NOT_CHANGED, cause};

/// The limits of a task, in addition to its resources, which are reserved for it. The default is
/// that of the agent: memory as requested, and any free processor time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskLimits {
    /// The limit of processor time, in thousandths of a processor; not less than `cpus` of its
    /// resources. `None`: no limit.
    pub cpu_millis: Option<u64>,
    /// The limit of memory, in bytes; not less than `mem` of its resources. `None`: `mem`.
    pub memory_bytes: Option<u64>,
    /// The limit of processes and threads; `None`: the agent's limit, which is never exceeded.
    pub pids: Option<u64>,
    /// The share of busy disks, 1 to 10,000; `None`: 100.
    pub io_weight: Option<u64>,
    /// The limits of single disks; at most [`crate::limits::DISK_LIMITS`], each disk once.
    pub io: Vec<DiskLimit>,
    /// Whether the task has exclusive use of the processors of its resources, whose number is then
    /// whole.
    pub exclusive_cpus: bool,
}

/// The limits of a task's operations on one disk, per second; `None`: no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskLimit {
    /// The device on the agent's host, such as `/dev/sda`. Empty: the disk of the task's sandbox.
    pub disk: String,
    /// The number of bytes read.
    pub read_bytes: Option<u64>,
    /// The number of bytes written.
    pub write_bytes: Option<u64>,
    /// The number of read operations.
    pub read_operations: Option<u64>,
    /// The number of write operations.
    pub write_operations: Option<u64>,
}

/// The newest change of a task's limits since its launch. The requested limits are in the
/// description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsChange {
    /// The order that carries the change.
    pub order: OrderIndex,
    /// The revision of the request, which identifies the change to the framework.
    pub revision: Revision,
    /// The result: in force, or refused with free text after the causes. `None` until the agent has
    /// reported it.
    pub outcome: Option<Result<(), String>>,
    /// The limits in force at the time of the request, until the agent has answered: after a
    /// refusal they remain in force. `None`: default limits.
    pub before: Option<Box<TaskLimits>>,
    /// Whether the limits of the description are in the second record, and `before` in the first.
    /// Since level 3 a task has two records for limits, so that neither is rewritten when the other
    /// one takes effect.
    pub is_second: bool,
    /// The causes of a refusal, as codes. None before level 3.
    pub causes: Vec<Cause>,
}

/// The result of a change of limits, as an agent reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsReport {
    /// The order that carried the change.
    pub order: OrderIndex,
    /// The result: in force, or refused with free text after the causes.
    pub outcome: Result<(), String>,
    /// The limits in force after a refusal, if the agent knows them better than the registry.
    pub held: Option<Box<TaskLimits>>,
    /// The causes of a refusal, as codes.
    pub causes: Vec<Cause>,
}

stored!(message TaskLimits {
    1 cpu_millis: MaybeNumber,
    2 memory_bytes: MaybeNumber,
    3 pids: MaybeNumber,
    4 io_weight: MaybeNumber,
    5 io: PartList,
    6 exclusive_cpus: Number,
});

stored!(message DiskLimit {
    1 disk: Text,
    2 read_bytes: MaybeNumber,
    3 write_bytes: MaybeNumber,
    4 read_operations: MaybeNumber,
    5 write_operations: MaybeNumber,
});

impl LimitsChange {
    /// Returns the reason why the limits are not in force, for display; `None` if they are, or if
    /// the result is not known yet.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let detail = self.outcome.as_ref()?.as_ref().err()?;
        let is_empty = detail.is_empty() && self.causes.is_empty();
        Some(match is_empty {
            true => LIMITS_NOT_CHANGED.to_owned(),
            false => cause::text(&self.causes, detail),
        })
    }
}

impl TaskLimits {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let TaskLimits {
            cpu_millis,
            memory_bytes,
            pids,
            io_weight,
            io,
            exclusive_cpus,
        } = self;
        out.optional(1, *cpu_millis);
        out.optional(2, *memory_bytes);
        out.optional(3, *pids);
        out.optional(4, *io_weight);
        out.list(5, io, |out, limit: &DiskLimit| {
            let DiskLimit {
                disk,
                read_bytes,
                write_bytes,
                read_operations,
                write_operations,
            } = limit;
            out.text(1, disk);
            out.optional(2, *read_bytes);
            out.optional(3, *write_bytes);
            out.optional(4, *read_operations);
            out.optional(5, *write_operations);
        });
        out.flag(6, *exclusive_cpus);
    }
}

stored!(message LimitsReport {
    1 order: Number,
    2 outcome: OutcomeText,
    3 held: MaybePart,
    4 causes: PartList,
});

stored!(message LimitsChange {
    1 order: Number,
    2 revision: Part,
    3 | 4 outcome: MaybeOutcome,
    5 before: MaybePart,
    6 is_second: Number,
    7 causes: PartList,
});

/// An outcome as the text of its refusal; absent if there is none.
enum OutcomeText {}

impl Codec<Result<(), String>> for OutcomeText {
    fn is_absent(outcome: &Result<(), String>) -> bool {
        outcome.is_ok()
    }

    fn write(number: u32, outcome: &Result<(), String>, out: &mut Vec<u8>) {
        if let Err(refusal) = outcome {
            Text::write(number, refusal, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Result<(), String>> {
        let refusal: Option<String> = MaybeText::read(slot, wrong)?;
        Ok(refusal.map_or(Ok(()), Err))
    }
}

/// An outcome that may be unknown: a flag for its presence, and then the form of [`OutcomeText`].
enum MaybeOutcome {}

impl Codec<Option<Result<(), String>>> for MaybeOutcome {
    fn is_absent(outcome: &Option<Result<(), String>>) -> bool {
        outcome.is_none()
    }

    fn write(number: u32, outcome: &Option<Result<(), String>>, out: &mut Vec<u8>) {
        if let Some(outcome) = outcome {
            Number::write(number, &true, out);
            put::<OutcomeText, _>(number + 1, outcome, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Option<Result<(), String>>> {
        let settled: bool = Number::read(slot.part(3)?, wrong)?;
        let outcome = OutcomeText::read(slot.part(4)?, wrong)?;
        Ok(settled.then_some(outcome))
    }

    fn has_numbers(numbers: &[u32]) -> bool {
        numbers == [3, 4]
    }
}
