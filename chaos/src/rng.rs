//! Deterministic random numbers: the same seed makes the same choices in the same order.

/// A sequence of choices (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a separate sequence for `purpose`, so that the choices of one purpose do not shift
    /// those of another.
    pub(crate) fn fork(&self, purpose: u64) -> Self {
        let mut fork = Self(self.0 ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        fork.next();
        fork
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// Returns a number from `from` to `to`, both included.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// Returns true with a probability of `percent` in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns one of the elements; `None` if there are none.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.below(from.len() as u64)).ok()?)
    }

    /// Returns one of the elements with a probability by weight; `None` if all weights are 0.
    pub(crate) fn weighted<'a, T>(
        &mut self,
        from: &'a [T],
        weight: impl Fn(&T) -> u64,
    ) -> Option<&'a T> {
        let total: u64 = from.iter().map(&weight).sum();
        let mut left = self.below(total);
        from.iter().find(|item| {
            let own = weight(item);
            if left < own {
                return true;
            }
            left -= own;
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_all_choices_and_seeds_differ() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..50).map(|_| rng.between(3, 9)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|number| (3..=9).contains(number)));
    }

    #[test]
    fn choices_follow_their_weights_and_weight_zero_is_never_chosen() {
        let mut rng = Rng::new(1);
        let kinds = [("often", 9), ("seldom", 1), ("never", 0)];
        let mut often = 0;
        for _ in 0..1_000 {
            let kind = rng.weighted(&kinds, |kind| kind.1).unwrap();
            assert_ne!(kind.0, "never");
            often += u32::from(kind.0 == "often");
        }
        assert!((850..950).contains(&often), "{often}");
        assert_eq!(rng.weighted(&[0, 0], |weight| *weight), None);
    }
}
