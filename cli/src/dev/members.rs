//! The processes of a dev cluster: start, supervision, stop.
//!
//! A member that was restarted manually is stopped too, by its pid file. This is part of the
//! product and does not use `testbed`, which serves tests. What both need to know about the cgroups
//! of an agent is in `argosy_isolation::cgroup`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use argosy_host::ProcessId;
use argosy_isolation::cgroup;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use nix::sys::signal::Signal;
use tokio::process::{Child, ChildStdin, Command};

use super::access_flags::INHERITED;
use super::plan::{DevMember, DevPlan, MemberKind};
use crate::args::former_variable;
use crate::exit::Failure;
use crate::pid_file;

/// Time for a member to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which process exits are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Variables that a member inherits in addition to those that are reported as opened.
const LOGS: [&str; 2] = ["ARGOSY_LOG", "ARGOSY_LOG_FORMAT"];
/// Number of log lines that are shown when a member fails.
const LINES: usize = 5;

/// The members and their processes.
pub(super) struct DevMembers {
    plan: DevPlan,
    /// The agents' cgroup trees, once known. A killed agent can no longer report its tree.
    pub(super) trees: Vec<PathBuf>,
    running: BTreeMap<String, MemberProcess>,
}

struct MemberProcess {
    child: Child,
    /// Its end signals the member that this process is gone.
    _input: Option<ChildStdin>,
    process: Option<ProcessId>,
}

impl DevMembers {
    pub(super) fn new(plan: &DevPlan) -> Self {
        Self {
            plan: plan.clone(),
            trees: Vec::new(),
            running: BTreeMap::new(),
        }
    }

    /// Starts all members.
    pub(super) fn start(&mut self, plan: &DevPlan, keeps: bool) -> anyhow::Result<()> {
        for member in &plan.members {
            if keeps {
                // A file of a cluster that did not shut down cleanly must not be mistaken for the
                // new one.
                let _ = fs::remove_file(&member.pid_file);
            }
            let running = start(member).with_context(|| format!("cannot start {}", member.name))?;
            self.running.insert(member.name.clone(), running);
        }
        Ok(())
    }

    /// Returns the first process of this member.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        let running = self.running.get(name)?;
        running.process.map(|process| process.pid as u32)
    }

    /// Returns a message about the next member whose process has exited. Never returns if none is
    /// left.
    pub(super) async fn next_end(&mut self) -> String {
        let mut waits: FuturesUnordered<_> = self
            .running
            .iter_mut()
            .map(|(name, running)| {
                running
                    .child
                    .wait()
                    .map(move |status| (name.clone(), status))
            })
            .collect();
        let Some((name, status)) = waits.next().await else {
            return std::future::pending().await;
        };
        drop(waits);
        self.running.remove(&name);
        let how = status.map_or_else(|error| error.to_string(), describe);
        format!("{name} has ended ({how}); {}", self.log_of(&name))
    }

    /// Returns a failure if a member has exited. No member exits while a cluster forms.
    pub(super) fn failed(&mut self) -> Option<Failure> {
        let ended = self.running.iter_mut().find_map(|(name, running)| {
            let status = running.child.try_wait().ok().flatten()?;
            Some((name.clone(), status))
        });
        let (name, status) = ended?;
        let member = self
            .plan
            .members
            .iter()
            .find(|member| member.name == name)?;
        let text = fs::read_to_string(&member.log).unwrap_or_default();
        let last: Vec<_> = text.lines().rev().take(LINES).collect();
        let failure = Failure::failed(format!(
            "{name} has ended ({}) before the cluster was ready",
            describe(status)
        ));
        Some(
            last.into_iter()
                .rev()
                .fold(failure, |failure, line| failure.advise(line)),
        )
    }

    /// Returns the processes that are running now, by member, including manually restarted ones.
    pub(super) fn running_processes(&self, kind: MemberKind) -> Vec<ProcessId> {
        let members = self
            .plan
            .members
            .iter()
            .filter(|member| member.kind == kind);
        let processes = members.flat_map(|member| {
            let ours = self
                .running
                .get(&member.name)
                .and_then(|running| running.process);
            [ours, pid_file::read(&member.pid_file).ok().flatten()]
        });
        let mut living: Vec<_> = processes
            .flatten()
            .filter(|process| pid_file::is_alive(*process))
            .collect();
        living.dedup();
        living
    }

    /// Finds the cgroup trees of the agents that are running now.
    pub(super) fn find_trees(&mut self) {
        let agents = self.running_processes(MemberKind::Agent).into_iter();
        let found = agents.filter_map(|agent| cgroup::agent_tree(agent.pid.cast_unsigned()));
        self.trees.extend(found);
        self.trees.sort();
        self.trees.dedup();
    }

    fn log_of(&self, name: &str) -> String {
        let member = self.plan.members.iter().find(|member| member.name == name);
        member
            .map(|member| format!("its log is {}", member.log.display()))
            .unwrap_or_default()
    }

    /// Stops all members of a kind, including manually restarted ones: `signal`, and KILL after a
    /// timeout.
    pub(super) async fn stop(&mut self, kind: MemberKind, signal: Signal) -> Result<(), Failure> {
        let mut waiting = self.running_processes(kind);
        let mut first = signal_all(&waiting, signal).err();
        if !wait_for_exit(&mut waiting, STOP_TIMEOUT).await {
            first = first.or(signal_all(&waiting, Signal::SIGKILL).err());
            if !wait_for_exit(&mut waiting, STOP_TIMEOUT).await {
                let pids: Vec<_> = waiting
                    .iter()
                    .map(|process| process.pid.to_string())
                    .collect();
                return Err(Failure::failed(format!(
                    "processes {} do not exit",
                    pids.join(", ")
                )));
            }
        }
        // Child processes are reaped here, so that none stays as a zombie while the rest is cleaned
        // up.
        for member in self
            .plan
            .members
            .iter()
            .filter(|member| member.kind == kind)
        {
            if let Some(mut running) = self.running.remove(&member.name) {
                let _ = running.child.wait().await;
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn start(member: &DevMember) -> anyhow::Result<MemberProcess> {
    let directory = member.log.parent().context("a log has a directory")?;
    // An agent without root privileges traverses it to its own; that of a master is private.
    let mode = match member.kind {
        MemberKind::Master => 0o700,
        MemberKind::Agent => 0o711,
    };
    let created = DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory);
    created.with_context(|| format!("cannot make {}", directory.display()))?;
    let log = File::options().create(true).append(true).open(&member.log);
    let log = log.with_context(|| format!("cannot write {}", member.log.display()))?;
    let (program, words) = member
        .argv
        .split_first()
        .context("a command line has a program")?;
    let mut command = Command::new(program);
    command
        .args(words)
        .args(&member.dev_flags)
        .stdin(Stdio::piped());
    command
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ARGOSY_") && !is_inherited(&text) {
            command.env_remove(&name);
        }
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot execute {program}"))?;
    let process = child.id().and_then(|pid| ProcessId::of(pid as i32).ok());
    Ok(MemberProcess {
        _input: child.stdin.take(),
        child,
        process,
    })
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn signal_all(processes: &[ProcessId], signal: Signal) -> Result<(), Failure> {
    for process in processes {
        pid_file::signal(*process, signal).map_err(|error| {
            Failure::failed(format!("cannot stop process {}: {error}", process.pid))
        })?;
    }
    Ok(())
}

/// Waits until all processes have exited. Those that have not stay in the list.
async fn wait_for_exit(processes: &mut Vec<ProcessId>, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        processes.retain(|process| pid_file::is_alive(*process));
        if processes.is_empty() || Instant::now() >= deadline {
            return processes.is_empty();
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns whether a member inherits this variable. Other `ARGOSY_` variables would contradict its
/// command line.
fn is_inherited(name: &str) -> bool {
    let mut opening = INHERITED.iter().map(|(inherited, _)| *inherited);
    LOGS.contains(&name)
        || opening.any(|inherited| name == inherited || former_variable(inherited) == Some(name))
}
