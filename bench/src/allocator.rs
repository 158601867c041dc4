//! Rounds of the allocator on the state machine alone, without a network: Mesos' grid of agents and
//! frameworks, compared with a naive allocator in the same run.
//!
//! Every agent is offered whole. Times include the opening of offers in the leader's book, and
//! exclude their signing and sending.

mod fixture;
mod naive;

use std::fmt;
use std::time::Instant;

use argosy_master::allocator::TurnBudget;
use serde::Serialize;

use fixture::AllocatorFixture;

/// The extent of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GridExtent {
    /// Up to 20,000 agents; seconds.
    Short,
    /// The whole grid; minutes.
    Long,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct GridPoint {
    agents: u64,
    frameworks: u64,
    roles: u64,
}

/// The times of one point of the grid.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct GridRow {
    size: GridPoint,
    /// A new leader without a cache, until everything is offered.
    cold_ms: f64,
    /// Everything becomes free at the same time under a leader with a full cache; median of
    /// several.
    full_ms: f64,
    /// The longest single turn of all these rounds, where other load on the machine shows first.
    longest_turn_ms: f64,
    /// The round of an idle cluster: everything is offered already.
    idle_ms: f64,
    /// As `full_ms`, while nine of ten pairs are filtered; absent where that is not measured.
    filtered_ms: Option<f64>,
    event_us: EventLatency,
    /// Events, while nine of ten pairs are filtered.
    filtered_event_us: Option<EventLatency>,
    /// The naive allocator on the same cluster, with everything free.
    naive_ms: f64,
    /// Number of agents that the naive allocator was timed on; the time is scaled to all.
    naive_agents: u64,
    /// `full_ms` divided by `naive_ms`.
    ratio: f64,
}

/// The times of one event: an offer is declined and offered to the next framework (decline, filter,
/// decision, new offer).
#[derive(Debug, Clone, Copy, Serialize)]
struct EventLatency {
    p50: f64,
    p99: f64,
}

/// The grid, and its goals.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AllocatorReport {
    workload: &'static str,
    /// Goal for the full round of 20,000 agents and 2,000 frameworks, in milliseconds.
    goal_full_ms: f64,
    /// Goal for the median event, in microseconds.
    goal_event_us: f64,
    rows: Vec<GridRow>,
}

const GRID: [GridPoint; 6] = [
    size(1_000, 100, 1),
    size(5_000, 500, 1),
    size(10_000, 1_000, 1),
    size(20_000, 2_000, 1),
    size(20_000, 2_000, 1_000),
    size(50_000, 6_000, 1),
];

/// Maximum number of filters; a real cluster does not reach more.
const MAX_FILTERS: u64 = 40_000_000;
const EVENTS: u64 = 10_000;
const ROUNDS: usize = 5;

const fn size(agents: u64, frameworks: u64, roles: u64) -> GridPoint {
    GridPoint {
        agents,
        frameworks,
        roles,
    }
}

/// Measures the grid.
pub(crate) fn run(form: GridExtent) -> AllocatorReport {
    let points = match form {
        GridExtent::Short => &GRID[..5],
        GridExtent::Long => &GRID[..],
    };
    let rows = points.iter().map(|size| row(*size, form)).collect();
    AllocatorReport {
        workload: "allocator",
        goal_full_ms: 50.0,
        goal_event_us: 20.0,
        rows,
    }
}

fn row(size: GridPoint, form: GridExtent) -> GridRow {
    let mut fixture = AllocatorFixture::new(size.agents, size.frameworks, size.roles);
    let mut turns = Vec::new();
    let cold_ms = timed(&mut fixture, &mut turns, size.agents);
    let full_ms = full_rounds(&mut fixture, &mut turns, size);
    fixture.next_second();
    let idle_ms = timed(&mut fixture, &mut Vec::new(), 0);
    let event_us = events(&mut fixture);

    let pairs = size.agents * size.frameworks;
    let most = match form {
        GridExtent::Short => MAX_FILTERS / 4,
        GridExtent::Long => MAX_FILTERS,
    };
    let (mut filtered_ms, mut filtered_event_us) = (None, None);
    if pairs / 10 * 9 <= most {
        fixture.filter_nine_of_ten();
        filtered_ms = Some(full_rounds(&mut fixture, &mut turns, size));
        filtered_event_us = Some(events(&mut fixture));
    }
    drop(fixture);
    let naive = naive::round(size.agents, size.frameworks);
    GridRow {
        size,
        cold_ms,
        full_ms,
        longest_turn_ms: turns.into_iter().fold(0.0, f64::max),
        idle_ms,
        filtered_ms,
        event_us,
        filtered_event_us,
        naive_ms: naive.whole_ms,
        naive_agents: naive.agents,
        ratio: full_ms / naive.whole_ms,
    }
}

fn full_rounds(fixture: &mut AllocatorFixture, turns: &mut Vec<f64>, size: GridPoint) -> f64 {
    let mut times = [0.0; ROUNDS];
    for time in &mut times {
        fixture.withdraw_all();
        *time = timed(fixture, turns, size.agents);
    }
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

/// Runs turns until no work is left. They must have made the expected number of offers.
fn timed(fixture: &mut AllocatorFixture, turns: &mut Vec<f64>, expected: u64) -> f64 {
    let mut all = 0.0;
    let mut offers = 0;
    loop {
        let begin = Instant::now();
        let round = fixture.step(TurnBudget::TURN);
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        turns.push(ms);
        all += ms;
        offers += round.offers.len() as u64;
        if !round.more {
            assert_eq!(
                offers, expected,
                "the round has made another number of offers"
            );
            return all;
        }
    }
}

fn events(fixture: &mut AllocatorFixture) -> EventLatency {
    let mut times = Vec::with_capacity(EVENTS as usize);
    for at in 0..EVENTS {
        let offer = fixture.some_offer(at);
        let begin = Instant::now();
        fixture.decline(&offer);
        let round = fixture.step(TurnBudget::TURN);
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        assert!(
            !round.more && round.offers.len() <= 1,
            "an event is one turn"
        );
    }
    times.sort_by(f64::total_cmp);
    EventLatency {
        p50: times[times.len() / 2],
        p99: times[times.len() / 100 * 99],
    }
}

impl AllocatorReport {
    /// Returns what falls short of its goal, as text.
    pub(crate) fn shortfalls(&self) -> Vec<String> {
        let mut all = Vec::new();
        for row in &self.rows {
            let at = format!(
                "allocator {} agents x {} frameworks",
                row.size.agents, row.size.frameworks
            );
            let largest = row.size.agents == 20_000 && row.size.roles == 1;
            if largest && row.cold_ms.max(row.full_ms) > self.goal_full_ms {
                let ms = row.cold_ms.max(row.full_ms);
                all.push(format!(
                    "{at}: a full round takes {ms:.1} ms, the goal is {}",
                    self.goal_full_ms
                ));
            }
            if row.event_us.p50 > self.goal_event_us {
                let us = row.event_us.p50;
                all.push(format!(
                    "{at}: an event takes {us:.1} us, the goal is {}",
                    self.goal_event_us
                ));
            }
            if row.longest_turn_ms > 5.0 {
                let ms = row.longest_turn_ms;
                all.push(format!("{at}: a turn takes {ms:.1} ms, the bound is 5"));
            }
        }
        all
    }
}

impl fmt::Display for AllocatorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>7} {:>6} {:>6} | {:>8} {:>8} {:>8} {:>8} {:>9} | {:>7} {:>7} {:>8} {:>8} | {:>10} {:>7}",
            "agents",
            "fwks",
            "roles",
            "cold ms",
            "full ms",
            "idle ms",
            "turn ms",
            "90 % ms",
            "ev p50",
            "ev p99",
            "90 % p50",
            "90 % p99",
            "naive ms",
            "ratio"
        )?;
        for row in &self.rows {
            let optional =
                |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            let scaled = if row.naive_agents < row.size.agents {
                "~"
            } else {
                ""
            };
            writeln!(
                f,
                "{:>7} {:>6} {:>6} | {:>8.2} {:>8.2} {:>8.3} {:>8.2} {:>9} | {:>7.1} {:>7.1} {:>8} {:>8} | {:>10} {:>7.4}",
                row.size.agents,
                row.size.frameworks,
                row.size.roles,
                row.cold_ms,
                row.full_ms,
                row.idle_ms,
                row.longest_turn_ms,
                optional(row.filtered_ms),
                row.event_us.p50,
                row.event_us.p99,
                optional(row.filtered_event_us.map(|event| event.p50)),
                optional(row.filtered_event_us.map(|event| event.p99)),
                format!("{scaled}{:.0}", row.naive_ms),
                row.ratio
            )?;
        }
        write!(
            f,
            "goals: 20,000 x 2,000 in {} ms, an event in {} us (p50), a turn in 5 ms; events are in us; ~ scaled from fewer agents",
            self.goal_full_ms, self.goal_event_us
        )
    }
}
