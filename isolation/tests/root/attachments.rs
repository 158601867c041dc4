//! Tests of attached clients: their output and input, and that the command never waits for them.

use std::fs;
use std::os::fd::AsFd;
use std::time::Instant;

use argosy_isolation::{
    Adoption, Attachment, AttachmentNotice, CommandOutcome, Container, LaunchSpec, WindowSize,
    adopt,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fixture::{Agent, RootFixture, TIMEOUT, TestCase, eventually, plain, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    (
        "attached_terminals_accept_input_and_their_output_is_also_stored",
        terminal,
    ),
    (
        "messages_of_all_attached_clients_reach_a_pipe_undivided",
        pipe,
    ),
    (
        "an_attached_client_that_does_not_read_loses_output_and_blocks_no_other",
        slow,
    ),
    (
        "clients_can_attach_after_an_adoption_and_receive_the_exit_status",
        adopted,
    ),
    (
        "unauthorized_input_and_excess_clients_are_rejected_with_a_message",
        refused,
    ),
    (
        "a_terminal_that_was_temporarily_closed_by_all_processes_keeps_working",
        reopened,
    ),
    (
        "the_end_of_input_arrives_when_a_full_terminal_has_space",
        full_terminal,
    ),
];

fn next(attachment: &mut Attachment) -> AttachmentNotice {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(notice) = attachment.notice().unwrap() {
            return notice;
        }
        assert!(Instant::now() < deadline, "no output");
        let mut watched = [PollFd::new(attachment.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::from(1000_u16)).unwrap();
    }
}

fn attached(container: &Container, stdin: bool) -> Attachment {
    let mut attachment = container.attach(stdin).unwrap();
    match next(&mut attachment) {
        AttachmentNotice::Attached(_) => attachment,
        other => panic!("{other:?}"),
    }
}

fn refusal(container: &Container, stdin: bool) -> String {
    match next(&mut container.attach(stdin).unwrap()) {
        AttachmentNotice::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Reads until the output ends with `until`, or until the command's end, which is then returned.
fn read_until(attachment: &mut Attachment, until: &str) -> (String, Option<CommandOutcome>) {
    let mut output = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&output).into_owned();
        if !until.is_empty() && text.ends_with(until) {
            return (text, None);
        }
        match next(attachment) {
            AttachmentNotice::Output(bytes) | AttachmentNotice::Errors(bytes) => {
                output.extend(bytes)
            }
            AttachmentNotice::InputConsumed => {}
            AttachmentNotice::Ended(outcome) => return (text, Some(outcome)),
            other => panic!("{other:?} after {text:?}"),
        }
    }
}

fn with_terminal(spec: LaunchSpec) -> LaunchSpec {
    LaunchSpec {
        tty: true,
        stdin: true,
        ..spec
    }
}

fn terminal() {
    let mut world = RootFixture::new();
    let line =
        "tty; while read word size; do case $word in size) stty size;; exit) exit 7;; esac; done";
    for spec in [profiled(&mut world, line), world.spec(line)] {
        let spec = with_terminal(spec);
        let (mut container, _) = world.start(&spec);
        eventually("it has a terminal", || stdout(&spec).contains("/dev/pts/"));
        let [mut first, mut second] = [true, true].map(|stdin| attached(&container, stdin));
        let size = WindowSize {
            rows: 50,
            columns: 132,
        };
        first.resize(size).unwrap();
        first.input(b"size\n").unwrap();
        // The echo of the input, and the answer; at both clients.
        assert_eq!(read_until(&mut first, "132\r\n").0, "size\r\n50 132\r\n");
        assert_eq!(read_until(&mut second, "132\r\n").0, "size\r\n50 132\r\n");
        // Ctrl-C is handled by the terminal, and ends no detached client.
        drop(first);
        second.input(b"exit\n").unwrap();
        assert_eq!(
            read_until(&mut second, ""),
            ("exit\r\n".to_owned(), Some(CommandOutcome::Exited(7)))
        );
        container.wait(TIMEOUT).unwrap();
        let kept = stdout(&spec);
        assert!(kept.ends_with("size\r\n50 132\r\nexit\r\n"), "{kept:?}");
    }
}

fn pipe() {
    let mut world = RootFixture::new();
    let line = "wc -c; echo over; exec sleep 1000";
    for spec in [
        profiled(&mut world, line),
        world.spec(line),
        plain(world.spec(line)),
    ] {
        let spec = LaunchSpec {
            stdin: true,
            ..spec
        };
        let (container, _) = world.start(&spec);
        let mut both = [true, true].map(|stdin| attached(&container, stdin));
        for round in 0..100 {
            let one = &mut both[round % 2];
            one.input(&[b'x'; 4096]).unwrap();
            while next(one) != AttachmentNotice::InputConsumed {}
        }
        both[1].end_input().unwrap();
        assert_eq!(read_until(&mut both[0], "over\n").0, "409600\nover\n");
        let late = refusal(&container, true);
        assert!(late.contains("has ended"), "{late}");
        both[0].signal(15).unwrap();
        let ended = read_until(&mut both[0], "").1;
        assert_eq!(ended, Some(CommandOutcome::Signaled(15)));
    }
}

fn slow() {
    let mut world = RootFixture::new();
    let line =
        "read go; head -c 20000000 /dev/zero | tr '\\0' y; echo; echo done; read end; exit 0";
    let spec = LaunchSpec {
        stdin: true,
        ..profiled(&mut world, line)
    };
    let (mut container, _) = world.start(&spec);
    let [mut reader, mut sleeper] = [true, false].map(|stdin| attached(&container, stdin));
    reader.input(b"go\n").unwrap();
    // The command ends although one client reads nothing.
    let mut received = 0;
    // Missing bytes are counted.
    while received < 20_000_000 + 6 {
        match next(&mut reader) {
            AttachmentNotice::Output(bytes) => received += bytes.len() as u64,
            AttachmentNotice::Missed(bytes) => received += bytes,
            AttachmentNotice::InputConsumed => {}
            other => panic!("{other:?}"),
        }
    }
    reader.end_input().unwrap();
    // It reads only after the supervisor has exited.
    container.wait(TIMEOUT).unwrap();
    let (mut received, mut missed) = (0, 0);
    loop {
        match next(&mut sleeper) {
            AttachmentNotice::Output(bytes) => received += bytes.len() as u64,
            AttachmentNotice::Missed(bytes) => missed += bytes,
            AttachmentNotice::Ended(outcome) => {
                assert_eq!(outcome, CommandOutcome::Exited(0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(received < 20_000_000, "it could not keep all of {received}");
    assert_eq!(received + missed, 20_000_000 + 6);
}

fn adopted() {
    let mut world = RootFixture::new();
    let line = "while read word; do echo got $word; [ $word = exit ] && exit 5; done";
    let spec = with_terminal(profiled(&mut world, line));
    let agent = Agent::launching(&spec, None, None);
    assert_eq!(Agent::outcome(&spec), "started");
    agent.kill();
    let Adoption::Running(mut container) = adopt(&spec.directory).unwrap() else {
        panic!("it runs")
    };
    let mut again = attached(&container, true);
    again.input(b"a\n").unwrap();
    assert_eq!(read_until(&mut again, "got a\r\n").0, "a\r\ngot a\r\n");
    drop(again);
    // Detaching leaves the command unchanged.
    let mut third = attached(&container, true);
    third.input(b"exit\n").unwrap();
    assert_eq!(
        read_until(&mut third, ""),
        (
            "exit\r\ngot exit\r\n".to_owned(),
            Some(CommandOutcome::Exited(5))
        )
    );
    container.wait(TIMEOUT).unwrap();
    container.destroy(TIMEOUT).unwrap();
}

fn refused() {
    let mut world = RootFixture::new();
    let line = "echo begun; exec sleep 1000";
    let spec = world.spec(line);
    let (mut container, _) = world.start(&spec);
    let reason = refusal(&container, true);
    assert!(reason.contains("not launched with stdin"), "{reason}");
    let all: Vec<_> = (0..16).map(|_| attached(&container, false)).collect();
    let reason = refusal(&container, false);
    assert!(reason.contains("16 are attached"), "{reason}");
    drop(all);
    eventually("there is room again", || {
        let mut attachment = container.attach(false).unwrap();
        matches!(next(&mut attachment), AttachmentNotice::Attached(_))
    });
    let mut attachment = container.attach(false).unwrap();
    eventually("its output is counted as its file is", || {
        attachment = container.attach(false).unwrap();
        next(&mut attachment) == AttachmentNotice::Attached([6, 0])
    });
    // Unexpected input ends the attachment, not the command.
    attachment.input(b"x").unwrap();
    drop(attachment);
    container.kill(0).unwrap();
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}

fn reopened() {
    let mut world = RootFixture::new();
    let line = "exec 3<&0 4>&1; name=$(tty); exec <&- >&- 2>&- 3<&- 4>&-; sleep 0.2; echo again > $name; sleep 0.1";
    let spec = LaunchSpec {
        tty: true,
        ..profiled(&mut world, line)
    };
    let (mut container, _) = world.start(&spec);
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Exited(0)
    );
    assert_eq!(stdout(&spec), "again\r\n");
}

/// Returns false if the terminal is full: it has not taken the input for half a second.
fn is_consumed(attachment: &mut Attachment) -> bool {
    loop {
        let mut watched = [PollFd::new(attachment.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, PollTimeout::from(500_u16)).unwrap() == 0 {
            return false;
        }
        if next(attachment) == AttachmentNotice::InputConsumed {
            return true;
        }
    }
}

fn full_terminal() {
    let mut world = RootFixture::new();
    let line = "until [ -e go ]; do sleep 0.02; done; cat > /dev/null; exit 7";
    let spec = with_terminal(profiled(&mut world, line));
    let (mut container, _) = world.start(&spec);
    let [mut first, second] = [true, true].map(|stdin| attached(&container, stdin));
    first.input(&[b'\n'; 4096]).unwrap();
    while is_consumed(&mut first) {
        first.input(&[b'\n'; 4096]).unwrap();
    }
    second.end_input().unwrap();
    // The rest of its input is lost with it.
    drop(first);
    eventually("the supervisor has noticed that", || {
        let mut third = container.attach(true).unwrap();
        matches!(next(&mut third), AttachmentNotice::Refused { .. })
    });
    fs::write(spec.sandbox.join("go"), "").unwrap();
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(exit.outcome, CommandOutcome::Exited(7));
}
