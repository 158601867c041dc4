//! The columns of each list, and its order and filter.

use std::cmp::Ordering;

use argosy_proto::v1;

use super::rows::{AgentRow, FrameworkRow, RoleRow, TaskRow};
use super::state::{ClusterState, Usage};
use super::sums::Amounts;
use crate::output::{ago_at, mib, milli, mode_word, natural_order, state_word, task_state};

/// A column of a list.
#[derive(Debug)]
pub(super) struct ColumnSpec {
    pub(super) heading: &'static str,
    /// The order in which columns get their place: that with the highest number is left out first.
    pub(super) rank: u8,
}

const fn column(heading: &'static str, rank: u8) -> ColumnSpec {
    ColumnSpec { heading, rank }
}

/// The settings by which rows are formatted.
pub(super) struct RowContext<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) totals: Amounts,
    pub(super) wall_ms: i64,
}

/// The value by which a row is sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SortKey<'a> {
    Amount(i64),
    Text(&'a str),
}

impl SortKey<'_> {
    /// Compares amounts by value, and texts with the numbers in them by value.
    fn order(&self, other: &SortKey<'_>) -> Ordering {
        match (self, other) {
            (SortKey::Amount(own), SortKey::Amount(others)) => own.cmp(others),
            (SortKey::Text(own), SortKey::Text(others)) => natural_order(own, others),
            (SortKey::Amount(_), SortKey::Text(_)) => Ordering::Less,
            (SortKey::Text(_), SortKey::Amount(_)) => Ordering::Greater,
        }
    }
}

/// A record that is a row of a list.
pub(super) trait ListedRow {
    const COLUMNS: &'static [ColumnSpec];
    /// The column by which the list is sorted at first, and whether in descending order.
    const SORTED: (usize, bool);

    fn cell(&self, column: usize, context: &RowContext<'_>) -> String;

    fn key(&self, column: usize, context: &RowContext<'_>) -> SortKey<'_>;

    /// Returns the texts of which one must contain the filter.
    fn texts(&self) -> Vec<&str>;
}

/// Order and position of a list.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) sort: usize,
    pub(super) descending: bool,
    /// The number of rows above the first visible one.
    pub(super) offset: usize,
    /// The places of the rows that match the filter, in order.
    pub(super) order: Vec<u32>,
}

impl Listing {
    pub(super) fn new<R: ListedRow>() -> Self {
        let (sort, descending) = R::SORTED;
        Self {
            sort,
            descending,
            offset: 0,
            order: Vec::new(),
        }
    }

    /// Selects and sorts the rows again.
    pub(super) fn arrange<'a, R: ListedRow + 'a>(
        &mut self,
        rows: impl Iterator<Item = (u32, &'a R)>,
        filter: &str,
        context: &RowContext<'_>,
    ) {
        let matching = rows.filter(|(_, row)| matches(*row, filter));
        let mut keyed: Vec<_> = matching
            .map(|(place, row)| (row.key(self.sort, context), place))
            .collect();
        keyed.sort_by(|(left, first), (right, second)| {
            let order = left.order(right);
            let order = if self.descending {
                order.reverse()
            } else {
                order
            };
            order.then(first.cmp(second))
        });
        self.order.clear();
        self.order.extend(keyed.into_iter().map(|(_, place)| place));
    }

    /// Keeps the places of rows that still exist.
    pub(super) fn retain(&mut self, exists: impl Fn(u32) -> bool) {
        self.order.retain(|place| exists(*place));
    }

    /// Returns the places of the visible rows, and moves the position if the list has become
    /// shorter.
    pub(super) fn visible(&mut self, height: usize) -> &[u32] {
        let most = self.order.len().saturating_sub(height.max(1));
        self.offset = self.offset.min(most);
        let end = self.order.len().min(self.offset + height);
        &self.order[self.offset..end]
    }
}

/// Returns whether a row contains the filter, which is in lower case.
fn matches<R: ListedRow>(row: &R, filter: &str) -> bool {
    filter.is_empty() || row.texts().iter().any(|text| contains(text, filter))
}

/// Ignores the case of ASCII letters.
fn contains(text: &str, part: &str) -> bool {
    let mut windows = text.as_bytes().windows(part.len().max(1));
    part.is_empty() || windows.any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

/// Formats the used and the whole amount of a kind.
fn used_of(used: &Amounts, total: &Amounts, kind: &str) -> String {
    let format = if kind == "cpus" { milli } else { mib };
    format!("{} of {}", format(used.get(kind)), format(total.get(kind)))
}

/// Formats a share in thousandths.
pub(super) fn percent(share: Option<i64>) -> String {
    let text = |share: i64| format!("{} %", milli(share.saturating_mul(100)));
    share.map_or_else(|| "-".to_owned(), text)
}

fn count(number: u32) -> SortKey<'static> {
    SortKey::Amount(number.into())
}

impl ListedRow for TaskRow {
    const COLUMNS: &'static [ColumnSpec] = &[
        column("TASK", 0),
        column("STATE", 1),
        column("AGENT", 2),
        column("FRAMEWORK", 4),
        column("ROLE", 7),
        column("CPUS", 5),
        column("MEM", 6),
        column("CHANGED", 3),
    ];
    // The newest first.
    const SORTED: (usize, bool) = (7, true);

    fn cell(&self, column: usize, context: &RowContext<'_>) -> String {
        match column {
            0 => self.id.clone(),
            1 => task_state(self.state, Some(&self.results())),
            2 => self.agent.clone(),
            3 => self.framework.clone(),
            4 => self.role.clone(),
            5 => milli(self.amounts.get("cpus")),
            6 => mib(self.amounts.get("mem")),
            _ => ago_at(self.changed_ms, context.wall_ms),
        }
    }

    fn key(&self, column: usize, _: &RowContext<'_>) -> SortKey<'_> {
        match column {
            0 => SortKey::Text(&self.id),
            1 => SortKey::Amount(i64::from(i32::from(self.state))),
            2 => SortKey::Text(&self.agent),
            3 => SortKey::Text(&self.framework),
            4 => SortKey::Text(&self.role),
            5 => SortKey::Amount(self.amounts.get("cpus")),
            6 => SortKey::Amount(self.amounts.get("mem")),
            _ => SortKey::Amount(self.changed_ms),
        }
    }

    fn texts(&self) -> Vec<&str> {
        let state = self.state.as_str_name();
        let state = state.strip_prefix("TASK_STATE_").unwrap_or(state);
        vec![
            self.id.as_str(),
            &self.agent,
            &self.framework,
            &self.role,
            state,
        ]
    }
}

impl TaskRow {
    /// Returns the results of its checks.
    fn results(&self) -> v1::TaskStatus {
        v1::TaskStatus {
            healthy: self.healthy,
            ready: self.ready,
            stopped: self.stopped,
            ..v1::TaskStatus::default()
        }
    }
}

impl ListedRow for AgentRow {
    const COLUMNS: &'static [ColumnSpec] = &[
        column("AGENT", 0),
        column("HOST", 4),
        column("STATE", 1),
        column("TASKS", 2),
        column("CPUS", 3),
        column("MEM", 5),
        column("DISK", 6),
    ];
    const SORTED: (usize, bool) = (0, false);

    fn cell(&self, column: usize, context: &RowContext<'_>) -> String {
        let Usage { tasks, amounts } = context.state.lists.of_agent(&self.id);
        match column {
            0 => self.id.clone(),
            1 => self.host.clone(),
            2 => mode_word(self.mode.into()),
            3 => tasks.to_string(),
            4 => used_of(amounts, &self.total, "cpus"),
            5 => used_of(amounts, &self.total, "mem"),
            _ => used_of(amounts, &self.total, "disk"),
        }
    }

    fn key(&self, column: usize, context: &RowContext<'_>) -> SortKey<'_> {
        let used = || context.state.lists.of_agent(&self.id);
        match column {
            0 => SortKey::Text(&self.id),
            1 => SortKey::Text(&self.host),
            2 => SortKey::Amount(i64::from(i32::from(self.mode))),
            3 => count(used().tasks),
            4 => SortKey::Amount(used().amounts.get("cpus")),
            5 => SortKey::Amount(used().amounts.get("mem")),
            _ => SortKey::Amount(used().amounts.get("disk")),
        }
    }

    fn texts(&self) -> Vec<&str> {
        let mode = self.mode.as_str_name();
        let mode = mode.strip_prefix("AGENT_MODE_").unwrap_or(mode);
        vec![self.id.as_str(), &self.host, mode]
    }
}

impl ListedRow for FrameworkRow {
    const COLUMNS: &'static [ColumnSpec] = &[
        column("FRAMEWORK", 0),
        column("NAME", 2),
        column("STATE", 1),
        column("ROLES", 8),
        column("TASKS", 4),
        column("CPUS", 6),
        column("MEM", 7),
        column("SHARE", 3),
        column("DEMAND", 5),
        column("WAITING", 9),
    ];
    // The largest share first.
    const SORTED: (usize, bool) = (7, true);

    fn cell(&self, column: usize, context: &RowContext<'_>) -> String {
        let Usage { tasks, amounts } = context.state.lists.of_framework(&self.id);
        match column {
            0 => self.id.clone(),
            1 => self.name.clone(),
            2 => self.state.to_owned(),
            3 => self.roles.join(","),
            4 => tasks.to_string(),
            5 => milli(amounts.get("cpus")),
            6 => mib(amounts.get("mem")),
            7 => percent(amounts.dominant_share(&context.totals)),
            8 => self.demand().to_owned(),
            _ => context.state.waiting(&self.id).to_owned(),
        }
    }

    fn key(&self, column: usize, context: &RowContext<'_>) -> SortKey<'_> {
        let used = || context.state.lists.of_framework(&self.id);
        match column {
            0 => SortKey::Text(&self.id),
            1 => SortKey::Text(&self.name),
            2 => SortKey::Text(self.state),
            3 => SortKey::Text(self.roles.first().map_or("", String::as_str)),
            4 => count(used().tasks),
            5 => SortKey::Amount(used().amounts.get("cpus")),
            6 => SortKey::Amount(used().amounts.get("mem")),
            7 => SortKey::Amount(used().amounts.dominant_share(&context.totals).unwrap_or(0)),
            8 => SortKey::Text(self.demand()),
            // Without a reason last.
            _ => count(u32::from(context.state.waiting(&self.id).is_empty())),
        }
    }

    fn texts(&self) -> Vec<&str> {
        let mut texts = vec![self.id.as_str(), &self.name, self.state, self.demand()];
        texts.extend(self.roles.iter().map(String::as_str));
        texts
    }
}

impl ListedRow for RoleRow {
    const COLUMNS: &'static [ColumnSpec] = &[
        column("ROLE", 0),
        column("SHARE", 1),
        column("WEIGHT", 2),
        column("SHARE/WEIGHT", 7),
        column("FRAMEWORKS", 6),
        column("TAKE OFFERS", 8),
        column("TASKS", 3),
        column("CPUS", 4),
        column("MEM", 5),
    ];
    const SORTED: (usize, bool) = (1, true);

    fn cell(&self, column: usize, context: &RowContext<'_>) -> String {
        let share = self.amounts.dominant_share(&context.totals);
        match column {
            0 => self.name.clone(),
            1 => percent(share),
            2 => milli(i64::try_from(self.weight_milli).unwrap_or(i64::MAX)),
            3 => percent(share.map(|share| self.weighted(share))),
            4 => self.frameworks.to_string(),
            5 => self.waiting.to_string(),
            6 => self.tasks.to_string(),
            7 => milli(self.amounts.get("cpus")),
            _ => mib(self.amounts.get("mem")),
        }
    }

    fn key(&self, column: usize, context: &RowContext<'_>) -> SortKey<'_> {
        let share = || self.amounts.dominant_share(&context.totals).unwrap_or(0);
        match column {
            0 => SortKey::Text(&self.name),
            1 => SortKey::Amount(share()),
            2 => SortKey::Amount(i64::try_from(self.weight_milli).unwrap_or(i64::MAX)),
            3 => SortKey::Amount(self.weighted(share())),
            4 => count(self.frameworks),
            5 => count(self.waiting),
            6 => count(self.tasks),
            7 => SortKey::Amount(self.amounts.get("cpus")),
            _ => SortKey::Amount(self.amounts.get("mem")),
        }
    }

    fn texts(&self) -> Vec<&str> {
        vec![self.name.as_str()]
    }
}

impl RoleRow {
    /// Returns the share that the allocator compares: that with the lowest is offered first.
    fn weighted(&self, share: i64) -> i64 {
        let weight = i64::try_from(self.weight_milli).unwrap_or(i64::MAX).max(1);
        share.saturating_mul(1_000) / weight
    }
}

/// Returns the number of live tasks in each state: `9990 running, 10 staging`.
pub(super) fn states_text(state: &ClusterState) -> String {
    let states = state.lists.states();
    let mut states: Vec<_> = states.collect();
    states.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let states = states.into_iter();
    let words = states.map(|(state, count)| format!("{count} {}", state_word(state.into())));
    words.collect::<Vec<_>>().join(", ")
}
