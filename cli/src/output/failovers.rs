//! Changes of leader as text: one as a sentence, many as a table.

use argosy_proto::v1;
use serde::Serialize;

use super::amounts::{ago_at, span_ms};
use super::table::Row;
use super::timeline::utc;

/// A change of leader.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct ShownFailover(v1::Failover);

impl ShownFailover {
    /// Returns those that a master lists, oldest first.
    pub(crate) fn of(cluster: &v1::Cluster) -> Vec<Self> {
        cluster.failovers.iter().cloned().map(Self).collect()
    }

    /// Returns whether another epoch was before it, as far as is known.
    pub(crate) fn is_failover(&self) -> bool {
        self.0.kind() != v1::FailoverKind::FirstElection
    }

    /// Returns the time of the first phase that is known, in milliseconds of the Unix epoch.
    fn began_ms(&self) -> i64 {
        let all = [
            self.0.dead_seen_ms,
            self.0.elected_ms,
            self.0.first_commit_ms,
        ];
        all.into_iter().find(|ms| *ms > 0).unwrap_or(0)
    }

    /// Returns the time from the beginning to a phase, in milliseconds.
    fn until(&self, phase_ms: i64) -> Option<u64> {
        let passed = phase_ms.checked_sub(self.began_ms())?;
        let is_known = phase_ms > 0 && self.began_ms() > 0;
        u64::try_from(passed).ok().filter(|_| is_known)
    }

    fn cause(&self) -> &'static str {
        use v1::FailoverKind as K;
        match self.0.kind() {
            K::FirstElection => "first election",
            K::Resumed => "leader resumed",
            K::Election | K::Unspecified if self.0.dead_seen_ms > 0 => "leader found dead",
            K::Election | K::Unspecified => "election",
        }
    }

    /// Returns `4 min ago from master-1 to master-2, epoch 7; first commit 22 ms after leader found
    /// dead`.
    pub(crate) fn sentence(&self, now_ms: i64) -> String {
        let to = match (self.0.former_leader.as_str(), self.0.leader.as_str()) {
            // Release 0.1 names none.
            (_, "") => String::new(),
            ("", leader) => format!("to {leader}"),
            (former, leader) if former == leader => format!("to {leader} again"),
            (former, leader) => format!("from {former} to {leader}"),
        };
        let when = [ago_at(self.began_ms(), now_ms), to];
        let when: Vec<_> = when.into_iter().filter(|part| !part.is_empty()).collect();
        let epoch = format!("epoch {}", self.0.epoch);
        let subject = match when.is_empty() {
            true => epoch,
            false => format!("{}, {epoch}", when.join(" ")),
        };
        match self.until(self.0.first_commit_ms) {
            // There was no election from which the time could be counted.
            _ if self.0.kind() == v1::FailoverKind::Resumed => format!("{subject}; it resumed"),
            Some(ms) => format!(
                "{subject}; first commit {} after {}",
                span_ms(ms),
                self.cause()
            ),
            None => subject,
        }
    }
}

impl Row for ShownFailover {
    const HEADINGS: &'static [&'static str] = &[
        "EPOCH", "LEADER", "FORMER", "BEGAN", "CAUSE", "ELECTED", "COMMIT", "OFFER", "LAUNCH",
    ];
    const WIDE: &'static [&'static str] = &["LEADER ADDRESS", "FORMER ADDRESS"];

    fn cells(&self) -> Vec<String> {
        let v1::Failover {
            elected_ms,
            first_commit_ms,
            first_offer_ms,
            first_launch_ms,
            ..
        } = self.0;
        let after = |phase_ms: i64| self.until(phase_ms).map(span_ms).unwrap_or_default();
        vec![
            self.0.epoch.to_string(),
            self.0.leader.clone(),
            self.0.former_leader.clone(),
            match self.began_ms() {
                0 => String::new(),
                began => utc(began),
            },
            self.cause().to_owned(),
            after(elected_ms),
            after(first_commit_ms),
            after(first_offer_ms),
            after(first_launch_ms),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![
            self.0.leader_address.clone(),
            self.0.former_leader_address.clone(),
        ]
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        let phase = match heading {
            "EPOCH" => return i64::try_from(self.0.epoch).ok(),
            "BEGAN" => return Some(self.began_ms()),
            "ELECTED" => self.0.elected_ms,
            "COMMIT" => self.0.first_commit_ms,
            "OFFER" => self.0.first_offer_ms,
            "LAUNCH" => self.0.first_launch_ms,
            _ => return None,
        };
        self.until(phase).and_then(|ms| i64::try_from(ms).ok())
    }

    fn name(&self) -> String {
        self.0.epoch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::colour::Palette;
    use super::super::layout::ListLayout;
    use super::super::table::table;
    use super::*;
    use crate::args::Format;

    fn cluster(failovers: Vec<v1::Failover>) -> v1::Cluster {
        v1::Cluster {
            failovers,
            ..v1::Cluster::default()
        }
    }

    fn failover(kind: v1::FailoverKind, dead_seen_ms: i64, elected_ms: i64) -> v1::Failover {
        v1::Failover {
            epoch: 7,
            dead_seen_ms,
            elected_ms,
            first_commit_ms: elected_ms + 12,
            leader: "master-2".to_owned(),
            former_leader: "master-1".to_owned(),
            kind: kind.into(),
            ..v1::Failover::default()
        }
    }

    use v1::FailoverKind::{Election, FirstElection, Resumed, Unspecified};

    #[test]
    fn the_first_election_is_no_failover() {
        let shown = |kind| ShownFailover(failover(kind, 0, 1_000));
        assert!(!shown(FirstElection).is_failover());
        for kind in [Election, Resumed, Unspecified] {
            assert!(shown(kind).is_failover(), "{kind:?}");
        }
    }

    #[test]
    fn a_failover_differs_from_an_election_and_names_the_leaders() {
        let sentence = |failover: v1::Failover| ShownFailover(failover).sentence(241_000);
        assert_eq!(
            sentence(failover(Election, 1_000, 1_010)),
            "4 min ago from master-1 to master-2, epoch 7; first commit 22 ms after leader found dead"
        );
        let transfer = failover(Election, 0, 1_010);
        assert_eq!(
            sentence(transfer.clone()),
            "3 min ago from master-1 to master-2, epoch 7; first commit 12 ms after election"
        );
        let again = v1::Failover {
            former_leader: "master-2".to_owned(),
            elected_ms: 0,
            kind: Resumed.into(),
            ..transfer
        };
        assert_eq!(
            sentence(again),
            "3 min ago to master-2 again, epoch 7; it resumed"
        );
        let unknown = v1::Failover {
            epoch: 7,
            ..v1::Failover::default()
        };
        assert_eq!(sentence(unknown), "epoch 7");
    }

    #[test]
    fn a_table_has_times_of_the_day_and_spans() {
        let start = 1_795_748_645_678;
        let first = v1::Failover {
            epoch: 1,
            former_leader: String::new(),
            ..failover(FirstElection, 0, start)
        };
        let lost = v1::Failover {
            first_offer_ms: start + 3_600_046,
            ..failover(Election, start + 3_600_000, start + 3_600_010)
        };
        let shown = ShownFailover::of(&cluster(vec![first, lost]));
        let layout = ListLayout::plain::<ShownFailover>(Format::Table);
        expect![[r#"
            EPOCH  LEADER    FORMER    BEGAN                     CAUSE              ELECTED  COMMIT  OFFER  LAUNCH
            1      master-2  -         2026-11-27 03:04:05.678Z  first election     0 ms     12 ms   -      -
            7      master-2  master-1  2026-11-27 04:04:05.678Z  leader found dead  10 ms    22 ms   46 ms  -
        "#]]
        .assert_eq(&table(&shown, layout.columns(), Palette::PLAIN));
        // Clocks of masters may go back.
        let back = v1::Failover {
            first_commit_ms: 500,
            ..failover(Election, 1_000, 900)
        };
        let shown = ShownFailover::of(&cluster(vec![back]));
        assert_eq!(shown[0].cells()[5..7], ["", ""]);
    }
}
