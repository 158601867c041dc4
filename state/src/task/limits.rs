//! The most that a task may use, where that is not what it asks for, and what became of a change of it.

use crate::encode::codec::{Codec, Read, put};
use crate::encode::scalars::{MaybeText, Number, Text};
use crate::encode::stored::stored;
use crate::encode::wire::Slot;
use crate::fingerprint::Writer;
use crate::ids::{OrderIndex, Revision};
use crate::task::{Cause, LIMITS_NOT_CHANGED, cause};

/// Limits of a task beside its resources, which are what is kept for it. The default is what an agent gives by itself:
/// no more memory than is asked for, as much processor time as is free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// The most processor time, in thousandths of a processor; not less than `cpus` of its resources. `None`: no limit.
    pub cpu_millis: Option<u64>,
    /// The most memory, in bytes; not less than `mem` of its resources. `None`: that much.
    pub memory_bytes: Option<u64>,
    /// The most processes and threads; `None`: the agent's own limit, which is never exceeded.
    pub pids: Option<u64>,
    /// Its share of busy disks, 1 to 10,000; `None`: 100.
    pub io_weight: Option<u64>,
    /// The most that it does with single disks; at most [`crate::limits::DISK_LIMITS`], each disk once.
    pub io: Vec<DiskLimit>,
    /// It has the processors of its resources, which are whole then, for itself alone.
    pub exclusive_cpus: bool,
}

/// The most that a task does with one disk, a second; `None`: as much as it can.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskLimit {
    /// Its device on the agent's host, as `/dev/sda`. Empty: the disk of the task's sandbox.
    pub disk: String,
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Operations that read.
    pub read_operations: Option<u64>,
    /// Operations that write.
    pub write_operations: Option<u64>,
}

/// The newest change of a task's limits since its launch. What they are to be is in its description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsChange {
    /// The order that carries it.
    pub order: OrderIndex,
    /// When it was asked for; names it to the framework.
    pub revision: Revision,
    /// Whether the limits are in force, or why not: free text behind the causes. `None` until the agent has said so.
    pub outcome: Option<Result<(), String>>,
    /// What was in force when it was asked for, until the agent has said: a refusal leaves the task with it. `None`: no
    /// limits by name.
    pub before: Option<Box<Limits>>,
    /// Since level 3 a task has two records for limits. Whether those of its description are in the second one, and
    /// `before` in the first: so neither is written again when the other one comes into force.
    pub is_second: bool,
    /// Why they are not in force, as codes. Before level 3 none.
    pub causes: Vec<Cause>,
}

/// What an agent has made of a change of limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsReport {
    /// The order that carried it.
    pub order: OrderIndex,
    /// In force, or why not: free text behind the causes.
    pub outcome: Result<(), String>,
    /// What is in force in the place of what was refused, if the agent knows better than the registry.
    pub held: Option<Box<Limits>>,
    /// Why they are not in force, as codes.
    pub causes: Vec<Cause>,
}

stored!(message Limits {
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
    /// Why the limits are not in force, for people; `None` if they are, or if that is not known yet.
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

impl Limits {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        let Limits {
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
    2 outcome: Refusal,
    3 held: MaybePart,
    4 causes: PartList,
});

stored!(message LimitsChange {
    1 order: Number,
    2 revision: Part,
    3 | 4 outcome: Settled,
    5 before: MaybePart,
    6 is_second: Number,
    7 causes: PartList,
});

/// An outcome as the text of its refusal; absent if there is none.
enum Refusal {}

impl Codec<Result<(), String>> for Refusal {
    fn is_absent(outcome: &Result<(), String>) -> bool {
        outcome.is_ok()
    }

    fn write(number: u32, outcome: &Result<(), String>, out: &mut Vec<u8>) {
        if let Err(refusal) = outcome {
            Text::write(number, refusal, out);
        }
    }

    fn read(slot: Slot<'_>, wrong: &'static str) -> Read<Result<(), String>> {
        let refusal: Option<String> = MaybeText::read(slot, wrong)?;
        Ok(refusal.map_or(Ok(()), Err))
    }
}

/// An outcome, once there is one: that there is one, and then as [`Refusal`] has it.
enum Settled {}

impl Codec<Option<Result<(), String>>> for Settled {
    fn is_absent(outcome: &Option<Result<(), String>>) -> bool {
        outcome.is_none()
    }

    fn write(number: u32, outcome: &Option<Result<(), String>>, out: &mut Vec<u8>) {
        if let Some(outcome) = outcome {
            Number::write(number, &true, out);
            put::<Refusal, _>(number + 1, outcome, out);
        }
    }

    fn read(slot: Slot<'_>, wrong: &'static str) -> Read<Option<Result<(), String>>> {
        let settled: bool = Number::read(slot.part(3)?, wrong)?;
        let outcome = Refusal::read(slot.part(4)?, wrong)?;
        Ok(settled.then_some(outcome))
    }

    fn has_numbers(numbers: &[u32]) -> bool {
        numbers == [3, 4]
    }
}
