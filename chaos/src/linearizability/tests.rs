//! Tests with known histories, good and bad, and with small random ones against a search of all
//! orders.

use proptest::prelude::*;

use super::*;

const STEPS: Budget = Budget::Steps(1_000_000);

fn call<'a>(begun: usize, ended: usize, action: RegisterOp<'a>) -> RegisterCall<'a> {
    RegisterCall {
        start: begun,
        end: Some(ended),
        action,
    }
}

fn open<'a>(begun: usize, action: RegisterOp<'a>) -> RegisterCall<'a> {
    RegisterCall {
        start: begun,
        end: None,
        action,
    }
}

fn read(value: &str) -> RegisterOp<'_> {
    RegisterOp::Read(Some(value))
}

fn write(value: &str) -> RegisterOp<'_> {
    RegisterOp::Write(Some(value))
}

fn swap<'a>(expected: &'a str, value: &'a str, swapped: Option<bool>) -> RegisterOp<'a> {
    RegisterOp::Swap {
        expected: Some(expected),
        value: Some(value),
        swapped,
    }
}

#[track_caller]
fn good(calls: &[RegisterCall<'_>]) {
    assert_eq!(search(calls, STEPS), SearchOutcome::Linearizable);
}

#[track_caller]
fn bad(calls: &[RegisterCall<'_>], stuck: usize) {
    assert_eq!(search(calls, STEPS), SearchOutcome::Impossible { stuck });
}

#[test]
fn empty_and_sequential_histories_are_linearizable() {
    good(&[]);
    good(&[
        call(0, 1, RegisterOp::Read(None)),
        call(2, 3, write("a")),
        call(4, 5, read("a")),
        call(6, 7, swap("a", "b", Some(true))),
        call(8, 9, swap("a", "c", Some(false))),
        call(10, 11, RegisterOp::Write(None)),
        call(12, 13, RegisterOp::Read(None)),
    ]);
}

#[test]
fn a_concurrent_read_may_return_either_value() {
    good(&[
        call(0, 1, write("a")),
        call(2, 9, write("b")),
        call(3, 4, read("a")),
        call(5, 6, read("b")),
    ]);
}

#[test]
fn a_read_of_an_overwritten_value_is_impossible() {
    bad(
        &[
            call(0, 1, write("a")),
            call(2, 9, write("b")),
            call(3, 4, read("b")),
            call(5, 6, read("a")),
        ],
        3,
    );
}

#[test]
fn a_stale_read_and_a_lost_write_are_impossible() {
    bad(
        &[
            call(0, 1, write("a")),
            call(2, 3, write("b")),
            call(4, 5, read("a")),
        ],
        2,
    );
    bad(
        &[call(0, 1, write("a")), call(2, 3, RegisterOp::Read(None))],
        1,
    );
}

#[test]
fn an_unwritten_value_is_impossible() {
    bad(&[call(0, 1, write("a")), call(2, 3, read("z"))], 1);
}

#[test]
fn two_swaps_from_one_value_are_impossible() {
    bad(
        &[
            call(0, 1, write("a")),
            call(2, 7, swap("a", "b", Some(true))),
            call(3, 6, swap("a", "c", Some(true))),
        ],
        1,
    );
}

#[test]
fn an_open_write_takes_effect_at_most_once() {
    let begun = [call(0, 1, write("a")), open(2, write("b"))];
    good(&[begun[0], begun[1], call(3, 4, read("a"))]);
    good(&[begun[0], begun[1], call(3, 4, read("b"))]);
    good(&[
        begun[0],
        begun[1],
        call(3, 4, read("a")),
        call(5, 6, read("b")),
    ]);
    bad(
        &[
            begun[0],
            begun[1],
            call(3, 4, read("b")),
            call(5, 6, read("a")),
        ],
        3,
    );
    bad(
        &[
            begun[0],
            begun[1],
            call(3, 4, read("b")),
            call(5, 6, write("c")),
            call(7, 8, read("b")),
        ],
        4,
    );
}

#[test]
fn a_swap_with_an_unknown_outcome_can_explain_another_that_failed() {
    let calls = [
        call(0, 1, write("a")),
        open(2, swap("a", "b", None)),
        call(3, 4, swap("a", "c", Some(false))),
    ];
    good(&calls);
    bad(&[calls[0], calls[2]], 1);
}

#[test]
fn an_exhausted_budget_is_undecided() {
    let values: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let mut calls: Vec<RegisterCall<'_>> = values
        .iter()
        .enumerate()
        .map(|(at, value)| call(at, 1000 + at, write(value)))
        .collect();
    calls.push(call(500, 501, read("nobody")));
    assert_eq!(
        search(&calls, Budget::Steps(100_000)),
        SearchOutcome::Undecided
    );
    let now = Budget::Deadline(Instant::now());
    assert_eq!(search(&calls, now), SearchOutcome::Undecided);
}

#[test]
fn two_thousand_calls_of_eight_clients_are_decided() {
    let values: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let mut calls = Vec::new();
    for (number, value) in values.iter().enumerate() {
        let begun = number * 10;
        if number % 2 == 0 {
            calls.push(call(begun, begun + 75, write(value)));
        } else {
            calls.push(call(begun, begun + 75, read(&values[number - 1])));
        }
    }
    good(&calls);
    calls.push(call(90_000, 90_001, read("0")));
    assert!(matches!(
        search(&calls, Budget::Steps(20_000_000)),
        SearchOutcome::Impossible { .. }
    ));
}

/// Tries every order.
fn brute_force(calls: &[RegisterCall<'_>]) -> bool {
    fn place(calls: &[RegisterCall<'_>], taken: u32, value: Option<&str>) -> bool {
        let free = |number: &usize| taken & (1 << number) == 0;
        let waiting: Vec<usize> = (0..calls.len()).filter(free).collect();
        // Calls that are still open need not take place.
        if waiting.iter().all(|number| calls[*number].end.is_none()) {
            return true;
        }
        let ends = waiting.iter().filter_map(|number| calls[*number].end);
        let first_end = ends.min().unwrap_or(usize::MAX);
        waiting.into_iter().any(|number| {
            let call = calls[number];
            let after = call.action.apply(value);
            call.start < first_end
                && after.is_some_and(|after| place(calls, taken | 1 << number, after))
        })
    }
    place(calls, 0, None)
}

const VALUES: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];

fn any_action() -> impl Strategy<Value = RegisterOp<'static>> {
    let value = || prop::sample::select(&VALUES[..]);
    prop_oneof![
        value().prop_map(RegisterOp::Read),
        value().prop_map(RegisterOp::Write),
        (value(), value(), any::<bool>()).prop_map(|(expected, value, swapped)| RegisterOp::Swap {
            expected,
            value,
            swapped: Some(swapped),
        }),
    ]
}

/// Generates calls with distinct positions: no two beginnings or ends coincide.
fn any_calls() -> impl Strategy<Value = Vec<RegisterCall<'static>>> {
    let one = (
        any_action(),
        0_usize..24,
        0_usize..12,
        prop::bool::weighted(0.2),
    );
    prop::collection::vec(one, 1..8).prop_map(|parts| {
        let count = parts.len();
        let made = parts.into_iter().enumerate();
        let mut calls: Vec<RegisterCall<'static>> = made
            .filter_map(|(number, (action, begun, length, is_open))| {
                let begun_place = begun * 2 * count + number;
                let end_place = (begun + length) * 2 * count + count + number;
                let is_read = matches!(action, RegisterOp::Read(_));
                let action = match action {
                    RegisterOp::Swap {
                        expected, value, ..
                    } if is_open => RegisterOp::Swap {
                        expected,
                        value,
                        swapped: None,
                    },
                    other => other,
                };
                (!(is_read && is_open)).then_some(RegisterCall {
                    start: begun_place,
                    end: (!is_open).then_some(end_place),
                    action,
                })
            })
            .collect();
        calls.sort_by_key(|call| call.start);
        calls
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_search_agrees_with_an_exhaustive_search(calls in any_calls()) {
        let found = search(&calls, STEPS);
        prop_assert_ne!(found, SearchOutcome::Undecided);
        prop_assert_eq!(found == SearchOutcome::Linearizable, brute_force(&calls));
    }
}
