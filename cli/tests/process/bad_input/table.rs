//! The table of bad input: every kind that users and peers are known to give, one row per case.

use argosy_proto::v1::{self, TaskState};
use tonic::Code;

use super::calls::{changed, cpus};
use super::row::{Row, RowAction, RowEnd, Unchanged, garbage};
use super::{calls, disks, starts};
use crate::test_framework::task;

/// A row whose command line is invalid.
const fn usage(name: &'static str, line: &'static str, expected: [&'static str; 3]) -> Row {
    Row {
        name,
        action: RowAction::Command(line),
        end: RowEnd::Exit(2),
        message: expected,
        unchanged: Unchanged::TemporaryFiles,
    }
}

/// A row whose process cannot start.
const fn start(name: &'static str, line: &'static str, expected: [&'static str; 3]) -> Row {
    Row {
        name,
        action: RowAction::Command(line),
        end: RowEnd::Exit(1),
        message: expected,
        unchanged: Unchanged::TemporaryFiles,
    }
}

/// A row whose masters do not exist.
const fn unanswered(name: &'static str, line: &'static str) -> Row {
    Row {
        end: RowEnd::Exit(5),
        ..start(
            name,
            line,
            ["--masters", "{free}:5050 refused", "name the masters with"],
        )
    }
}

/// A row whose acceptance is rejected.
const fn accept(
    name: &'static str,
    offers: fn(&super::calls::OfferSet) -> Vec<v1::Offer>,
    tasks: fn() -> Vec<v1::TaskSpec>,
    code: Code,
    expected: [&'static str; 3],
) -> Row {
    Row {
        name,
        action: RowAction::Accept(offers, tasks),
        end: RowEnd::Code(code),
        message: expected,
        unchanged: Unchanged::Cluster,
    }
}

/// A row with a valid offer and an invalid task.
const fn spec(
    name: &'static str,
    tasks: fn() -> Vec<v1::TaskSpec>,
    expected: [&'static str; 3],
) -> Row {
    accept(
        name,
        |s| vec![s.own.clone()],
        tasks,
        Code::InvalidArgument,
        expected,
    )
}

/// A row whose task is rejected while the call succeeds.
const fn launch(
    name: &'static str,
    tasks: fn() -> Vec<v1::TaskSpec>,
    expected: [&'static str; 3],
) -> Row {
    Row {
        name,
        action: RowAction::Launch(tasks),
        end: RowEnd::Refused,
        message: expected,
        unchanged: Unchanged::Cluster,
    }
}

fn good() -> Vec<v1::TaskSpec> {
    vec![task("bad", "true")]
}

fn with_environment(variables: usize, bytes: usize) -> Vec<v1::TaskSpec> {
    let variable = |number| (format!("X{number}"), "y".repeat(bytes));
    changed(|t| t.environment.extend((0..variables).map(variable)))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const ROWS: &[Row] = &[
    // Unknown flags, and values that no flag accepts.
    usage(
        "an unknown flag",
        "run --cpu 1 -- true",
        ["argument", "'--cpu'", "'--cpus'"],
    ),
    usage(
        "an unknown flag of a master",
        "master start --bootsrap",
        ["argument", "'--bootsrap'", "'--bootstrap'"],
    ),
    usage(
        "an unknown flag of an agent",
        "agent start --dir x",
        ["argument", "'--dir'", "--help"],
    ),
    usage(
        "agents that may not be silent at all",
        "master start --agent-timeout 0 --insecure-plaintext",
        ["--agent-timeout", "unreachable immediately", "15s"],
    ),
    usage(
        "agents that are forgotten at once",
        "master start --forget-agents-after 0s --insecure-plaintext",
        ["--forget-agents-after", "forgotten as soon", "14d"],
    ),
    usage(
        "an unknown noun",
        "taks list",
        ["subcommand", "'taks'", "'task'"],
    ),
    usage(
        "an unknown verb",
        "task lsit",
        ["subcommand", "'lsit'", "'list'"],
    ),
    usage("no command to run", "run", ["required", "<CMD>", "Usage: "]),
    usage(
        "an unknown unit",
        "run --mem 64X -- true",
        ["--mem", "'64X'", "write an amount"],
    ),
    usage(
        "absurd memory",
        "run --mem 1e30 -- true",
        ["--mem", "'1e30'", "write an amount"],
    ),
    usage(
        "processors that are no number",
        "run --cpus nan -- true",
        ["--cpus", "'nan'", "write a number"],
    ),
    usage(
        "negative processors",
        "run --cpus=-1 -- true",
        ["--cpus", "'-1'", "write a number"],
    ),
    usage(
        "absurd processors",
        "run --cpus 1e9 -- true",
        ["--cpus", "'1e9'", "write a number"],
    ),
    usage(
        "resources that are no number",
        "agent start --resources cpus:NaN",
        ["--resources", "'cpus:NaN'", "an amount is a number from 0"],
    ),
    usage(
        "negative resources of an agent",
        "agent start --resources cpus:-1",
        ["--resources", "'cpus:-1'", "an amount is a number from 0"],
    ),
    usage(
        "a task id that leaves its folder",
        "run --name ../x -- true",
        ["--name", "\"../x\"", "letters, digits"],
    ),
    usage(
        "a variable without a name",
        "run --env =x -- true",
        ["--env", "'=x'", "write NAME=VALUE"],
    ),
    usage(
        "a file of no known scheme",
        "run --uri ftp://x/y -- true",
        ["--uri", "'ftp://x/y'", "write an absolute path"],
    ),
    usage(
        "a time without sense",
        "ps --timeout soon",
        ["--timeout", "'soon'", "write a time"],
    ),
    usage(
        "masters without sense",
        "ps --masters :::",
        ["--masters", "':::'", "put an IPv6 address in brackets"],
    ),
    usage(
        "a peer twice",
        "master start --peers a:1,a:1",
        ["--peers", "a:1 is listed twice", "list each master once"],
    ),
    // TLS.
    usage(
        "a master without a certificate",
        "master start --bootstrap --listen {free} --data-dir {dir}/no",
        ["no certificate", "argosy ca issue", "--insecure-plaintext"],
    ),
    start(
        "an agent's certificate that does not exist",
        "agent start --listen {free} --tls-cert a --tls-key b --tls-ca {dir}/c --data-dir {dir}/no",
        ["cannot read", "{dir}/c", "docs/security.md"],
    ),
    // Addresses in use.
    start(
        "a master's taken port",
        "master start --listen {own} --peers {peers} --data-dir {dir}/no --insecure-plaintext",
        [
            "--listen",
            "{own}:5050 is taken by process {pid-master}",
            "stop that process",
        ],
    ),
    start(
        "a taken port for raft",
        "master start --listen {free} --raft-listen {own} --peers {peers} --data-dir {dir}/no --insecure-plaintext",
        [
            "--raft-listen",
            "{own}:5052 is taken by process {pid-master}",
            "stop that process",
        ],
    ),
    start(
        "an agent's taken port",
        "agent start --listen {agent} --masters {masters} --data-dir {dir}/no --insecure-plaintext",
        [
            "--listen",
            "{agent}:5051 is taken by process {pid-agent}",
            "stop that process",
        ],
    ),
    start(
        "a taken port of a dev cluster",
        "dev --size 1x0 --base {taken}",
        [
            "master-1 cannot start",
            "{taken}:5052 is taken by process {test}",
            "give --base another address",
        ],
    ),
    start(
        "an address of another host",
        "master start --bootstrap --listen 192.0.2.1 --insecure-plaintext --data-dir {dir}/no",
        [
            "--listen",
            "192.0.2.1:5050 is not an address of this host",
            "give --listen one of those",
        ],
    ),
    // Directories.
    start(
        "a master's directory in use",
        "master start --listen {free} --data-dir {dir}/master-1 --insecure-plaintext",
        [
            "--data-dir",
            "{dir}/master-1 is in use by process {pid-master}",
            "stop that process",
        ],
    ),
    start(
        "a master's directory of a newer release",
        "master start --listen {free} --data-dir {dir}/newer --insecure-plaintext",
        ["{dir}/newer", "has format 99", "start a newer argosy"],
    ),
    Row {
        unchanged: Unchanged::File("precious/precious.txt", "of another client"),
        ..start(
            "somebody's directory",
            "master start --bootstrap --listen {free} --data-dir {dir}/precious --insecure-plaintext",
            ["--data-dir", "\"precious.txt\"", "an empty directory"],
        )
    },
    Row {
        unchanged: Unchanged::OtherCluster,
        ..start(
            "a master's directory of another cluster",
            "master start --listen {free} --peers {wider} --data-dir {dir}/other --insecure-plaintext",
            [
                "--data-dir",
                "belongs to another cluster",
                "--peers of its cluster",
            ],
        )
    },
    start(
        "an agent's directory in use",
        "agent start --listen {free} --masters {masters} --allow-missing-controllers --data-dir {dir}/agent-1 --insecure-plaintext",
        [
            "--data-dir",
            "another agent, process {pid-agent}",
            "stop it",
        ],
    ),
    start(
        "an agent's journal of a newer release",
        "agent start --listen {free} --masters {masters} --allow-missing-controllers --data-dir {dir}/newer-agent --insecure-plaintext",
        [
            "{dir}/newer-agent/journal",
            "has format 99",
            "start the newer release",
        ],
    ),
    start(
        "an agent's journal that is none",
        "agent start --listen {free} --masters {masters} --allow-missing-controllers --data-dir {dir}/no-journal --insecure-plaintext",
        [
            "{dir}/no-journal/journal",
            "does not begin with the header of a journal",
            "move it away",
        ],
    ),
    Row {
        name: "an agent's directory of another cluster",
        action: RowAction::Steps(starts::agent_of_other_cluster),
        end: RowEnd::Retries,
        message: ["--data-dir", "belongs to", "give it the right --masters"],
        unchanged: Unchanged::Agents,
    },
    // Lists of masters and of peers.
    start(
        "no peers",
        "master start --listen {free} --data-dir {dir}/empty --insecure-plaintext",
        ["--peers", "no --peers are given", "--bootstrap"],
    ),
    start(
        "peers without this one",
        "master start --listen {free} --peers {peers} --data-dir {dir}/empty-too --insecure-plaintext",
        [
            "--peers",
            "does not contain this one ({free}:5052)",
            "itself included",
        ],
    ),
    start(
        "a second cluster",
        "master start --listen {free} --peers {wider} --bootstrap --data-dir {dir}/empty-also --insecure-plaintext",
        [
            "--bootstrap",
            "already belongs to one",
            "leave --bootstrap out",
        ],
    ),
    Row {
        name: "peers with unequal lists",
        action: RowAction::Steps(starts::unequal_lists),
        end: RowEnd::Exit(1),
        message: [
            "--peers",
            "the lists of masters differ: ours is",
            "start all of them with the same",
        ],
        unchanged: Unchanged::Cluster,
    },
    Row {
        end: RowEnd::Exit(5),
        ..start(
            "masters that answer nobody",
            "ps --masters {free}:5050,{free}:1 --timeout 500ms",
            [
                "--masters",
                "{free}:5050 refused, {free}:1 refused",
                "name the masters with",
            ],
        )
    },
    unanswered(
        "the state of no cluster",
        "status --masters {free} --timeout 500ms",
    ),
    unanswered(
        "the masters of no cluster",
        "master list --masters {free} --timeout 500ms",
    ),
    unanswered(
        "the output of no task",
        "logs web --masters {free} --timeout 500ms",
    ),
    unanswered(
        "the reasons of no master",
        "explain web --masters {free} --timeout 500ms",
    ),
    unanswered(
        "a task for nobody",
        "run --masters {free} --timeout 500ms -- true",
    ),
    Row {
        name: "an agent whose masters answer nobody",
        action: RowAction::Steps(starts::agent_without_master),
        end: RowEnd::Retries,
        message: ["--masters", "{free}:5050 refused", "start the masters"],
        unchanged: Unchanged::Cluster,
    },
    // Offers.
    accept(
        "no offers",
        |_| vec![],
        good,
        Code::FailedPrecondition,
        ["offers", "none is given", "give one that is open"],
    ),
    accept(
        "the same offer twice",
        |s| vec![s.own.clone(), s.own.clone()],
        good,
        Code::FailedPrecondition,
        ["offer ", "is given twice", "give each offer once"],
    ),
    accept(
        "somebody else's offer",
        |s| vec![s.foreign.clone()],
        good,
        Code::FailedPrecondition,
        [
            "offer ",
            "another framework or session",
            "give those of this session",
        ],
    ),
    accept(
        "a used offer",
        |s| vec![s.used.clone()],
        good,
        Code::FailedPrecondition,
        ["offer ", "is no longer open: used", "give a newer one"],
    ),
    accept(
        "an offer of no known shape",
        |s| {
            vec![v1::Offer {
                offer_id: "x".into(),
                ..s.own.clone()
            }]
        },
        good,
        Code::InvalidArgument,
        ["offer_id", "\"x\"", "write it as EPOCH.SERIAL"],
    ),
    accept(
        "an offer with more in it",
        |s| {
            vec![v1::Offer {
                resources: cpus(900_000),
                ..s.own.clone()
            }]
        },
        good,
        Code::FailedPrecondition,
        ["offer ", "no valid token", "give it back as it came"],
    ),
    accept(
        "an offer that lives longer",
        |s| {
            vec![v1::Offer {
                expires_ms: u64::MAX,
                ..s.own.clone()
            }]
        },
        good,
        Code::FailedPrecondition,
        ["offer ", "no valid token", "give it back as it came"],
    ),
    accept(
        "a cut token",
        |s| {
            vec![v1::Offer {
                token: vec![1, 2, 3].into(),
                ..s.own.clone()
            }]
        },
        good,
        Code::InvalidArgument,
        ["offer.token", "truncated", "unchanged"],
    ),
    // Tasks.
    spec(
        "negative resources",
        || changed(|t| t.resources = cpus(-1)),
        ["resources[0]", "cpus of -1 thousandths", "lies between 0"],
    ),
    spec(
        "absurd resources",
        || changed(|t| t.resources = cpus(i64::MAX)),
        [
            "resources",
            "cpus of 9223372036854775807 thousandths",
            "1000000000",
        ],
    ),
    spec(
        "large resources",
        || changed(|t| t.resources = cpus(1_000_000_000_001)),
        [
            "resources",
            "cpus of 1000000000001 thousandths",
            "between 0 and 1000000000 units",
        ],
    ),
    spec(
        "an id that leaves its folder",
        || changed(|t| t.task_id = "../x".into()),
        ["task_id", "\"../x\"", "letters, digits"],
    ),
    spec(
        "an empty id",
        || changed(|t| t.task_id = String::new()),
        ["task_id", "\"\"", "letters, digits"],
    ),
    spec(
        "an empty command",
        || changed(|t| t.shell = String::new()),
        ["command", "it is empty", "give shell a line"],
    ),
    spec(
        "two commands",
        || changed(|t| t.argv = vec!["true".into()]),
        ["command", "shell or argv", "not both"],
    ),
    spec(
        "a NUL byte",
        || changed(|t| t.shell = "a\0b".into()),
        ["shell", "NUL byte", "remove"],
    ),
    spec(
        "an unknown scheme",
        || {
            changed(|t| {
                t.uris = vec![v1::Uri {
                    value: "ftp://x/y".into(),
                    ..Default::default()
                }]
            })
        },
        ["uris", "\"ftp://x/y\"", "file:///"],
    ),
    spec(
        "no resources",
        || changed(|t| t.resources.clear()),
        ["resources", "ask for something", "cpus:0.1"],
    ),
    spec(
        "a big environment",
        || with_environment(6, 100_000),
        ["description takes", "at most 524288", "use uris for data"],
    ),
    spec(
        "a variable that Linux cannot pass on",
        || with_environment(1, 131_072),
        ["environment", "at most 131071", "with uris"],
    ),
    spec(
        "a call above 1 MiB",
        || with_environment(1, 2 << 20),
        ["the call", "at most 1048576", "split it"],
    ),
    accept(
        "a message above 4 MiB",
        |s| vec![s.own.clone()],
        || with_environment(1, 10 << 20),
        Code::ResourceExhausted,
        ["message", "found 10486", "split the call"],
    ),
    // The last of those that are rejected as a whole. Its offers stay open.
    accept(
        "offers of two agents",
        |s| vec![s.own.clone(), s.other_agent.clone()],
        good,
        Code::FailedPrecondition,
        ["offer ", "of another agent or role", "a call of its own"],
    ),
    launch(
        "more than the offer",
        || changed(|t| t.resources = cpus(900_000)),
        ["resources", "asked cpus:900", "ask for less"],
    ),
    launch(
        "an id twice",
        || vec![task("twin", "true"), task("twin", "true")],
        ["task id", "twin is in use", "give another one"],
    ),
    calls::LIMIT_OF_NOTHING,
    Row {
        name: "a command that does not exist",
        action: RowAction::Task(|| v1::TaskSpec {
            argv: vec!["/no/such/program".into()],
            ..task("typo", "")
        }),
        end: RowEnd::State(TaskState::Failed),
        message: [
            "cannot start",
            "\"/no/such/program\": No such file",
            "name a program of this host",
        ],
        unchanged: Unchanged::Cluster,
    },
    Row {
        name: "a file that the operator does not give to tasks",
        action: RowAction::Task(|| v1::TaskSpec {
            uris: vec![v1::Uri {
                value: "/no/such/file".into(),
                ..Default::default()
            }],
            ..task("absent", "true")
        }),
        end: RowEnd::State(TaskState::Failed),
        message: ["fetch", "/no/such/file", "--fetch-dir"],
        unchanged: Unchanged::Cluster,
    },
    Row {
        end: RowEnd::Exit(125),
        ..start(
            "a run of what does not exist",
            "run --masters {masters} --cpus 0.1 --mem 16 -- /no/such/program",
            [
                "cannot start",
                "\"/no/such/program\": No such file",
                "name a program of this host",
            ],
        )
    },
    // Bytes.
    Row {
        name: "a page of no size",
        action: RowAction::Get("/v1/tasks?page_size=x"),
        end: RowEnd::Status(400),
        message: ["page_size", "x", "number"],
        unchanged: Unchanged::Cluster,
    },
    garbage("ones on every port", || vec![0xff; 4_096]),
    garbage("zeros on every port", || vec![0; 64]),
    garbage("half a request on every port", || {
        b"GET /v1/tasks HTTP/1.1\r\nHost".to_vec()
    }),
    garbage("a greeting of TLS on every port", || {
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20)
    }),
    garbage("frames without sense on every port", || {
        [PREFACE, &[0x7f; 4_096]].concat()
    }),
    garbage("data of no stream on every port", || {
        [PREFACE, b"\0\0\x05\0\x01\0\0\0\x01\0\xff\xff\xff\xff"].concat()
    }),
    // Disks, and other rows that end processes of the cluster.
    Row {
        name: "a master's full disk",
        action: RowAction::ExclusiveSteps(disks::masters_disk),
        end: RowEnd::Aborted,
        message: ["cannot write", "No space left", "make room"],
        unchanged: Unchanged::Cluster,
    },
    Row {
        name: "a master's start on a full disk",
        action: RowAction::ExclusiveSteps(disks::disk_at_start),
        end: RowEnd::Exit(1),
        message: ["cannot open {dir}/full-start", "No space left", "make room"],
        unchanged: Unchanged::Cluster,
    },
    Row {
        name: "an agent's full disk",
        action: RowAction::ExclusiveSteps(disks::agents_disk),
        end: RowEnd::Retries,
        message: [
            "the disk of the journal is full",
            "No space left",
            "make room",
        ],
        unchanged: Unchanged::Cluster,
    },
    Row {
        name: "no room for a sandbox",
        action: RowAction::ExclusiveSteps(disks::sandbox_disk),
        end: RowEnd::State(TaskState::Failed),
        message: ["{dir}/full-sandbox", "No space left", "make room"],
        unchanged: Unchanged::Cluster,
    },
    Row {
        name: "a wiped master under its old address",
        action: RowAction::ExclusiveSteps(starts::wiped_master),
        end: RowEnd::Retries,
        message: [
            "{own}",
            "the data directory there is a new one",
            "argosy master join",
        ],
        unchanged: Unchanged::Cluster,
    },
];
