//! Sets of small integers, one bit for each: the allocator scans them instead of lists of pairs.

/// A set that grows as needed and counts its members.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    pub(super) fn contains(&self, at: u32) -> bool {
        self.words
            .get(at as usize / 64)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, at: u32, member: bool) {
        let (word, bit) = (at as usize / 64, 1_u64 << (at % 64));
        if word >= self.words.len() {
            if !member {
                return;
            }
            self.words.resize(word + 1, 0);
        }
        let former = self.words[word] & bit != 0;
        if member && !former {
            self.words[word] |= bit;
            self.count += 1;
        } else if !member && former {
            self.words[word] &= !bit;
            self.count -= 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.count = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }

    /// Returns the first member from `from` on that is not in `without`, and the number of words
    /// that were scanned.
    pub(super) fn next_without(&self, without: &Self, from: u32) -> (Option<u32>, usize) {
        let first = from as usize / 64;
        let mut mask = u64::MAX << (from % 64);
        for at in first..self.words.len() {
            let word = self.words[at] & !without.word(at) & mask;
            if word != 0 {
                let found = at as u32 * 64 + word.trailing_zeros();
                return (Some(found), at - first + 1);
            }
            mask = u64::MAX;
        }
        (None, self.words.len().saturating_sub(first))
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn next_skips_hidden_members() {
        let (mut all, mut hidden) = (Bits::default(), Bits::default());
        for at in [3, 63, 64, 200] {
            all.set(at, true);
        }
        hidden.set(63, true);
        hidden.set(64, true);
        assert_eq!(all.next_without(&hidden, 0).0, Some(3));
        assert_eq!(all.next_without(&hidden, 4).0, Some(200));
        assert_eq!(all.next_without(&hidden, 201).0, None);
        assert_eq!(all.next_without(&hidden, 10_000), (None, 0));
    }

    #[test]
    fn setting_twice_counts_once() {
        let mut bits = Bits::default();
        bits.set(5, true);
        bits.set(5, true);
        bits.set(500, false);
        assert!(!bits.is_empty() && bits.contains(5));
        bits.set(5, false);
        bits.set(5, false);
        assert!(bits.is_empty());
    }
}
