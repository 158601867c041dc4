//! Tests of medians, ratios, invalid runs and the gate.

use super::*;

fn run(side: Side, number: u32, value: f64, other_load: f64) -> SideRun {
    SideRun {
        side,
        number,
        probes: Probes {
            fsync_us: 100.0,
            spawn_us: 500.0,
        },
        other_load,
        void: other_load > VOID_LOAD,
        samples: vec![Sample {
            cell: "32 clients".into(),
            value,
        }],
        kills: Vec::new(),
    }
}

fn report(goal: RatioGoal, runs: Vec<SideRun>) -> WorkloadReport {
    WorkloadReport {
        workload: "registry",
        about: vec!["Words.".into()],
        machine: MachineInfo::of_this_host(std::path::Path::new("/")),
        versions: vec!["argosy 0".into()],
        cells: vec![Cell::new("32 clients", "op/s", goal)],
        runs,
    }
}

#[test]
fn the_ratio_is_that_of_the_medians_and_its_range_that_of_the_runs() {
    let runs = [(100.0, 50.0), (120.0, 40.0), (110.0, 100.0)];
    let runs = (1..).zip(runs).flat_map(|(number, (ours, theirs))| {
        [
            run(Side::Argosy, number, ours, 0.0),
            run(Side::Etcd, number, theirs, 0.0),
        ]
    });
    let ratio = report(RatioGoal::None, runs.collect())
        .ratio("32 clients")
        .unwrap();
    assert_eq!(
        ratio,
        Spread {
            median: 2.2,
            lowest: 1.1,
            highest: 3.0
        }
    );
}

#[test]
fn a_void_run_counts_only_when_no_other_does() {
    let disturbed = run(Side::Argosy, 1, 1.0, 0.9);
    let alone = report(RatioGoal::None, vec![disturbed.clone()]);
    assert_eq!(alone.values("32 clients", Side::Argosy), [1.0]);
    let both = report(
        RatioGoal::None,
        vec![disturbed, run(Side::Argosy, 2, 5.0, 0.1)],
    );
    assert_eq!(both.values("32 clients", Side::Argosy), [5.0]);
    assert!(both.to_string().contains("1 of 2 runs are void"));
}

#[test]
fn a_gate_allows_a_fifth_less_than_the_goal() {
    let of = |ours| {
        vec![
            run(Side::Argosy, 1, ours, 0.0),
            run(Side::Etcd, 1, 100.0, 0.0),
        ]
    };
    assert!(
        report(RatioGoal::AtLeast(2.0), of(161.0))
            .shortfalls()
            .is_empty()
    );
    assert_eq!(
        report(RatioGoal::AtLeast(2.0), of(159.0))
            .shortfalls()
            .len(),
        1
    );
    assert!(
        report(RatioGoal::AtMost(0.5), of(59.0))
            .shortfalls()
            .is_empty()
    );
    assert_eq!(
        report(RatioGoal::AtMost(0.5), of(61.0)).shortfalls().len(),
        1
    );
    assert_eq!(
        report(RatioGoal::OwnAtMost(50.0), of(61.0))
            .shortfalls()
            .len(),
        1
    );
}

#[test]
fn the_peer_is_the_other_measured_side() {
    let runs = vec![
        run(Side::Argosy, 1, 300.0, 0.0),
        run(Side::Hyperqueue, 1, 600.0, 0.0),
    ];
    let report = report(RatioGoal::AtLeast(1.0), runs);
    assert_eq!(
        report.ratio("32 clients").map(|ratio| ratio.median),
        Some(0.5)
    );
    assert!(report.to_string().contains("hyperqueue [lowest-highest]"));
}

#[test]
fn a_table_shows_both_sides_the_ratio_and_the_goal() {
    let runs = vec![
        run(Side::Argosy, 1, 20_000.0, 0.0),
        run(Side::Etcd, 1, 8_000.0, 0.0),
    ];
    let text = report(RatioGoal::AtLeast(2.0), runs).to_string();
    for part in [
        "20,000 [20,000-20,000]",
        "8,000 [8,000-8,000]",
        "2.50 [2.50-2.50] x",
        ">= 2 x",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn numbers_are_short_and_grouped() {
    let texts = [0.0, 0.012, 0.5, 12.34, 123.4, 1_234.0, 1_234_567.0].map(grouped);
    assert_eq!(
        texts,
        [
            "0.00",
            "0.0120",
            "0.50",
            "12.3",
            "123",
            "1,234",
            "1,234,567"
        ]
    );
}

#[test]
fn quantiles_lie_between_the_ends() {
    let values = [4.0, 1.0, 3.0, 2.0];
    assert_eq!(
        (
            quantile(&values, 0.0),
            median(&values),
            quantile(&values, 1.0)
        ),
        (1.0, 2.5, 4.0)
    );
    assert_eq!(median(&[]), 0.0);
}

#[test]
fn a_ratio_without_measurements_is_not_computed() {
    let runs = vec![run(Side::Argosy, 1, 0.0, 0.0), run(Side::Etcd, 1, 0.0, 0.0)];
    let idle = report(RatioGoal::OwnAtMost(0.0), runs);
    assert_eq!(idle.ratio("32 clients"), None);
    assert!(idle.shortfalls().is_empty());
}
