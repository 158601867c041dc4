//! Stored forms of singletons, weights, and answers to operators.

use std::collections::BTreeMap;

use super::{ClusterRecord, OperatorAnswer, SweepMark};
use crate::codec::error::DecodeResult;
use crate::codec::message::Codec;
use crate::codec::parts::PartList;
use crate::codec::stored::stored;
use crate::codec::wire::FieldSlot;
use crate::command::{ClusterFacts, StoredRejection, SweepTarget};

// The weight of a role, in thousandths.
stored!(message u64 as (weight_milli) {
    1 weight_milli: Number,
});

stored!(message ClusterRecord as (ClusterRecord {
    facts: ClusterFacts { id, offer_key, former_offer_key },
    level,
    epoch,
    leader,
    process,
    term,
    last_agent,
    last_framework,
    last_finished,
    sweeps,
    mass_loss,
    layout,
    last_whole,
    ticket_secrets,
    ancestors,
}) {
    1 level: Number,
    2 id: Bytes or "cluster id",
    3 offer_key: Bytes or "key",
    4 former_offer_key: MaybeBytes or "key",
    5 epoch: Number,
    6 leader: Number,
    7 process: Fixed,
    8 term: Number,
    9 last_agent: Number,
    10 last_framework: Number,
    11 last_finished: Number,
    12 sweeps: Sweeps,
    13 mass_loss: MaybeNumber,
    14 layout: PartOrDefault,
    15 last_whole: Number,
    16 ticket_secrets: MaybePart,
    17 ancestors: PartList,
});

/// The sweeps by target.
enum Sweeps {}

impl Codec<BTreeMap<SweepTarget, SweepMark>> for Sweeps {
    fn is_absent(sweeps: &BTreeMap<SweepTarget, SweepMark>) -> bool {
        sweeps.is_empty()
    }

    fn write(number: u32, sweeps: &BTreeMap<SweepTarget, SweepMark>, out: &mut Vec<u8>) {
        let sweeps = sweeps.iter().map(|(target, mark)| (*target, mark.clone()));
        PartList::write(number, &sweeps.collect::<Vec<_>>(), out);
    }

    fn read(
        slot: FieldSlot<'_>,
        wrong: &'static str,
    ) -> DecodeResult<BTreeMap<SweepTarget, SweepMark>> {
        let sweeps: Vec<_> = PartList::read(slot, wrong)?;
        Ok(sweeps.into_iter().collect())
    }
}

stored!(message (SweepTarget, SweepMark) as (target, SweepMark { after, wall_ms }) {
    1 target: Part or "sweep",
    2 after: MaybePart,
    3 wall_ms: Number,
});

stored!(message SweepMark {
    1 after: MaybePart,
    2 wall_ms: Number,
});

stored!(message OperatorAnswer {
    1 hash: Fixed,
    2 at: Number,
    3 outcomes: PartList,
    20 revision: PartOrDefault,
});

// The outcome of one of the changes; absent for success.
stored!(message Option<StoredRejection> as (refusal) {
    1 refusal: MaybePart,
});
