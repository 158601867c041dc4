//! Turns that are right and rare: a simulation takes them often, everybody else never.
//!
//! The idea is FoundationDB's: a batch of one, a full queue, a link that ends for no reason are all allowed, and what
//! depends on their being rare is wrong. Outside a simulation each question costs one look at a thread's own word.

use std::cell::Cell;

/// Turns by name, each with what is rare about it.
macro_rules! turns {
    ($($turn:ident $meaning:literal;)*) => {
        /// A rare turn.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rare {
            $(#[doc = $meaning] $turn,)*
        }

        impl Rare {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$turn,)*];
        }
    };
}

turns! {
    OneCommandAnEntry "the leader proposes each command in an entry of its own";
    OneEntryAnAppend "a follower is sent one entry at a time";
    ShortTail "the newest entries are read from the disk";
    SmallBlocks "a snapshot is sent in parts of a few hundred bytes";
    LinkFull "the outbox of a link is full: it ends, and the other side comes again";
    OneUpdateInFlight "a scheduler is told of one update at a time";
    OneUpdateACommand "updates of an agent are committed one by one";
    OneAgentARound "the allocator looks at one agent in a round";
    NotPassedOn "a follower does not pass a call on and names the leader";
    OneUpdateAMessage "an agent sends one update a message";
    OneTaskAChunk "an agent lists what it holds one task a message";
    LateReport "an agent gathers updates for 300 ms";
    LinkLost "an agent's link ends just after an order was taken";
    EarlyCompaction "a journal is compacted after a few hundred bytes";
    OneRecordAGroup "a journal is synced after each record";
    SmallSwap "a snapshot takes the place of the registry a few records at a time";
}

/// Of 16 simulations one turn is taken in 4.
const TURNS_IN_16: u64 = 4;
/// There, of 16 times that it comes up it is taken so often.
const TIMES_IN_16: u64 = 4;

thread_local! {
    /// The state of the choices, and one bit for each turn of this simulation; none outside.
    static CHOICE: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// From now on this thread simulates: `seed` fixes which turns may be taken, and when. Returns which.
pub fn begin(seed: u64) -> Vec<Rare> {
    let mut state = seed;
    let turns = Rare::ALL.iter().copied();
    let taken: Vec<Rare> = turns
        .filter(|_| next(&mut state) % 16 < TURNS_IN_16)
        .collect();
    let bits = taken.iter().fold(0, |bits, turn| bits | bit(*turn));
    CHOICE.set(Some((state, bits)));
    taken
}

/// From now on no turn is taken in this thread.
pub fn end() {
    CHOICE.set(None);
}

/// Whether to take this turn now: never, outside a simulation.
#[must_use]
pub fn takes(turn: Rare) -> bool {
    let Some((mut state, taken)) = CHOICE.get() else {
        return false;
    };
    if taken & bit(turn) == 0 {
        return false;
    }
    let number = next(&mut state);
    CHOICE.set(Some((state, taken)));
    number % 16 < TIMES_IN_16
}

/// What to use now: nearly always `usual`.
pub fn or<T>(turn: Rare, usual: T, rare: T) -> T {
    if takes(turn) { rare } else { usual }
}

fn bit(turn: Rare) -> u64 {
    1 << (turn as u32)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): its high bits are the better ones.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(seed: u64) -> Vec<bool> {
        begin(seed);
        let times = (0..64).flat_map(|_| Rare::ALL.iter().map(|turn| takes(*turn)));
        let times = times.collect();
        end();
        times
    }

    #[test]
    fn no_turn_is_taken_outside_a_simulation() {
        assert!(Rare::ALL.len() < 64);
        for turn in Rare::ALL {
            assert_eq!(or(*turn, 1, 2), 1);
        }
    }

    #[test]
    fn a_seed_fixes_every_choice_and_among_few_seeds_each_turn_is_taken() {
        let count = Rare::ALL.len();
        let mut ever = vec![false; count];
        for seed in 0..40 {
            assert_eq!(taken(seed), taken(seed));
            let at = taken(seed).into_iter().enumerate();
            at.for_each(|(at, is_taken)| ever[at % count] |= is_taken);
        }
        assert!(ever.iter().all(|ever| *ever), "{ever:?}");
        assert_ne!(taken(1), taken(2));
    }
}
