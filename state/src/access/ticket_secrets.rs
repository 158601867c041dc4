//! The secrets from which masters without a file of keys derive the keys of tickets.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::ids::Timestamp;

/// The number of secrets: the former, the current and the next one.
const SECRETS: usize = 3;

/// The secrets of tickets. A rotation removes the former one and draws a new one, which signs only
/// after the next rotation. So every agent that has registered since the last rotation accepts what
/// is signed after this one, even if it reaches no master.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecrets {
    /// The secret that signed before the last rotation.
    pub former: [u8; 32],
    /// The secret that signs.
    pub current: [u8; 32],
    /// The secret that will sign after the next rotation.
    pub next: [u8; 32],
    /// The cluster time of the last rotation.
    pub rotated_at: Timestamp,
}

impl TicketSecrets {
    /// The shortest time between two rotations, in milliseconds of cluster time: an agent accepts a
    /// ticket for at most ten minutes and the tolerated difference of two clocks.
    pub const INTERVAL_MS: u64 = 660_000;

    /// Returns the first secrets of a cluster.
    pub(crate) fn first(at: Timestamp, entropy: &[u8; 32]) -> Self {
        let [former, current, next] = [0, 1, 2].map(|number| derived(entropy, at, number));
        Self {
            former,
            current,
            next,
            rotated_at: at,
        }
    }

    /// Rotates the secrets in a new epoch, unless tickets of the former secret may still be valid.
    /// Returns whether it has rotated them.
    pub(crate) fn rotate(&mut self, at: Timestamp, entropy: &[u8; 32]) -> bool {
        if at.since_ms(self.rotated_at) < Self::INTERVAL_MS {
            return false;
        }
        *self = Self {
            former: self.current,
            current: self.next,
            next: derived(entropy, at, 2),
            rotated_at: at,
        };
        true
    }

    /// Returns the secrets that agents accept. The first one signs.
    #[must_use]
    pub fn accepted(&self) -> [&[u8; 32]; SECRETS] {
        [&self.current, &self.next, &self.former]
    }
}

/// Writes no secret.
impl fmt::Debug for TicketSecrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("TicketSecrets");
        shown.field("rotated_at", &self.rotated_at);
        shown.finish_non_exhaustive()
    }
}

/// Derives a secret. The entropy of two epochs is the same if a master opens both in one term, so
/// the time is included.
fn derived(entropy: &[u8; 32], at: Timestamp, number: u8) -> [u8; 32] {
    let at = at.0.to_be_bytes();
    Sha256::digest([&b"ticket secret"[..], &[number], entropy, &at].concat()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_signs_after_the_next_rotation_and_is_accepted_before() {
        let start = Timestamp(5_000);
        let mut secrets = TicketSecrets::first(start, &[1; 32]);
        let first = secrets.clone();
        let soon = start.plus_ms(TicketSecrets::INTERVAL_MS - 1);
        assert!(!secrets.rotate(soon, &[2; 32]), "a ticket may be valid");
        assert_eq!(secrets, first);
        let later = start.plus_ms(TicketSecrets::INTERVAL_MS);
        assert!(secrets.rotate(later, &[2; 32]));
        assert_eq!(
            (secrets.former, secrets.current),
            (first.current, first.next)
        );
        assert!(secrets.accepted().contains(&&first.current));
        assert!(!secrets.rotate(later, &[3; 32]), "the epoch after it");
        assert!(secrets.rotate(later.plus_ms(TicketSecrets::INTERVAL_MS), &[3; 32]));
        assert!(!secrets.accepted().contains(&&first.current));
    }

    #[test]
    fn no_two_secrets_are_equal_and_none_is_shown() {
        let mut secrets = TicketSecrets::first(Timestamp(0), &[1; 32]);
        let first = secrets.clone();
        let mut all = std::collections::BTreeSet::from(first.accepted().map(|secret| *secret));
        // A master may open several epochs in one term, with the same entropy.
        for (rotation, entropy) in [(1, 2), (2, 2), (3, 2), (4, 3)] {
            let at = Timestamp(rotation * TicketSecrets::INTERVAL_MS);
            assert!(secrets.rotate(at, &[entropy; 32]));
            assert!(all.insert(secrets.next), "rotation {rotation}");
        }
        assert_eq!(all.len(), 7);
        let shown = format!("{secrets:?}");
        assert_eq!(
            shown,
            "TicketSecrets { rotated_at: Timestamp(2640000), .. }"
        );
    }
}
