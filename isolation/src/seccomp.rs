//! The system calls that a command may make, as two filters for the kernel.
//!
//! The first allows what the table lists and answers EPERM to everything else; a call of another architecture ends the
//! process. The second makes calls that libraries probe for look absent (ENOSYS), where EPERM would make them give up.

mod table;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// All `CLONE_NEW*` flags that fit beside a signal number in `clone`: no further namespaces, a new user namespace least
/// of all.
const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32 as u64;
/// Types characters into a terminal as if its user had: CVE-2017-5226 and others.
const TIOCSTI: u64 = 0x5412;
/// The console's own variety of it.
const TIOCLINUX: u64 = 0x541c;
/// How many calls after the newest known one look absent.
const FUTURE: i64 = 64;

/// The filters of a command, in the order in which they are put on.
#[derive(Clone)]
pub(crate) struct Filters([BpfProgram; 2]);

/// A filter that cannot be made or put on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// It cannot be made for this machine.
    #[error("cannot make the filter of system calls")]
    Make(#[source] seccompiler::Error),
    /// The kernel does not take it.
    #[error("cannot put on the filter of system calls")]
    PutOn(#[source] seccompiler::Error),
}

impl Filters {
    /// Compiled once: they are the same for every command.
    pub(crate) fn new() -> Result<Self, FilterError> {
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let absent = SeccompAction::Errno(libc::ENOSYS as u32);
        let absentees = absentees().map(|call| (call, Vec::new()));
        let compile = |rules, mismatch, matched| {
            let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
            SeccompFilter::new(rules, mismatch, matched, architecture)?.try_into()
        };
        let first = compile(allowed()?, refused, SeccompAction::Allow);
        let second = compile(absentees.collect(), SeccompAction::Allow, absent);
        Ok(Self([
            first.map_err(|error: seccompiler::BackendError| FilterError::Make(error.into()))?,
            second.map_err(|error: seccompiler::BackendError| FilterError::Make(error.into()))?,
        ]))
    }

    /// For this thread of control and all that it becomes; never to be taken off.
    pub(crate) fn put_on(&self) -> Result<(), FilterError> {
        // The second first: the first would not let it be put on any more, were `seccomp` not in its list.
        let [first, second] = &self.0;
        for filter in [second, first] {
            seccompiler::apply_filter(filter).map_err(FilterError::PutOn)?;
        }
        Ok(())
    }
}

/// Calls that a library does without when they are absent.
fn absentees() -> impl Iterator<Item = i64> {
    let newest = table::NEWEST;
    std::iter::once(libc::SYS_clone3).chain(newest + 1..=newest + FUTURE)
}

fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, FilterError> {
    let listed = table::ALWAYS.iter().copied().chain([table::LEGACY]);
    let always = listed.flatten().copied().chain(absentees());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always.map(|call| (call, Vec::new())).collect();
    let make = |error: seccompiler::BackendError| FilterError::Make(error.into());
    for (call, alternatives) in conditions().map_err(make)? {
        let alternatives = alternatives.into_iter().map(SeccompRule::new);
        rules.insert(call, alternatives.collect::<Result<_, _>>().map_err(make)?);
    }
    Ok(rules)
}

type Alternatives = Vec<Vec<SeccompCondition>>;

/// Calls that depend on their arguments: allowed when all conditions of one alternative hold.
fn conditions() -> Result<Vec<(i64, Alternatives)>, seccompiler::BackendError> {
    let word = |argument, operator, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let long = |argument, operator, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)
    };
    let is = SeccompCmpOp::Eq;
    let sockets = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let mut families: Alternatives = Vec::new();
    for family in sockets {
        families.push(vec![word(0, is.clone(), family as u64)?]);
    }
    // Interfaces and addresses are looked up there; everything else of netlink is for administrators.
    families.push(vec![
        word(0, is.clone(), libc::AF_NETLINK as u64)?,
        word(2, is.clone(), libc::NETLINK_ROUTE as u64)?,
    ]);
    // The usual one, those of 32-bit addresses and old programs, and the question which it is.
    let mut personalities: Alternatives = Vec::new();
    for personality in [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        personalities.push(vec![word(0, is.clone(), personality)?]);
    }
    let no_namespace = long(0, SeccompCmpOp::MaskedEq(NAMESPACE_FLAGS), 0)?;
    let no_typing = vec![
        word(1, SeccompCmpOp::Ne, TIOCSTI)?,
        word(1, SeccompCmpOp::Ne, TIOCLINUX)?,
    ];
    Ok(vec![
        (libc::SYS_clone, vec![vec![no_namespace]]),
        (libc::SYS_ioctl, vec![no_typing]),
        (libc::SYS_personality, personalities),
        (libc::SYS_socket, families),
    ])
}
