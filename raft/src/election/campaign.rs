//! The schedule by which a node that has detected a dead leader starts elections. Decisions only:
//! no clock, no network.
//!
//! Candidates start by rank, since two that start together split the vote. More than one may start,
//! since the first may lack entries. A newer term is followed by a pause, since a new leader has no
//! acknowledgements yet and would be deposed.

use std::time::{Duration, Instant};

/// The additional delay of each next rank.
const RANK_DELAY: Duration = Duration::from_millis(40);
/// The minimum time between two attempts of one node.
const RETRY: Duration = Duration::from_millis(20);
/// The time that a newer term gets to commit its first entry.
const NEWER_TERM: Duration = Duration::from_millis(40);
/// The maximum random time that is added to each pause, so that two nodes never stay in step.
const JITTER: Duration = Duration::from_millis(15);

/// The knowledge of a node at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TermView {
    /// The newest term that the node has seen.
    pub(crate) term: u64,
    /// The term of the last entry that the node has applied.
    pub(crate) applied_term: u64,
}

/// The next step of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CampaignStep {
    /// Start an election (with a pre-vote), then step again.
    Elect,
    /// Wait until then, or until the view changes.
    WaitUntil(Instant),
    /// Stop: a new leader has committed, or the old one proves to be alive.
    Done,
}

/// One node's attempts to replace one dead leader.
#[derive(Debug)]
pub(crate) struct Campaign {
    dead_term: u64,
    newest_term: u64,
    next: Instant,
    until: Instant,
    random: u64,
}

impl Campaign {
    /// Returns a campaign against the leader of `dead_term`, by the voter of this rank among the
    /// survivors (0 is first). It ends after `timeout`, when the ordinary timeouts elapse anyway.
    pub(crate) fn new(
        dead_term: u64,
        rank: u32,
        seed: u64,
        now: Instant,
        timeout: Duration,
    ) -> Campaign {
        let next = now + RANK_DELAY * rank;
        Campaign {
            dead_term,
            newest_term: dead_term,
            next,
            until: now + timeout,
            random: seed | 1,
        }
    }

    /// Returns what to do now. Called again after each requested election, at the returned time,
    /// and on each change of the view.
    pub(crate) fn step(&mut self, now: Instant, view: TermView) -> CampaignStep {
        if view.applied_term > self.dead_term || now >= self.until {
            return CampaignStep::Done;
        }
        if view.term > self.newest_term {
            // The newer term may be this node's: its candidacy also needs time for its answers.
            self.newest_term = view.term;
            self.next = self.next.max(now + NEWER_TERM + self.jitter());
        }
        if now < self.next {
            return CampaignStep::WaitUntil(self.next.min(self.until));
        }
        self.next = now + RETRY + self.jitter();
        CampaignStep::Elect
    }

    /// xorshift64: enough to spread the nodes.
    fn jitter(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = u64::try_from(JITTER.as_micros()).expect("a few milliseconds");
        Duration::from_micros(self.random % span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);
    const DEAD: TermView = TermView {
        term: 7,
        applied_term: 7,
    };

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn ranks_start_elections_forty_milliseconds_apart() {
        let start = Instant::now();
        for rank in 0..3 {
            let mut campaign = Campaign::new(7, rank, 1, start, TIMEOUT);
            let turn = after(start, 40 * u64::from(rank));
            if rank > 0 {
                assert_eq!(campaign.step(start, DEAD), CampaignStep::WaitUntil(turn));
            }
            assert_eq!(campaign.step(turn, DEAD), CampaignStep::Elect);
        }
    }

    #[test]
    fn an_unanswered_attempt_is_repeated_after_twenty_milliseconds_plus_jitter() {
        let start = Instant::now();
        let mut campaign = Campaign::new(7, 0, 1, start, TIMEOUT);
        assert_eq!(campaign.step(start, DEAD), CampaignStep::Elect);
        let CampaignStep::WaitUntil(next) = campaign.step(start, DEAD) else {
            panic!("no pause after an attempt")
        };
        assert!(next >= after(start, 20) && next <= after(start, 35));
        assert_eq!(campaign.step(next, DEAD), CampaignStep::Elect);
    }

    #[test]
    fn a_campaign_pauses_for_a_newer_term_and_ends_when_its_entry_is_applied() {
        let start = Instant::now();
        let mut campaign = Campaign::new(7, 0, 3, start, TIMEOUT);
        assert_eq!(campaign.step(start, DEAD), CampaignStep::Elect);
        let newer = TermView {
            term: 8,
            applied_term: 7,
        };
        let CampaignStep::WaitUntil(next) = campaign.step(after(start, 1), newer) else {
            panic!("a fresh term was disturbed")
        };
        assert!(next >= after(start, 41) && next <= after(start, 56));
        assert_eq!(campaign.step(next, newer), CampaignStep::Elect);
        assert_eq!(
            campaign.step(
                after(start, 70),
                TermView {
                    term: 8,
                    applied_term: 8
                }
            ),
            CampaignStep::Done
        );
    }

    #[test]
    fn campaigns_of_two_nodes_do_not_stay_synchronized() {
        let start = Instant::now();
        let pauses = |seed| {
            let mut campaign = Campaign::new(7, 0, seed, start, TIMEOUT);
            let mut now = start;
            let mut pauses = Vec::new();
            for term in 8..12 {
                let CampaignStep::WaitUntil(next) = campaign.step(
                    now,
                    TermView {
                        term,
                        applied_term: 7,
                    },
                ) else {
                    panic!("no pause")
                };
                pauses.push(next - now);
                now = next;
                assert_eq!(
                    campaign.step(
                        now,
                        TermView {
                            term,
                            applied_term: 7
                        }
                    ),
                    CampaignStep::Elect
                );
            }
            pauses
        };
        assert_ne!(pauses(11), pauses(12));
    }

    #[test]
    fn a_campaign_ends_when_the_regular_election_timeouts_are_due() {
        let start = Instant::now();
        let mut campaign = Campaign::new(7, 0, 1, start, TIMEOUT);
        assert_eq!(campaign.step(after(start, 1_000), DEAD), CampaignStep::Done);
    }
}
