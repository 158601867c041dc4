//! The supervisor of one container: holds its stdio, its deadlines and its exit status; outlives
//! agent and launcher.
//!
//! Single-threaded, with one loop. `termination` makes the decisions; the supervisor does not know
//! the purpose of its command. It is outside the container's group, so that it survives when the
//! group is killed, and can report.

mod attached;
mod ending;
mod lacking;
mod start;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use argosy_host::BootTime;
use argosy_host::packets::{
    ReceiveResult, WaitMode, receive_packet_with, send_packet, send_packet_with,
};
use argosy_host::process::kill_descendants;
use argosy_host::sys::{self, ClonedChild};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::cgroup::Cgroup;
use crate::confinement::device_filter::DeviceFilter;
use crate::confinement::port_filter::PortFilter;
use crate::confinement::seccomp::SeccompFilter;
use crate::rootfs::mount_calls::MountError;
use crate::rootfs::mounts::MountTemplate;
use crate::runtime::exec;
use crate::runtime::messages::{InitInstruction, InitReport, SupervisorNotice, SupervisorRequest};
use crate::runtime::output::CommandOutput;
use crate::runtime::termination::{Termination, TerminationAction};
use crate::spec::{Isolation, LaunchSpec};
use crate::state_dir::{Handle, LifetimeUsage, StateDirectory};
use argosy_host::crash_point;
use attached::{AttachedClients, CommandInput};
pub(crate) use ending::refuse_unread;

/// The maximum number of connected agents; a further one is disconnected immediately and tries
/// again. One is usual, two when an agent was replaced before its end was detected.
const CONNECTIONS: usize = 8;

/// The interval for retrying to listen, and for notes about dropped output.
const RETRY_MS: u16 = 1000;

/// State that all supervisors of a launcher share.
pub(crate) struct SupervisorContext {
    pub(crate) boot_id: String,
    pub(crate) null: OwnedFd,
    /// Compiled once for all commands.
    pub(crate) filter: SeccompFilter,
    /// For all containers without extra devices; `None` if this host allows no such filter.
    pub(crate) device_filter: Option<DeviceFilter>,
    /// For all commands in the host's network; `None` if this host allows no such filter.
    pub(crate) port_filter: Option<PortFilter>,
    /// The mounts that all containers share. An error refuses the launch of containers with a
    /// profile; the launcher tries again before each launch.
    pub(crate) template: Result<MountTemplate, MountError>,
}

/// Runs in the new process; returns its exit code, which is not used.
pub(crate) fn run(
    request: &[u8],
    agent: OwnedFd,
    received: Vec<OwnedFd>,
    host: &SupervisorContext,
) -> i32 {
    sys::expect_children();
    // It is safe to continue if any of these fails.
    let _ = nix::unistd::setsid();
    crash_point!("supervisor.begun");
    let _ = nix::sys::prctl::set_name(c"argosy-supervis");
    for target in 0..=2 {
        let _ = sys::replace_descriptor(&host.null, target);
    }
    let mut spec: LaunchSpec = match serde_json::from_slice(request) {
        Ok(spec) => spec,
        Err(error) => {
            refuse_unread(&agent, &format!("the launch request is invalid: {error}"));
            return 1;
        }
    };
    if let Err(error) = spec.check() {
        refuse_unread(&agent, &error.to_string());
        return 1;
    }
    spec.drop_disabled_layers();
    crash_point!("supervisor.request-read");
    let files = StateDirectory::at(&spec.directory);
    match start::start(&spec, &files, received, host) {
        Ok(started) => {
            let mut supervisor = Supervisor::new(&spec, files, agent, started);
            supervisor.run();
            supervisor.finish();
            0
        }
        Err(error) => {
            ending::refuse(&spec, &files, &agent, &error);
            1
        }
    }
}

/// Listens at the path that adopting agents connect to.
fn listen_at(files: &StateDirectory) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    crate::runtime::messages::with_short_path(files.directory(), "control", |path| {
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)
    })?;
    listen(&listener, Backlog::new(CONNECTIONS as i32)?)?;
    Ok(listener)
}

struct Supervisor<'a> {
    spec: &'a LaunchSpec,
    files: StateDirectory,
    handle: Handle,
    group: Option<Cgroup>,
    init: ClonedChild,
    channel: OwnedFd,
    /// Holds the container's mounts, so that the end of its last process need not wait for their
    /// release. They are released when the supervisor exits, after it has reported the end.
    mounts: Option<OwnedFd>,
    outputs: CommandOutput,
    attached: AttachedClients,
    /// The socket for agents that adopt the container: created once the launching agent has exited,
    /// which most containers do not outlive.
    listener: Option<OwnedFd>,
    connections: Vec<OwnedFd>,
    termination: Termination,
    timer: Option<TimerFd>,
    /// The deadline that the timer is set to.
    armed: Option<BootTime>,
    executed: bool,
    /// Whether init was ordered to kill everything, where its end does not do so.
    kill_sent: bool,
    refusal: Option<String>,
    exit_status: Option<(i32, LifetimeUsage)>,
    buffer: Vec<u8>,
}

/// The watched descriptors that are ready.
struct ReadyDescriptors {
    init: bool,
    channel: bool,
    listener: bool,
    outputs: [bool; 2],
    /// An attached client, or the command's standard input with pending data.
    attached: bool,
    connections: Vec<bool>,
}

impl<'a> Supervisor<'a> {
    fn new(
        spec: &'a LaunchSpec,
        files: StateDirectory,
        agent: OwnedFd,
        started: start::StartedContainer,
    ) -> Self {
        Self {
            spec,
            files,
            handle: started.handle,
            group: started.group,
            mounts: start::mounts_of(spec, started.init.pid),
            init: started.init,
            channel: started.channel,
            outputs: started.outputs,
            attached: AttachedClients::new(started.input, spec.stdin),
            listener: None,
            connections: vec![agent],
            termination: Termination::new(spec.stop_after, spec.stop_signal),
            timer: None,
            armed: None,
            executed: false,
            kill_sent: false,
            refusal: None,
            exit_status: None,
            buffer: Vec::new(),
        }
    }

    /// Serves until the container's init has ended.
    fn run(&mut self) {
        loop {
            self.arm();
            self.listen();
            let Ok(ready) = self.wait() else {
                // Without poll the supervisor cannot work; init sees the channel close and exits.
                return;
            };
            // Data that is left after this turn shortens the next wait.
            self.pump(ready.outputs);
            if ready.attached {
                for signal in self.attached.serve() {
                    self.perform(TerminationAction::Signal(signal));
                }
            }
            if ready.channel {
                self.read_reports();
            }
            self.read_requests(&ready.connections);
            if ready.listener {
                self.accept();
            }
            if let Some(action) = self.termination.tick(BootTime::now()) {
                self.perform(action);
            }
            if ready.init {
                return;
            }
        }
    }

    fn wait(&self) -> Result<ReadyDescriptors, Errno> {
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watched = vec![input(self.init.handle.as_fd()), input(self.channel.as_fd())];
        watched.extend(self.timer.as_ref().map(|timer| input(timer.as_fd())));
        let listener_at = watched.len();
        watched.extend(
            self.listener
                .as_ref()
                .map(|listener| input(listener.as_fd())),
        );
        let outputs_from = watched.len();
        let pipes = self.outputs.pipes();
        watched.extend(pipes.iter().flatten().copied().map(input));
        let attached_from = watched.len();
        let attached = self.attached.poll_fds();
        watched.extend(attached.map(|(fd, events)| PollFd::new(fd, events)));
        let connections_from = watched.len();
        watched.extend(
            self.connections
                .iter()
                .map(|connection| input(connection.as_fd())),
        );
        let timeout = if self.is_unreachable() || self.outputs.has_pending_note() {
            PollTimeout::from(RETRY_MS)
        } else {
            PollTimeout::NONE
        };
        while let Err(errno) = poll(&mut watched, timeout) {
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
        let has = |index: usize| watched[index].any() == Some(true);
        let mut next = outputs_from;
        let outputs = pipes.map(|pipe| {
            next += usize::from(pipe.is_some());
            pipe.is_some() && has(next - 1)
        });
        Ok(ReadyDescriptors {
            init: has(0),
            channel: has(1),
            listener: self.listener.is_some() && has(listener_at),
            outputs,
            attached: (attached_from..connections_from).any(has),
            connections: (connections_from..watched.len()).map(has).collect(),
        })
    }

    /// Sets the timer to the next deadline. It uses the boot clock, so that it fires right after a
    /// suspend.
    fn arm(&mut self) {
        let next = self.termination.next();
        if next == self.armed {
            return;
        }
        self.armed = next;
        if self.timer.is_none() {
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            self.timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).ok();
        }
        let Some(timer) = &self.timer else { return };
        let set = match next {
            Some(BootTime(milliseconds)) => {
                let duration = std::time::Duration::from_millis(milliseconds.max(1));
                let at = Expiration::OneShot(TimeSpec::from_duration(duration));
                timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
            None => timer.unset(),
        };
        set.expect("a valid instant can be set on our timer");
    }

    fn read_reports(&mut self) {
        loop {
            match receive_packet_with(&self.channel, WaitMode::Return) {
                Ok(ReceiveResult::Message((InitReport::Terminal, sides))) => {
                    self.take_terminal(sides)
                }
                Ok(ReceiveResult::Message((InitReport::Started, _))) => {
                    self.executed = true;
                    self.send_notice(&SupervisorNotice::Started(Box::new(self.handle.clone())));
                    crash_point!("supervisor.start-sent");
                }
                Ok(ReceiveResult::Message((InitReport::Failed { reason }, _))) => {
                    self.refusal = Some(reason);
                }
                Ok(ReceiveResult::Message((InitReport::Ended { status, usage }, _))) => {
                    self.exit_status = Some((status, usage));
                }
                Ok(ReceiveResult::Nothing) => return,
                // Init is about to exit, or its message is invalid: its exit decides.
                Ok(ReceiveResult::Closed) | Err(_) => return self.wait_for_init(),
            }
        }
    }

    /// Takes the terminal that init has created, before any program of the container runs. This
    /// process, which is root, writes to it and resizes it. So it must be the master of a terminal,
    /// and the command's end must belong to that master.
    fn take_terminal(&mut self, ends: Vec<OwnedFd>) {
        let master = ends.into_iter().next().filter(|_| !self.executed);
        let Some(master) = master else { return };
        let Ok(command_side) = exec::terminal_peer(&master) else {
            return;
        };
        // Without a descriptor for it the command's output is still read.
        let input = master.try_clone().map_err(|_| Errno::EMFILE);
        if let Ok(input) = input.and_then(|master| CommandInput::terminal(master, command_side)) {
            self.attached.set_terminal(input);
        }
        self.outputs.attach_terminal(master);
    }

    fn pump(&mut self, ready: [bool; 2]) {
        let attached = &mut self.attached;
        let show = &mut |stream, bytes: &[u8]| attached.send_output(stream, bytes);
        self.outputs.pump(ready, &mut self.buffer, show);
    }

    /// Waits for the end of init, which is due immediately: the channel stays readable once closed.
    fn wait_for_init(&self) {
        let timeout = std::time::Duration::from_millis(10);
        // The loop polls again: this wait only keeps it from spinning.
        let _ = argosy_host::process::has_ended(&self.init.handle, timeout);
    }

    fn is_unreachable(&self) -> bool {
        self.connections.is_empty() && self.listener.is_none()
    }

    /// Listens once no agent is connected. An error (a full disk) may be temporary, so it is
    /// retried.
    fn listen(&mut self) {
        if self.is_unreachable() {
            self.listener = listen_at(&self.files).ok();
            crash_point!("supervisor.listening");
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        while let Ok(connection) = sys::accept(listener.as_fd()) {
            let own = nix::unistd::geteuid().as_raw();
            let peer = getsockopt(&connection, sockopt::PeerCredentials).map(|peer| peer.uid());
            if !peer.is_ok_and(|peer| peer == own || peer == 0)
                || self.connections.len() >= CONNECTIONS
            {
                continue;
            }
            if self.executed {
                let started = SupervisorNotice::Started(Box::new(self.handle.clone()));
                if send_packet(&connection, &started, WaitMode::Return).is_err() {
                    continue;
                }
            }
            self.connections.push(connection);
            crash_point!("supervisor.accepted");
        }
    }

    /// Sends a notice to every agent. An agent that does not drain its socket is disconnected, and
    /// adopts again.
    fn send_notice(&mut self, notice: &SupervisorNotice) -> bool {
        self.connections
            .retain(|connection| send_packet(connection, notice, WaitMode::Return).is_ok());
        !self.connections.is_empty()
    }

    fn read_requests(&mut self, ready: &[bool]) {
        let mut orders = Vec::new();
        let mut ready = ready.iter();
        self.connections.retain(|connection| {
            if ready.next() != Some(&true) {
                return true;
            }
            match receive_packet_with::<SupervisorRequest>(connection, WaitMode::Return) {
                Ok(ReceiveResult::Message(order)) => orders.push(order),
                Ok(ReceiveResult::Nothing) => {}
                Ok(ReceiveResult::Closed) | Err(_) => return false,
            }
            true
        });
        for (order, descriptors) in orders {
            crash_point!("supervisor.ordered");
            match order {
                SupervisorRequest::Exec => descriptors
                    .iter()
                    .for_each(|session| self.start_exec(session)),
                SupervisorRequest::Attach { stdin } => descriptors
                    .into_iter()
                    .for_each(|session| self.attach(session, stdin)),
                SupervisorRequest::Signal { .. }
                | SupervisorRequest::Kill { .. }
                | SupervisorRequest::Renew { .. } => {}
            }
            if let Some(action) = self.termination.request(BootTime::now(), order) {
                self.perform(action);
            }
        }
    }

    fn attach(&mut self, session: OwnedFd, stdin: bool) {
        if !self.executed {
            return attached::refuse(&session, "it has not been started yet: try again");
        }
        let begins = self.outputs.lengths();
        self.attached.attach(session, stdin, begins);
    }

    /// Passes the session to init, which starts the command and holds the session. Its data does
    /// not pass through the supervisor, which stays small, and the command gets its confinement
    /// from the same process as the main command.
    fn start_exec(&self, session: &OwnedFd) {
        if !self.executed {
            let reason = "the container's main command has not been started yet: try again";
            return exec::refuse(session, reason.to_owned());
        }
        let descriptors = [session.as_fd()];
        let (enter, wait) = (InitInstruction::Exec, WaitMode::Return);
        if send_packet_with(&self.channel, &enter, &descriptors, wait).is_err() {
            let reason = "the container is ending, or has too many exec requests: try again";
            exec::refuse(session, reason.to_owned());
        }
    }

    fn perform(&mut self, action: TerminationAction) {
        match action {
            // If init has exited, or its queue is full of signals, the kill that follows needs
            // neither.
            TerminationAction::Signal(signal) => {
                let _ = send_packet(
                    &self.channel,
                    &InitInstruction::Signal(signal),
                    WaitMode::Return,
                );
            }
            TerminationAction::KillAll => self.kill_all(),
        }
    }

    /// Kills everything. Each failure below leaves a process alive, which the next round, a second
    /// later, tries again.
    fn kill_all(&mut self) {
        if self.group.is_none() && !self.spec.namespaces.pid && !self.kill_sent {
            // Only init knows all the processes that it started, and it continues to kill them if
            // the supervisor dies. If it has not finished by the next round, it is killed itself,
            // and the supervisor kills the rest.
            self.kill_sent = true;
            return self.perform(TerminationAction::Signal(libc::SIGKILL));
        }
        if let Some(group) = &self.group {
            let _ = group.kill();
        }
        let _ = sys::pidfd_send_signal(self.init.handle.as_fd(), libc::SIGKILL);
        crash_point!("supervisor.killed-all");
    }

    /// Kills what the command left behind where no pid namespace did.
    fn kill_leftovers(&self) {
        if self.spec.namespaces.pid {
            return;
        }
        if let Some(group) = &self.group {
            let _ = group.kill();
        }
        if self.spec.isolation != Isolation::Full || self.group.is_none() {
            kill_descendants();
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
