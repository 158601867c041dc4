//! The report as one self-contained HTML page without scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::{Outage, RunReport, quantile};

/// Width of the drawing, in its own units.
const WIDTH: f64 = 1_000.0;
/// Width of the lane names on the left.
const LABELS: f64 = 190.0;
/// Space on the right for the label of the last moment.
const MARGIN: f64 = 20.0;
/// Height of a lane.
const LANE: f64 = 18.0;
/// Height of the curve of tasks.
const CURVE: f64 = 120.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --ground: #ffffff; --line: #d6dde6; --bad: #c62f3b; --good: #1d7f4c; --bar: #4a74c9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #97a4b5; --ground: #12171e; --line: #2c3643; --bad: #ff6b70; --good: #58c98d; --bar: #7fa4ee; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto; max-width: 1220px; padding: 24px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 32px 0 8px; }
p.sub { color: var(--soft); margin: 4px 0 20px; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; }
.fact { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 110px; }
.fact b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; } .fact span { color: var(--soft); font-size: 13px; }
.bad { color: var(--bad); } .good { color: var(--good); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); } th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; } .columns { display: flex; flex-wrap: wrap; gap: 48px; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font-size: 11px; } svg .soft { fill: var(--soft); }
.scroll { overflow-x: auto; } .scroll svg { min-width: 760px; }
pre { white-space: pre-wrap; border-left: 3px solid var(--bad); padding-left: 12px; }
";

/// Colours of masters, in the order in which they led.
const COLOURS: [&str; 6] = [
    "#4a74c9", "#d08a2e", "#3f9a6d", "#a65cc2", "#c2596b", "#5a96a8",
];

/// Returns the whole page.
pub(crate) fn page(report: &RunReport) -> String {
    let mut text = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>argosy-chaos</title><style>",
    );
    text.push_str(STYLE);
    text.push_str("</style></head><body>\n");
    head(&mut text, report);
    text.push_str("<h2>What happened when</h2>\n<div class=\"scroll\">\n");
    timeline(&mut text, report);
    text.push_str("</div>\n<div class=\"columns\">\n");
    operations(&mut text, report);
    faults(&mut text, report);
    text.push_str("</div>\n");
    outages(&mut text, report);
    violations(&mut text, report);
    text.push_str("</body></html>\n");
    text
}

fn head(text: &mut String, report: &RunReport) {
    let result = match report.exit_code() {
        0 => "<span class=\"good\">Offers and tasks survived</span>",
        1 => "<span class=\"bad\">Something was lost or done twice</span>",
        _ => "<span class=\"bad\">The run proves too little</span>",
    };
    let _ = write!(
        text,
        "<h1>{result}</h1>\n<p class=\"sub\">{} &middot; {} masters x agents &middot; {} &middot; seed {} &middot; {} s{}</p>\n<div class=\"facts\">\n",
        escape(&report.version),
        escape(&report.size),
        report.transport(),
        report.seed,
        report.seconds,
        if report.interrupted {
            " &middot; interrupted"
        } else {
            ""
        }
    );
    let facts = [
        ("operations answered", report.answered()),
        ("faults", report.done().values().sum()),
        ("kinds of faults", report.done().len() as u64),
        ("changes of leader", report.leader_changes()),
        ("starts signed by tasks", report.witnessed),
        ("violations", report.violations.len() as u64),
    ];
    for (name, value) in facts {
        let class = if name == "violations" && value > 0 {
            " class=\"bad\""
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "<div class=\"fact\"><b{class}>{value}</b><span>{name}</span></div>"
        );
    }
    text.push_str("</div>\n");
}

/// The horizontal scale of the drawing.
struct TimeScale {
    from_ns: u64,
    to_ns: u64,
}

impl TimeScale {
    fn x(&self, time_ns: u64) -> f64 {
        let span = self.to_ns.saturating_sub(self.from_ns).max(1) as f64;
        let time = time_ns.clamp(self.from_ns, self.to_ns) - self.from_ns;
        LABELS + time as f64 / span * (WIDTH - LABELS - MARGIN)
    }

    fn bar(&self, text: &mut String, y: f64, span: (u64, u64), fill: &str, title: &str) {
        let (from, to) = (self.x(span.0), self.x(span.1));
        let _ = writeln!(
            text,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" fill=\"{fill}\"><title>{}</title></rect>",
            y + 3.0,
            (to - from).max(2.0),
            LANE - 6.0,
            escape(title)
        );
    }
}

fn label(text: &mut String, y: f64, name: &str) {
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        LABELS - 10.0,
        y + LANE - 6.0,
        escape(name)
    );
}

fn timeline(text: &mut String, report: &RunReport) {
    let (from_ns, to_ns) = report.faults_ns;
    let scale = TimeScale { from_ns, to_ns };
    let mut lanes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, line) in report.faults.iter().enumerate() {
        if line.failure.is_none() {
            lanes.entry(&line.fault).or_default().push(position);
        }
    }
    let height = (lanes.len() + 3) as f64 * LANE + CURVE + 50.0;
    let _ = writeln!(
        text,
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"faults, leader, availability and tasks over time\">"
    );
    let mut y = 4.0;
    label(text, y, "leader");
    leaders(text, report, &scale, y);
    y += LANE;
    label(text, y, "no write answered");
    for outage in &report.outages {
        let title = format!("{} ms", outage.ms());
        scale.bar(
            text,
            y,
            (outage.from_ns, outage.to_ns),
            "var(--bad)",
            &title,
        );
    }
    y += LANE * 1.4;
    for (fault, lines) in lanes {
        label(text, y, fault);
        for line in lines
            .into_iter()
            .filter_map(|position| report.faults.get(position))
        {
            let end = line.ended_ns.unwrap_or(to_ns);
            let title = format!("{}: {}", line.fault, line.target);
            scale.bar(text, y, (line.begun_ns, end), "var(--bar)", &title);
        }
        y += LANE;
    }
    curve(text, report, &scale, y + 8.0);
    axis(text, &scale, y + CURVE + 24.0);
    text.push_str("</svg>\n");
}

fn leaders(text: &mut String, report: &RunReport, scale: &TimeScale, y: f64) {
    let mut order: Vec<&str> = Vec::new();
    let mut epoch_records: Vec<_> = report.epoch_records.iter().collect();
    epoch_records.sort_by_key(|epoch_record| epoch_record.seen_ns);
    for (position, epoch_record) in epoch_records.iter().enumerate() {
        let place = order
            .iter()
            .position(|name| *name == epoch_record.leader)
            .unwrap_or_else(|| {
                order.push(&epoch_record.leader);
                order.len() - 1
            });
        let end = epoch_records
            .get(position + 1)
            .map_or(scale.to_ns, |next| next.seen_ns);
        let title = format!("{}, epoch {}", epoch_record.leader, epoch_record.epoch);
        let span = (epoch_record.seen_ns, end);
        scale.bar(text, y, span, COLOURS[place % COLOURS.len()], &title);
    }
}

fn curve(text: &mut String, report: &RunReport, scale: &TimeScale, y: f64) {
    let most = report
        .tasks
        .iter()
        .map(|count| count.launched)
        .max()
        .unwrap_or(1)
        .max(1);
    label(text, y, &format!("tasks (to {most})"));
    for (name, colour, ended) in [("launched", COLOURS[0], false), ("ended", COLOURS[2], true)] {
        let points = report.tasks.iter().map(|count| {
            let value = if ended { count.ended } else { count.launched };
            let height = value as f64 / most as f64 * CURVE;
            format!("{:.1},{:.1}", scale.x(count.time_ns), y + CURVE - height)
        });
        let points: Vec<String> = points.collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"><title>{name}</title></polyline>",
            points.join(" ")
        );
    }
}

fn axis(text: &mut String, scale: &TimeScale, y: f64) {
    let seconds = scale.to_ns.saturating_sub(scale.from_ns) / 1_000_000_000;
    let step = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600]
        .into_iter()
        .find(|step| seconds / step <= 12)
        .unwrap_or(7_200);
    for second in (0..=seconds).step_by(usize::try_from(step).unwrap_or(60)) {
        let x = scale.x(scale.from_ns + second * 1_000_000_000);
        let _ = writeln!(
            text,
            "<text class=\"soft\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{second} s</text>"
        );
    }
}

fn operations(text: &mut String, report: &RunReport) {
    text.push_str("<div><h2>Operations</h2>\n<table><tr><th></th><th>ok</th><th>failed</th><th>unknown</th></tr>\n");
    for (kind, count) in &report.operations {
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(kind),
            count.ok,
            count.failed,
            count.unknown
        );
    }
    text.push_str("</table></div>\n");
}

fn faults(text: &mut String, report: &RunReport) {
    text.push_str("<div><h2>Faults</h2>\n<table>\n");
    for (fault, count) in report.done() {
        let _ = writeln!(text, "<tr><td>{}</td><td>{count}</td></tr>", escape(fault));
    }
    text.push_str("</table></div>\n");
}

fn outages(text: &mut String, report: &RunReport) {
    let mut gaps: Vec<u64> = report.outages.iter().map(Outage::ms).collect();
    gaps.sort_unstable();
    let _ = writeln!(
        text,
        "<h2>Outages</h2>\n<p>{} times no write was answered for over {} ms: p50 {} ms, p99 {} ms, longest {} ms.</p>",
        gaps.len(),
        super::report::OUTAGE_MS,
        quantile(&gaps, 50),
        quantile(&gaps, 99),
        gaps.last().copied().unwrap_or_default()
    );
}

fn violations(text: &mut String, report: &RunReport) {
    let _ = writeln!(
        text,
        "<h2>Violations</h2>\n<p>{} rules were checked: {}.</p>",
        report.decisive_checks().len(),
        escape(&report.decisive_checks().join(", "))
    );
    for violation in &report.violations {
        let _ = writeln!(
            text,
            "<pre><b>{}</b> {}</pre>",
            escape(&violation.checker),
            escape(&violation.what)
        );
    }
    for reason in &report.too_little {
        let _ = writeln!(text, "<pre>{}</pre>", escape(reason));
    }
}

/// Escapes a text for HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::report::{EpochRecord, FaultLine, ReportedViolation, TaskCount};

    #[test]
    fn the_page_shows_every_lane_and_has_no_external_content() {
        let report = RunReport {
            faults_ns: (1_000_000_000, 61_000_000_000),
            faults: vec![FaultLine {
                fault: "kill-leader".to_owned(),
                target: "master-1".to_owned(),
                begun_ns: 5_000_000_000,
                ended_ns: Some(6_000_000_000),
                failure: None,
            }],
            epoch_records: vec![EpochRecord {
                epoch: 3,
                leader: "master-1".to_owned(),
                seen_ns: 1,
            }],
            tasks: vec![TaskCount {
                time_ns: 2_000_000_000,
                launched: 5,
                ended: 1,
            }],
            violations: vec![ReportedViolation {
                checker: "SingleStart".to_owned(),
                what: "<script>alert(1)</script>".to_owned(),
                time_ns: None,
            }],
            ..RunReport::default()
        };
        let page = page(&report);
        for part in ["kill-leader", "master-1, epoch 3", "60 s", "polyline"] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<script"),
            "hostile text"
        );
        assert!(!page.contains("http://") && !page.contains("https://"));
    }
}
