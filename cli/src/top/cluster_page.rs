//! The page of the cluster: masters, resources by kind, counts.

use std::collections::BTreeSet;

use argosy_proto::v1;
use ratatui::style::Style;

use super::draw::{BOLD, Painter, cell_text, laid_out};
use super::listing::{ColumnSpec, percent, states_text};
use super::state::ClusterState;
use super::sums::Amounts;
use crate::output::{mib, milli, span_ms};

/// Texts of one line: column, width, text, style.
pub(super) type Line = Vec<(usize, usize, String, Style)>;

const MASTERS: &[ColumnSpec] = &[
    ColumnSpec {
        heading: "MASTER",
        rank: 0,
    },
    ColumnSpec {
        heading: "STATE",
        rank: 1,
    },
    ColumnSpec {
        heading: "BEHIND",
        rank: 2,
    },
    ColumnSpec {
        heading: "HEARD",
        rank: 3,
    },
    ColumnSpec {
        heading: "API",
        rank: 4,
    },
];

const RESOURCES: &[ColumnSpec] = &[
    ColumnSpec {
        heading: "RESOURCE",
        rank: 0,
    },
    ColumnSpec {
        heading: "TOTAL",
        rank: 2,
    },
    ColumnSpec {
        heading: "OFFERED",
        rank: 4,
    },
    ColumnSpec {
        heading: "USED",
        rank: 1,
    },
    ColumnSpec {
        heading: "SHARE",
        rank: 3,
    },
];

/// Returns all lines of the page.
pub(super) fn lines(state: &ClusterState, painter: &Painter<'_>) -> Vec<Line> {
    let Some(summary) = &state.summary else {
        let text = "waiting for a summary of the cluster".to_owned();
        return vec![vec![(0, painter.width(), text, Style::new())]];
    };
    let mut all = Vec::new();
    let masters: Vec<_> = summary.masters.iter().map(master_cells).collect();
    all.extend(table(painter, MASTERS, &masters));
    all.push(Line::new());
    all.extend(table(painter, RESOURCES, &resource_rows(state, summary)));
    all.push(Line::new());
    for (name, text) in facts(state, summary) {
        let width = painter.width();
        let value = (16, width.saturating_sub(16), text, Style::new());
        all.push(vec![(0, 15, name.to_owned(), BOLD), value]);
    }
    all
}

fn table(painter: &Painter<'_>, columns: &[ColumnSpec], rows: &[Vec<String>]) -> Vec<Line> {
    let headings: Vec<_> = columns
        .iter()
        .map(|column| column.heading.to_owned())
        .collect();
    let rows = rows
        .iter()
        .map(|cells| cells.iter().cloned().map(cell_text).collect());
    let rows: Vec<Vec<String>> = rows.collect();
    let mut lines = vec![Line::new(); rows.len() + 1];
    for (x, y, room, text, style) in laid_out(painter, columns, &headings, &rows) {
        lines[y].push((x, room, text, style));
    }
    lines
}

fn master_cells(master: &v1::Master) -> Vec<String> {
    let is_leader = master.role == "leader";
    let behind = master.lag.filter(|_| !is_leader);
    let heard = master.last_contact_ms.filter(|_| !is_leader);
    vec![
        master.node_id.clone(),
        master.role.clone(),
        behind.map(|lag| lag.to_string()).unwrap_or_default(),
        heard
            .map(|ms| format!("{} ago", span_ms(ms)))
            .unwrap_or_default(),
        master.api_address.clone(),
    ]
}

fn resource_rows(state: &ClusterState, summary: &v1::Cluster) -> Vec<Vec<String>> {
    let total = Amounts::of(&summary.total);
    let used = Amounts::of(&summary.used);
    let mut kinds: BTreeSet<&str> = total.kinds().chain(used.kinds()).collect();
    kinds.extend(state.offered.iter().flat_map(Amounts::kinds));
    let row = |kind: &str| {
        let format = match kind {
            "mem" | "disk" => mib,
            _ => milli,
        };
        let offered = state
            .offered
            .as_ref()
            .map(|offered| format(offered.get(kind)));
        let share = match total.get(kind) {
            ..=0 => None,
            total => Some(used.get(kind).saturating_mul(1_000) / total),
        };
        vec![
            kind.to_owned(),
            format(total.get(kind)),
            offered.unwrap_or_default(),
            format(used.get(kind)),
            percent(share),
        ]
    };
    kinds.into_iter().map(row).collect()
}

fn facts(state: &ClusterState, summary: &v1::Cluster) -> Vec<(&'static str, String)> {
    let tasks = match states_text(state) {
        text if text.is_empty() => "none".to_owned(),
        text => text,
    };
    let agents = format!(
        "{} ({} unreachable)",
        summary.agents, summary.agents_unreachable
    );
    vec![
        ("cluster", summary.cluster_id.clone()),
        ("feature level", summary.feature_level.to_string()),
        ("agents", agents),
        ("frameworks", summary.frameworks.to_string()),
        ("live tasks", tasks),
        ("open offers", summary.offers.to_string()),
    ]
}
