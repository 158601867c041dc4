//! Tests that fingerprints do not change, that different requests have different ones, and that
//! those of release 0.1.0 are recognized.

use super::*;
use crate::encode::read_command;
use crate::ids::{AgentId, Epoch, FrameworkId, OfferId, Revision, TaskId, Timestamp};
use crate::resources::Resources;
use crate::task::{Discovery, ImagePull, KillSignal};
use crate::testing;

/// The commands as release 0.1.0 stored them.
const STORED: &str = include_str!("../../tests/golden/format-2.txt");

/// The hashes that release 0.1.0 stored for the requests in `STORED`, computed from those bytes
/// alone by a program in another language.
const HASHES_OF_0_1_0: [(&str, u64); 17] = [
    ("call-accept", 0xee79_637e_24e5_2c56),
    ("call-kill", 0x520b_e434_5e24_3188),
    ("call-suppress", 0x0254_df34_8527_38fd),
    ("call-revive", 0xf040_15fc_b6c7_32c1),
    ("call-update", 0xc5b6_35fb_a3e4_1cc0),
    ("call-teardown", 0xb2f4_a9d8_d56b_540f),
    ("call-accept-containers", 0xda93_a231_7e79_fb7c),
    ("call-accept-checks", 0x3198_b87e_36c7_fa6a),
    ("call-accept-attached", 0x44db_4888_63e5_5ba7),
    ("call-accept-executors", 0x0441_a5a9_286a_bff0),
    ("call-accept-group", 0x361a_3170_9c4b_566d),
    ("call-accept-https-check", 0x3a89_13e4_696c_4035),
    ("operate", 0xb305_5f97_0491_7576),
    ("call-accept-volumes", 0x3d4c_f73c_9937_66b4),
    ("call-accept-limits", 0xd9a1_6603_1a64_d92b),
    ("call-update-limits", 0x91b7_abe4_978e_f139),
    ("operate-limits", 0x9e8a_6196_b28b_36ea),
];

/// The result of [`call_bytes`] for [`acceptance`]. If it changes, calls repeated across an upgrade
/// are refused.
const GOLDEN_BYTES: &str = "\
        000000000000000d6172676f73792063616c6c2031000100000000000000080000000000000003000200000000000000\
        0800000000deadbeef000300000000000000080000000000000011000400000000000001ce000100000000000000e100\
        000000000000d900010000000000000008000000000000000c0002000000000000000800000000000000070003000000\
        000000000800000000000000030004000000000000000800000000deadbeef0005000000000000000800000000000000\
        09000600000000000000036f707300070000000000000032000000000000002a0001000000000000000e000100000000\
        0000000463707573000200000000000000080000000000000dac00080000000000000008000000000000002c00090000\
        0000000000080000000000000002000a0000000000000008000000000000ea60000200000000000000c7000000000000\
        00bf0001000000000000000377656200030000000000000032000000000000002a0001000000000000000e0001000000\
        0000000004637075730002000000000000000800000000000003e80004000000000000001b0002000000000000001100\
        010000000000000007736c65657020310006000000000000003500000000000000160001000000000000000141000200\
        0000000000000162000000000000000f00010000000000000005454d505459000a000000000000000800000000000013\
        88000400000000000000080000000000001388";
const GOLDEN_HASH: u64 = 0xea24_a396_53bf_16cb;

fn stored() -> impl Iterator<Item = (&'static str, Command)> {
    STORED.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let name = (words.next()? == "command").then(|| words.next())??;
        let digits = words.next()?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).unwrap()).collect();
        Some((name, read_command(&bytes).unwrap().command))
    })
}

fn acceptance() -> Call {
    let resources = |text: &str| text.parse::<Resources>().unwrap();
    let mut spec = testing::spec("web", "cpus:1");
    spec.name.clear();
    spec.run = crate::task::CommandSpec::Shell("sleep 1".to_owned());
    spec.environment = [("A", "b"), ("EMPTY", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    spec.grace_ms = 5_000;
    let offer = OfferTerms {
        id: OfferId {
            epoch: Epoch(12),
            serial: 7,
        },
        framework: FrameworkId(3),
        session: 0xdead_beef,
        agent: AgentId(9),
        role: Role::new("ops").unwrap(),
        resources: resources("cpus:3.5"),
        offer_revision: Revision {
            index: 44,
            position: 2,
        },
        expires: Timestamp(60_000),
    };
    Call {
        framework: FrameworkId(3),
        session: 0xdead_beef,
        number: 17,
        lowest_unanswered: 16,
        hash: 0,
        action: CallAction::Accept(Accept {
            offers: vec![offer],
            operations: vec![OfferOperation::Launch(vec![spec])],
            all_or_nothing: false,
            wall_ms: 99,
        }),
    }
}

#[test]
fn the_fingerprint_of_a_known_call_never_changes() {
    let bytes = call_bytes(&acceptance(), 5_000);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN_BYTES);
    assert_eq!(call(&acceptance(), 5_000), GOLDEN_HASH);
}

#[test]
fn hashes_of_release_0_1_0_are_recognized_regardless_of_the_current_format() {
    let mut known = HASHES_OF_0_1_0.into_iter();
    for (name, command) in stored() {
        let hash = match command {
            Command::Call(call) => call_of_0_1_0(&call),
            Command::Operate(operate) => batch_of_0_1_0(&operate),
            _ => continue,
        };
        assert_eq!(Some((name, hash)), known.next());
    }
    assert_eq!(known.next(), None);
}

#[test]
fn release_0_1_0_hashes_do_not_distinguish_the_host_network_from_none() {
    let mut named = acceptance();
    let CallAction::Accept(accept) = &mut named.action else {
        unreachable!("it was just made one")
    };
    accept.operations[0].tasks_mut()[0]
        .container
        .security_options
        .host_network = true;
    assert_eq!(call_of_0_1_0(&named), call_of_0_1_0(&acceptance()));
    assert_ne!(call(&named, 5_000), call(&acceptance(), 5_000));
}

#[test]
fn release_0_1_0_hashes_ignore_signals_sizes_pull_policies_and_discovery() {
    let changes: [fn(&mut TaskSpec); 4] = [
        |spec| spec.kill_signal = Some(KillSignal::Quit),
        |spec| spec.container.sizes.shm_bytes = Some(1 << 20),
        |spec| spec.container.pull = Some(ImagePull::Always),
        |spec| spec.discovery = Some(Box::new(Discovery::sample())),
    ];
    for change in changes {
        let mut named = acceptance();
        let CallAction::Accept(accept) = &mut named.action else {
            unreachable!("it was just made one")
        };
        change(&mut accept.operations[0].tasks_mut()[0]);
        assert_eq!(call_of_0_1_0(&named), call_of_0_1_0(&acceptance()));
        assert_ne!(call(&named, 5_000), call(&acceptance(), 5_000));
    }
}

#[test]
fn fields_that_differ_between_repeats_do_not_change_the_fingerprint() {
    let mut repeat = acceptance();
    repeat.lowest_unanswered = 17;
    repeat.hash = 5;
    let CallAction::Accept(accept) = &mut repeat.action else {
        unreachable!("it was just made one")
    };
    accept.wall_ms = 123;
    assert_eq!(call(&repeat, 5_000), call(&acceptance(), 5_000));
}

#[test]
fn a_different_filter_changes_the_fingerprint() {
    assert_ne!(call(&acceptance(), 5_000), call(&acceptance(), 6_000));
    assert_ne!(call(&acceptance(), 5_000), call(&acceptance(), 0));
}

#[test]
fn an_absent_part_differs_from_an_empty_one() {
    let mut kills = [None, Some(0), Some(1)].map(|grace_ms| {
        let action = CallAction::Kill {
            task: TaskId::new("web").unwrap(),
            grace_ms,
        };
        call(
            &Call {
                action,
                ..acceptance()
            },
            0,
        )
    });
    kills.sort_unstable();
    assert!(kills.windows(2).all(|pair| pair[0] != pair[1]));
    let named = |request: Option<(&str, &str)>| {
        batch(&Operate {
            request: request.map(|(principal, id)| (principal.to_owned(), id.to_owned())),
            hash: 0,
            operations: vec![OperatorOperation::Teardown(FrameworkId(0))],
            wall_ms: 0,
        })
    };
    assert_ne!(named(Some(("ab", "c"))), named(Some(("a", "bc"))));
}

/// Every sample of every kind of call, launch and operation has different bytes.
#[test]
fn no_two_samples_share_their_bytes() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, command) in stored() {
        let bytes = match command {
            Command::Call(call) => call_bytes(&call, 0),
            Command::Operate(operate) => batch_bytes(&operate),
            _ => continue,
        };
        assert_eq!(seen.insert(bytes, name), None, "{name}");
    }
    assert_eq!(seen.len(), HASHES_OF_0_1_0.len());
}
