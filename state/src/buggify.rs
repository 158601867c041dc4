//! Test hook: correct but rare behaviour that a simulation makes frequent. Outside a simulation it
//! never occurs on purpose.
//!
//! The idea is FoundationDB's. A batch of one command, a full queue or a link that ends without a
//! reason are all allowed, and code that depends on their rarity is wrong. Outside a simulation
//! each query costs one read of a thread-local variable. The code queries only by
//! [`buggify!`](crate::buggify!), in one line.

use std::cell::Cell;

/// Defines the kinds of rare behaviour by name, each with a description.
macro_rules! rare_choices {
    ($($rare:ident $meaning:literal;)*) => {
        /// A kind of rare behaviour.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rare {
            $(#[doc = $meaning] $rare,)*
        }

        impl Rare {
            /// All kinds, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$rare,)*];
        }
    };
}

rare_choices! {
    OneCommandAnEntry "the leader proposes each command in a separate entry";
    OneEntryAnAppend "a follower is sent one entry at a time";
    ShortTail "the newest entries are read from the disk";
    SmallBlocks "a snapshot is sent in parts of a few hundred bytes";
    LinkFull "the outbox of a link is full: the link ends, and the peer reconnects";
    OneUpdateInFlight "a scheduler is sent one update at a time";
    OneUpdateACommand "updates of an agent are committed one by one";
    OneAgentARound "the allocator processes one agent in a round";
    NotForwarded "a follower does not forward a call, and names the leader";
    OneUpdateAMessage "an agent sends one update in each message";
    OneTaskAChunk "an agent lists one task in each message";
    LateReport "an agent collects updates for 300 ms";
    LinkLost "an agent's link ends immediately after an order was accepted";
    EarlyCompaction "a journal is compacted after a few hundred bytes";
    OneRecordAGroup "a journal is synced after each record";
    SmallSwap "a snapshot replaces the registry a few records at a time";
}

/// Test hook: makes a correct but rare choice, in simulations only.
///
/// - `buggify!(LinkFull)` is true if the rare choice is made now.
/// - `buggify!(OneRecordAGroup, usual, rare)` is the value of one of the two expressions.
/// - `buggify!(LinkLost if condition => return)` is a statement that is executed only then.
#[macro_export]
macro_rules! buggify {
    ($kind:ident) => {
        $crate::buggify::occurs($crate::buggify::Rare::$kind)
    };
    ($kind:ident, $usual:expr, $rare:expr) => {
        if $crate::buggify!($kind) {
            $rare
        } else {
            $usual
        }
    };
    ($kind:ident if $condition:expr => $rare:expr) => {
        if $condition && $crate::buggify!($kind) {
            $rare;
        }
    };
}

/// The probability, in sixteenths, that a simulation enables one kind.
const ENABLED_IN_16: u64 = 4;
/// The probability, in sixteenths, that an enabled kind occurs at an opportunity.
const OCCURS_IN_16: u64 = 4;

thread_local! {
    /// The state of the generator, and one bit for each enabled kind; `None` outside a simulation.
    static CHOICES: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Starts a simulation in this thread. `seed` determines which kinds are enabled and when they
/// occur. Returns the enabled kinds.
pub fn begin(seed: u64) -> Vec<Rare> {
    let mut state = seed;
    let kinds = Rare::ALL.iter().copied();
    let enabled: Vec<Rare> = kinds
        .filter(|_| next(&mut state) % 16 < ENABLED_IN_16)
        .collect();
    let bits = enabled.iter().fold(0, |bits, kind| bits | bit(*kind));
    CHOICES.set(Some((state, bits)));
    enabled
}

/// Ends the simulation in this thread.
pub fn end() {
    CHOICES.set(None);
}

/// Returns whether the rare behaviour occurs now. Outside a simulation it never does.
#[must_use]
pub fn occurs(kind: Rare) -> bool {
    let Some((mut state, taken)) = CHOICES.get() else {
        return false;
    };
    if taken & bit(kind) == 0 {
        return false;
    }
    let number = next(&mut state);
    CHOICES.set(Some((state, taken)));
    number % 16 < OCCURS_IN_16
}

fn bit(kind: Rare) -> u64 {
    1 << (kind as u32)
}

/// SplitMix64 (Steele, Lea and Flood, 2014). Its high bits have the better quality.
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

    fn choices(seed: u64) -> Vec<bool> {
        begin(seed);
        let times = (0..64).flat_map(|_| Rare::ALL.iter().map(|kind| occurs(*kind)));
        let times = times.collect();
        end();
        times
    }

    #[test]
    fn rare_choices_are_never_made_outside_a_simulation() {
        assert!(Rare::ALL.len() < 64);
        for kind in Rare::ALL {
            assert!(!occurs(*kind));
        }
        assert_eq!(buggify!(LinkFull, 1, 2), 1);
        buggify!(LinkLost if true => panic!("a rare choice outside a simulation"));
    }

    #[test]
    fn a_seed_determines_every_choice_and_each_kind_occurs() {
        let count = Rare::ALL.len();
        let mut ever = vec![false; count];
        for seed in 0..40 {
            assert_eq!(choices(seed), choices(seed));
            let at = choices(seed).into_iter().enumerate();
            at.for_each(|(at, is_taken)| ever[at % count] |= is_taken);
        }
        assert!(ever.iter().all(|ever| *ever), "{ever:?}");
        assert_ne!(choices(1), choices(2));
    }
}
