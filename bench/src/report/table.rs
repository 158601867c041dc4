//! A report as text with padded columns, without a verdict.

use std::fmt;

use super::{RatioGoal, Side, SideRun, Spread, VOID_LOAD, WorkloadReport, grouped};

pub(super) fn write(report: &WorkloadReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}: {}", report.workload, report.machine.line())?;
    writeln!(f, "{}", report.versions.join("; "))?;
    for line in &report.about {
        writeln!(f, "  {line}")?;
    }
    writeln!(f)?;
    write_rows(&figures(report), f)?;
    writeln!(f)?;
    write_rows(&runs(report), f)?;
    let kills = kills(report);
    if kills.len() > 1 {
        writeln!(f)?;
        write_rows(&kills, f)?;
    }
    let void = report.runs.iter().filter(|run| run.void).count();
    if void > 0 {
        writeln!(
            f,
            "\n{void} of {} runs are void: more than {VOID_LOAD} cores were busy with something else",
            report.runs.len()
        )?;
    }
    Ok(())
}

fn figures(report: &WorkloadReport) -> Vec<Vec<String>> {
    let peer = report.peer().unwrap_or(Side::Etcd);
    let theirs = format!("{peer} [lowest-highest]");
    let head = [
        "",
        "unit",
        "argosy [lowest-highest]",
        &theirs,
        "ratio [runs]",
        "goal",
        "",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for cell in &report.cells {
        let side = |side| {
            Spread::of(&report.values(&cell.name, side)).map_or_else(|| "-".to_owned(), text)
        };
        let (argosy, theirs) = (side(Side::Argosy), side(peer));
        if argosy == "-" && theirs == "-" {
            continue;
        }
        let ratio = report
            .ratio(&cell.name)
            .map_or_else(|| "-".to_owned(), |spread| format!("{} x", text(spread)));
        let goal = match cell.goal {
            RatioGoal::None => String::new(),
            RatioGoal::AtLeast(bound) => format!(">= {bound} x"),
            RatioGoal::AtMost(bound) => format!("<= {bound} x"),
            RatioGoal::OwnAtMost(bound) => format!("<= {}", grouped(bound)),
        };
        let quoted = cell.quoted.unwrap_or_default().to_owned();
        rows.push(vec![
            cell.name.clone(),
            cell.unit.to_owned(),
            argosy,
            theirs,
            ratio,
            goal,
            quoted,
        ]);
    }
    rows
}

fn runs(report: &WorkloadReport) -> Vec<Vec<String>> {
    let head = ["run", "fsync us", "spawn us", "other load", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let row = |run: &SideRun| {
        vec![
            format!("{} {}", run.side, run.number),
            grouped(run.probes.fsync_us),
            grouped(run.probes.spawn_us),
            format!("{:.2}", run.other_load),
            if run.void { "void" } else { "" }.to_owned(),
        ]
    };
    rows.extend(report.runs.iter().map(row));
    rows
}

fn kills(report: &WorkloadReport) -> Vec<Vec<String>> {
    let head = [
        "kill",
        "load",
        "leader",
        "before ns",
        "dead seen",
        "elected",
        "first commit",
        "first offer",
        "first launch",
        "gap ms",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for run in &report.runs {
        for kill in &run.kills {
            let phase =
                |phase: Option<i64>| phase.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
            let phases = kill.phases.as_ref();
            rows.push(vec![
                format!("{} {} {}", run.side, run.number, kill.signal),
                kill.load.to_owned(),
                kill.leader_pid.to_string(),
                kill.before_ns.to_string(),
                phase(phases.and_then(|phases| phases.dead_seen_ms)),
                phase(phases.and_then(|phases| phases.elected_ms)),
                phase(phases.and_then(|phases| phases.first_commit_ms)),
                phase(phases.and_then(|phases| phases.first_offer_ms)),
                phase(phases.and_then(|phases| phases.first_launch_ms)),
                format!("{:.1}", kill.gap_ms),
            ]);
        }
    }
    rows
}

fn text(spread: Spread) -> String {
    format!(
        "{} [{}-{}]",
        grouped(spread.median),
        grouped(spread.lowest),
        grouped(spread.highest)
    )
}

/// Aligns the first column to the left, the others to the right, and leaves the last one as it is.
fn write_rows(rows: &[Vec<String>], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let width = widths[column];
            if column == 0 {
                line.push_str(&format!("  {text:<width$}"));
            } else if column + 1 == columns {
                line.push_str(&format!("  {text}"));
            } else {
                line.push_str(&format!("  {text:>width$}"));
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
