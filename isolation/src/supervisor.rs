//! One container's keeper: holds its stdio, its deadlines and its exit status; outlives agent and launcher.
//!
//! Single-threaded, one loop. Decides nothing itself (`course` does), and knows nothing of why it runs what
//! it runs. It sits beside the container's group, so that killing the container leaves it alive to tell.

mod attached;
mod ending;
mod lacking;
mod start;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::cgroup::Group;
use crate::crash_points;
use crate::device_filter::DeviceFilter;
use crate::disable_layer;
use crate::exec;
use crate::messages::{
    Instruction, Notice, Order, Received, Report, Wait, receive_packet_with, send_packet,
    send_packet_with,
};
use crate::mounts::Template;
use crate::namespaces::Isolation;
use crate::output::Outputs;
use crate::port_filter::PortFilter;
use crate::process::{BootTime, kill_descendants};
use crate::seccomp::Filter;
use crate::spec::Spec;
use crate::state_dir::{HandOff, Handle, Usage};
use crate::sys::{self, Child};
use crate::termination::{Action, Course};
use attached::{Attached, Input};
pub(crate) use ending::{refuse_unread, sentence};

/// How many agents may listen at once; a further one is let go at once and tries again. One is usual, two
/// when an agent was replaced before its end was noticed.
const CONNECTIONS: usize = 8;

/// How often it is tried again to listen, and to note what of the output was dropped.
const LOOK_AGAIN_MS: u16 = 1000;

/// What all supervisors of a launcher share.
pub(crate) struct Host {
    pub(crate) boot_id: String,
    pub(crate) null: OwnedFd,
    /// Compiled once for all commands.
    pub(crate) filter: Filter,
    /// For all containers without devices of their own; `None` if this host allows no such filter.
    pub(crate) device_filter: Option<DeviceFilter>,
    /// For all commands in the host's network; `None` if this host allows no such filter.
    pub(crate) port_filter: Option<PortFilter>,
    /// What the views of all containers share; why not, in words, where this process may not make it.
    pub(crate) template: Result<Template, String>,
}

/// Runs in the new process; returns its exit code, which nobody reads.
pub(crate) fn run(request: &[u8], agent: OwnedFd, namespace: Option<&OwnedFd>, host: &Host) -> i32 {
    sys::expect_children();
    // None of these can fail in a way that would make it wrong to go on.
    let _ = nix::unistd::setsid();
    crash_points::passed("supervisor.begun");
    let _ = nix::sys::prctl::set_name(c"argosy-supervis");
    for target in 0..=2 {
        let _ = sys::replace_descriptor(&host.null, target);
    }
    let mut spec: Spec = match serde_json::from_slice(request) {
        Ok(spec) => spec,
        Err(error) => {
            refuse_unread(&agent, &format!("the launch request is garbled: {error}"));
            return 1;
        }
    };
    if let Err(error) = spec.check() {
        refuse_unread(&agent, &error.to_string());
        return 1;
    }
    disable_layer::apply(&mut spec);
    crash_points::passed("supervisor.request-read");
    let files = HandOff::at(&spec.directory);
    match start::start(&spec, &files, namespace, host) {
        Ok(started) => {
            let mut supervisor = Supervisor::new(&spec, files, agent, started);
            supervisor.attend();
            supervisor.finish();
            0
        }
        Err(error) => {
            ending::refuse(&spec, &files, &agent, &error);
            1
        }
    }
}

/// Listens where agents that adopt the container look for it.
fn listen_at(files: &HandOff) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    crate::messages::with_short_path(files.directory(), "control", |path| {
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)
    })?;
    listen(&listener, Backlog::new(CONNECTIONS as i32)?)?;
    Ok(listener)
}

struct Supervisor<'a> {
    spec: &'a Spec,
    files: HandOff,
    handle: Handle,
    group: Option<Group>,
    init: Child,
    channel: OwnedFd,
    /// Holds the container's mounts, so that the end of the last of its processes need not wait for theirs: that is left to
    /// our own end, once it is told how the command ended.
    mounts: Option<OwnedFd>,
    outputs: Outputs,
    attached: Attached,
    /// Where agents that adopt the container come in: made once the one that launched it is gone, which
    /// most containers do not live to see.
    listener: Option<OwnedFd>,
    connections: Vec<OwnedFd>,
    course: Course,
    timer: Option<TimerFd>,
    /// The deadline that the timer is set to.
    armed: Option<BootTime>,
    executed: bool,
    /// That everything is to end, where it does not end with init.
    init_told: bool,
    refusal: Option<String>,
    ended: Option<(i32, Usage)>,
    buffer: Vec<u8>,
}

/// Which of the watched descriptors have something.
struct Ready {
    init: bool,
    channel: bool,
    listener: bool,
    outputs: [bool; 2],
    /// Somebody who is attached, or what waits for the command's standard input.
    attached: bool,
    connections: Vec<bool>,
}

impl<'a> Supervisor<'a> {
    fn new(spec: &'a Spec, files: HandOff, agent: OwnedFd, started: start::Started) -> Self {
        Self {
            spec,
            files,
            handle: started.handle,
            group: started.group,
            mounts: start::mounts_of(spec, started.init.pid),
            init: started.init,
            channel: started.channel,
            outputs: started.outputs,
            attached: Attached::new(started.input, spec.stdin),
            listener: None,
            connections: vec![agent],
            course: Course::new(spec.stop_after, spec.stop_signal),
            timer: None,
            armed: None,
            executed: false,
            init_told: false,
            refusal: None,
            ended: None,
            buffer: Vec::new(),
        }
    }

    /// Serves until the container's init has ended.
    fn attend(&mut self) {
        loop {
            self.arm();
            self.be_found();
            let Ok(ready) = self.wait() else {
                // Without poll there is nothing to live on; init sees the channel close and ends.
                return;
            };
            // What is left after this turn makes the next wait a short one.
            self.pump(ready.outputs);
            if ready.attached {
                for signal in self.attached.serve() {
                    self.perform(Action::Signal(signal));
                }
            }
            if ready.channel {
                self.read_reports();
            }
            self.read_orders(&ready.connections);
            if ready.listener {
                self.accept();
            }
            if let Some(action) = self.course.tick(BootTime::now()) {
                self.perform(action);
            }
            if ready.init {
                return;
            }
        }
    }

    fn wait(&self) -> Result<Ready, Errno> {
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
        let attached = self.attached.watched();
        watched.extend(attached.map(|(fd, events)| PollFd::new(fd, events)));
        let connections_from = watched.len();
        watched.extend(
            self.connections
                .iter()
                .map(|connection| input(connection.as_fd())),
        );
        let timeout = if self.is_unreachable() || self.outputs.is_unsettled() {
            PollTimeout::from(LOOK_AGAIN_MS)
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
        Ok(Ready {
            init: has(0),
            channel: has(1),
            listener: self.listener.is_some() && has(listener_at),
            outputs,
            attached: (attached_from..connections_from).any(has),
            connections: (connections_from..watched.len()).map(has).collect(),
        })
    }

    /// Sets the timer to the next deadline. On the boot clock, so that it fires right after a suspend.
    fn arm(&mut self) {
        let next = self.course.next();
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
        set.expect("a valid instant can be set on a timer of ours");
    }

    fn read_reports(&mut self) {
        loop {
            match receive_packet_with(&self.channel, Wait::Return) {
                Ok(Received::Message((Report::Terminal, sides))) => self.take_terminal(sides),
                Ok(Received::Message((Report::Started, _))) => {
                    self.executed = true;
                    self.tell(&Notice::Started(Box::new(self.handle.clone())));
                    crash_points::passed("supervisor.start-told");
                }
                Ok(Received::Message((Report::Failed { reason }, _))) => {
                    self.refusal = Some(reason);
                }
                Ok(Received::Message((Report::Ended { status, usage }, _))) => {
                    self.ended = Some((status, usage));
                }
                Ok(Received::Nothing) => return,
                // Init is about to end, or does not speak our language: its end is what counts.
                Ok(Received::Closed) | Err(_) => return self.wait_for_init(),
            }
        }
    }

    /// Takes the terminal that init has made, before anything of the container's runs. What init sends is written to and
    /// resized by this process, which is root: it must be the master of a terminal, and the command's side is that
    /// master's own.
    fn take_terminal(&mut self, sides: Vec<OwnedFd>) {
        let master = sides.into_iter().next().filter(|_| !self.executed);
        let Some(master) = master else { return };
        let Ok(command_side) = exec::terminal_peer(&master) else {
            return;
        };
        // Without a descriptor for it the command's output is still heard.
        let input = master.try_clone().map_err(|_| Errno::EMFILE);
        if let Ok(input) = input.and_then(|master| Input::terminal(master, command_side)) {
            self.attached.give_terminal(input);
        }
        self.outputs.come_from_terminal(master);
    }

    fn pump(&mut self, ready: [bool; 2]) {
        let attached = &mut self.attached;
        let show = &mut |stream, bytes: &[u8]| attached.tell(stream, bytes);
        self.outputs.pump(ready, &mut self.buffer, show);
    }

    /// The channel stays readable once closed; only the end of init, due at once, is of interest then.
    fn wait_for_init(&self) {
        let patience = std::time::Duration::from_millis(10);
        // Polled again in the loop: this only keeps the loop from spinning.
        let _ = crate::process::has_ended(&self.init.handle, patience);
    }

    fn is_unreachable(&self) -> bool {
        self.connections.is_empty() && self.listener.is_none()
    }

    /// Listens once nobody is connected any more. What keeps it from listening (a full disk) may pass.
    fn be_found(&mut self) {
        if self.is_unreachable() {
            self.listener = listen_at(&self.files).ok();
            crash_points::passed("supervisor.listening");
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
                let started = Notice::Started(Box::new(self.handle.clone()));
                if send_packet(&connection, &started, Wait::Return).is_err() {
                    continue;
                }
            }
            self.connections.push(connection);
            crash_points::passed("supervisor.accepted");
        }
    }

    /// Tells every agent; one that does not drain its socket is let go and adopts again.
    fn tell(&mut self, notice: &Notice) -> bool {
        self.connections
            .retain(|connection| send_packet(connection, notice, Wait::Return).is_ok());
        !self.connections.is_empty()
    }

    fn read_orders(&mut self, ready: &[bool]) {
        let mut orders = Vec::new();
        let mut ready = ready.iter();
        self.connections.retain(|connection| {
            if ready.next() != Some(&true) {
                return true;
            }
            match receive_packet_with::<Order>(connection, Wait::Return) {
                Ok(Received::Message(order)) => orders.push(order),
                Ok(Received::Nothing) => {}
                Ok(Received::Closed) | Err(_) => return false,
            }
            true
        });
        for (order, descriptors) in orders {
            crash_points::passed("supervisor.ordered");
            match order {
                Order::Enter => descriptors.iter().for_each(|session| self.let_in(session)),
                Order::Attach { stdin } => descriptors
                    .into_iter()
                    .for_each(|session| self.attach(session, stdin)),
                Order::Signal { .. } | Order::Kill { .. } | Order::Renew { .. } => {}
            }
            if let Some(action) = self.course.order(BootTime::now(), order) {
                self.perform(action);
            }
        }
    }

    fn attach(&mut self, session: OwnedFd, stdin: bool) {
        if !self.executed {
            return attached::refuse(&session, "it has not been started yet: try again");
        }
        let begins = self.outputs.lengths();
        self.attached.admit(session, stdin, begins);
    }

    /// Init makes the command and keeps its session: nothing of it passes through here, so that a supervisor stays
    /// small, and what is entered gets its confinement from where the container's own command got it.
    fn let_in(&self, session: &OwnedFd) {
        if !self.executed {
            let reason = "the container's own command has not been started yet: try again";
            return exec::refuse(session, reason.to_owned());
        }
        let descriptors = [session.as_fd()];
        let (enter, wait) = (Instruction::Enter, Wait::Return);
        if send_packet_with(&self.channel, &enter, &descriptors, wait).is_err() {
            let reason = "the container ends, or too many are about to enter it: try again";
            exec::refuse(session, reason.to_owned());
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            // Init that is gone, or its queue full of signals: the kill that follows needs neither.
            Action::Signal(signal) => {
                let _ = send_packet(&self.channel, &Instruction::Signal(signal), Wait::Return);
            }
            Action::KillAll => self.kill_all(),
        }
    }

    /// Each failure below leaves something alive, which the next round, a second later, tries again.
    fn kill_all(&mut self) {
        if self.group.is_none() && !self.spec.namespaces.pid && !self.init_told {
            // Only init can end all that it started, and should we end meanwhile it goes on doing so: it is killed itself,
            // which leaves the rest to us alone, if nothing has come of that by the next round.
            self.init_told = true;
            return self.perform(Action::Signal(libc::SIGKILL));
        }
        if let Some(group) = &self.group {
            let _ = group.kill();
        }
        let _ = sys::pidfd_send_signal(self.init.handle.as_fd(), libc::SIGKILL);
        crash_points::passed("supervisor.killed-all");
    }

    /// Ends what the command left behind where no pid namespace did.
    fn kill_the_rest(&self) {
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
