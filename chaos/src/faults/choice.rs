//! The choice of the next fault, from a table of faults with weights.
//!
//! Recorded seeds depend on the order of the random draws here. It must not change.

use std::time::Duration;

use crate::rng::Rng;

/// A fault with its weight in a random choice.
pub(crate) type WeightedFault<F> = (F, u64);

fn choose<F: Copy>(faults: &[WeightedFault<F>], rng: &mut Rng) -> Option<F> {
    rng.weighted(faults, |(_, weight)| *weight)
        .map(|(fault, _)| *fault)
}

/// The faults of a simulation: when each of them begins, and which one it is.
#[derive(Debug, Clone)]
pub(crate) struct FaultSchedule<F: 'static> {
    faults: &'static [WeightedFault<F>],
    next: Duration,
    /// The shortest and the longest time between two faults, in milliseconds.
    pause_ms: (u64, u64),
}

impl<F: Copy> FaultSchedule<F> {
    /// Creates a schedule whose first fault begins at `first`. Some weight must be positive.
    pub(crate) fn new(
        faults: &'static [WeightedFault<F>],
        first: Duration,
        pause_ms: (u64, u64),
    ) -> Self {
        Self {
            faults,
            next: first,
            pause_ms,
        }
    }

    /// Returns the fault that begins now, if one is due.
    pub(crate) fn due(&mut self, now: Duration, rng: &mut Rng) -> Option<F> {
        if now < self.next {
            return None;
        }
        let (shortest, longest) = self.pause_ms;
        self.next = now + Duration::from_millis(rng.between(shortest, longest));
        choose(self.faults, rng)
    }
}

/// A random sequence of faults, in which each comes once before any is repeated.
#[derive(Debug, Clone)]
pub(crate) struct FaultMix<F> {
    allowed: Vec<WeightedFault<F>>,
    /// The faults that have not come yet, the next one last.
    pending: Vec<F>,
}

impl<F: Copy + PartialEq> FaultMix<F> {
    pub(crate) fn new(allowed: Vec<WeightedFault<F>>, rng: &mut Rng) -> Self {
        let mut left = allowed.clone();
        let mut pending = Vec::new();
        while let Some(fault) = choose(&left, rng) {
            left.retain(|(other, _)| *other != fault);
            pending.push(fault);
        }
        pending.reverse();
        Self { allowed, pending }
    }

    pub(crate) fn next(&mut self, rng: &mut Rng) -> Option<F> {
        self.pending.pop().or_else(|| choose(&self.allowed, rng))
    }

    /// Returns a fault that was not possible now. It comes after all others that have not come yet.
    pub(crate) fn put_back(&mut self, fault: F) {
        self.pending.insert(0, fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULTS: [WeightedFault<&str>; 3] = [("kill", 5), ("cut", 3), ("stall", 1)];

    fn mix(rng: &mut Rng) -> FaultMix<&'static str> {
        FaultMix::new(FAULTS.to_vec(), rng)
    }

    /// The values of the harnesses before this file was shared: recorded seeds replay.
    #[test]
    fn a_seed_makes_the_same_choices_as_ever() {
        let mut rng = Rng::new(7);
        let first = Duration::from_secs(2);
        let mut schedule = FaultSchedule::new(&FAULTS, first, (50, 1_500));
        let begun = (0..=5_516).filter_map(|ms| {
            let fault = schedule.due(Duration::from_millis(ms), &mut rng)?;
            Some((ms, fault))
        });
        let expected = [
            (2_000, "cut"),
            (2_944, "cut"),
            (3_488, "kill"),
            (4_523, "kill"),
            (5_516, "cut"),
        ];
        assert_eq!(begun.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_fault_is_chosen_once_before_any_is_repeated() {
        let mut rng = Rng::new(3);
        let mut mix = mix(&mut rng);
        let mut seen: Vec<_> = FAULTS.map(|_| mix.next(&mut rng).unwrap()).into();
        seen.sort_unstable();
        assert_eq!(seen, ["cut", "kill", "stall"]);
        assert!(mix.next(&mut rng).is_some());
    }

    #[test]
    fn an_impossible_fault_is_retried_after_the_others() {
        let mut rng = Rng::new(3);
        let mut mix = mix(&mut rng);
        let first = mix.next(&mut rng).unwrap();
        mix.put_back(first);
        assert!((0..2).all(|_| mix.next(&mut rng) != Some(first)));
        assert_eq!(mix.next(&mut rng), Some(first));
    }
}
