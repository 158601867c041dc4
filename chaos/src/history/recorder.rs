//! Records a history: handles that are cheap to clone feed it, and a file has a thread of its own.
//!
//! The recorder stamps the time in the thread that records: the beginning of an operation is never
//! late, its end never early.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use argosy_state::ids::Revision;

use super::{Event, Fault, History, Observation, Operation, Outcome, Process, What};

/// Events on their way to the thread that owns the history. When so many wait, whoever records waits
/// too: a history with holes would prove nothing.
const EVENTS_WAITING: usize = 65_536;

/// Why a history is not whole.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be written.
    #[error("cannot write the history {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread that records the history")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// The thread ended before its time.
    #[error("the thread that records the history has died")]
    Died,
}

/// An operation that is open. It is given back with its end; dropped, the operation stays open, which
/// checkers take for `info`.
#[derive(Debug)]
#[must_use = "an operation ends ok, fail or info"]
pub struct CallId {
    number: u64,
    process: Process,
}

impl CallId {
    /// Its number in the history.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

enum Message {
    Event(Event),
    End,
}

/// Where events go.
#[derive(Clone)]
enum Sink {
    /// Until the recording takes them.
    Memory(Arc<Mutex<Option<Vec<Event>>>>),
    File(SyncSender<Message>),
}

/// A handle by which events are recorded; every clone feeds the same history.
#[derive(Clone)]
pub struct Recorder {
    events: Sink,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    calls: Arc<AtomicU64>,
}

/// The history in the making: whoever holds it ends it.
pub struct Recording(Kept);

enum Kept {
    Memory(Arc<Mutex<Option<Vec<Event>>>>),
    File(
        SyncSender<Message>,
        JoinHandle<Result<Vec<Event>, RecordError>>,
    ),
}

impl Recorder {
    /// Records in memory. `clock` gives nanoseconds since the run began.
    #[must_use]
    pub fn in_memory(clock: impl Fn() -> u64 + Send + Sync + 'static) -> (Self, Recording) {
        let kept = Arc::new(Mutex::new(Some(Vec::new())));
        let recorder = Self::new(Sink::Memory(kept.clone()), clock);
        (recorder, Recording(Kept::Memory(kept)))
    }

    /// Records in memory and, line by line, into a new file at `path`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn to_file(
        path: &Path,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<(Self, Recording), RecordError> {
        let file = File::create(path).map_err(|source| RecordError::Write {
            path: path.to_owned(),
            source,
        })?;
        let (path, mut file) = (path.to_owned(), BufWriter::new(file));
        let (events, inbox) = sync_channel(EVENTS_WAITING);
        // A thread of its own: a busy runtime must not hold up the file, nor a slow disk the runtime.
        let owner = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || {
                own(&inbox, &mut file).map_err(|source| RecordError::Write { path, source })
            })
            .map_err(|source| RecordError::Start { source })?;
        let recorder = Self::new(Sink::File(events.clone()), clock);
        Ok((recorder, Recording(Kept::File(events, owner))))
    }

    fn new(events: Sink, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self {
            events,
            clock: Arc::new(clock),
            calls: Arc::new(AtomicU64::new(0)),
        }
    }

    /// An operation begins.
    pub fn invoke(&self, process: impl Into<Process>, operation: Operation) -> CallId {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let process = process.into();
        let call = number;
        self.record(process.clone(), None, What::Invoke { call, operation });
        CallId { number, process }
    }

    /// It took place.
    pub fn ok(&self, call: CallId, outcome: Outcome, revision: Option<Revision>) {
        let CallId { number, process } = call;
        let what = What::Ok {
            call: number,
            outcome,
        };
        self.record(process, revision, what);
    }

    /// It did not take place, and never will: only what the cluster definitely refused.
    pub fn fail(&self, call: CallId, reason: impl Into<String>) {
        let CallId { number, process } = call;
        let what = What::Fail {
            call: number,
            reason: reason.into(),
        };
        self.record(process, None, what);
    }

    /// Nobody knows whether it took place, or will: a timeout, a lost connection.
    pub fn info(&self, call: CallId, reason: impl Into<String>) {
        let CallId { number, process } = call;
        let what = What::Info {
            call: number,
            reason: reason.into(),
        };
        self.record(process, None, what);
    }

    /// The harness does something to the cluster; recorded just before it does.
    pub fn fault(&self, fault: Fault) {
        self.record(Process::new("nemesis"), None, What::Fault(fault));
    }

    /// Something was seen.
    pub fn observe(&self, process: impl Into<Process>, observation: impl Into<Observation>) {
        let what = What::Observation(observation.into());
        self.record(process.into(), None, what);
    }

    /// Something was seen that became true at this revision.
    pub fn observe_at(
        &self,
        process: impl Into<Process>,
        observation: impl Into<Observation>,
        revision: Revision,
    ) {
        let what = What::Observation(observation.into());
        self.record(process.into(), Some(revision), what);
    }

    /// Nanoseconds since the run began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        (self.clock)()
    }

    fn record(&self, process: Process, revision: Option<Revision>, what: What) {
        let event = Event {
            time_ns: self.now_ns(),
            process,
            revision,
            what,
        };
        // After the end of the recording there is nobody to tell: what comes then is no part of it.
        match &self.events {
            Sink::Memory(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept) = kept.as_mut() {
                    kept.push(event);
                }
            }
            Sink::File(events) => drop(events.send(Message::Event(event))),
        }
    }
}

impl Recording {
    /// Ends the history with what was recorded until now; handles that are still around record no
    /// more.
    ///
    /// # Errors
    /// If the file could not be written.
    pub fn finish(self) -> Result<History, RecordError> {
        let events = match self.0 {
            Kept::Memory(kept) => {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
                kept.expect("only the end takes it, and there is one")
            }
            Kept::File(events, owner) => {
                // A failure means that the owner has ended already, and it says why.
                let _ = events.send(Message::End);
                owner.join().map_err(|_| RecordError::Died)??
            }
        };
        Ok(History::new(events))
    }
}

/// The line of an event, with its end.
pub(super) fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("every event has a JSON form");
    line.push(b'\n');
    line
}

fn own(inbox: &Receiver<Message>, file: &mut BufWriter<File>) -> io::Result<Vec<Event>> {
    let mut kept = Vec::new();
    loop {
        let message = match inbox.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty) => {
                // Whoever follows the file sees everything as soon as there is a pause.
                file.flush()?;
                inbox.recv().ok()
            }
            Err(TryRecvError::Disconnected) => None,
        };
        let Some(Message::Event(event)) = message else {
            file.flush()?;
            return Ok(kept);
        };
        file.write_all(&line(&event))?;
        kept.push(event);
    }
}
