//! Recorder of a history. Its handles are cheap to clone, and a dedicated thread writes the file.
//!
//! The recorder stamps the time in the recording thread. The beginning of an operation is never
//! stamped late, and its end is never stamped early.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use argosy_state::ids::Revision;

use super::{
    EventKind, Fault, History, HistoryEvent, Observation, Operation, OperationResponse, ProcessName,
};

/// Capacity of the queue to the thread that owns the history. When it is full, recording blocks: a
/// history with gaps would prove nothing.
const EVENT_QUEUE_CAPACITY: usize = 65_536;

/// The reason why a history is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot write the history {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that records the history")]
    Start { source: io::Error },
    #[error("the history recorder thread ended early")]
    WriterExited,
}

/// An open operation. It is passed back with its end. If it is dropped, the operation stays open,
/// which checkers treat as `info`.
#[derive(Debug)]
#[must_use = "an operation ends ok, fail or info"]
pub struct CallId {
    number: u64,
    process: ProcessName,
}

impl CallId {
    /// Returns its number in the history.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

enum WriterMessage {
    Event(HistoryEvent),
    End,
}

/// The destination of events.
#[derive(Clone)]
enum EventSink {
    /// In memory, until the recording takes them.
    Memory(Arc<Mutex<Option<Vec<HistoryEvent>>>>),
    File(SyncSender<WriterMessage>),
}

/// A handle that records events. All clones feed the same history.
#[derive(Clone)]
pub struct Recorder {
    sink: EventSink,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    next_call: Arc<AtomicU64>,
}

/// A history that is being recorded. Its owner finishes it.
pub struct Recording(RecordingStore);

enum RecordingStore {
    Memory(Arc<Mutex<Option<Vec<HistoryEvent>>>>),
    File(
        SyncSender<WriterMessage>,
        JoinHandle<Result<Vec<HistoryEvent>, RecordError>>,
    ),
}

impl Recorder {
    /// Records in memory. `clock` returns nanoseconds since the run began.
    #[must_use]
    pub fn in_memory(clock: impl Fn() -> u64 + Send + Sync + 'static) -> (Self, Recording) {
        let kept = Arc::new(Mutex::new(Some(Vec::new())));
        let recorder = Self::new(EventSink::Memory(kept.clone()), clock);
        (recorder, Recording(RecordingStore::Memory(kept)))
    }

    /// Records in memory and, line by line, into a new file at `path`.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn to_file(
        path: &Path,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<(Self, Recording), RecordError> {
        let file = File::create(path).map_err(|source| RecordError::Write {
            path: path.to_owned(),
            source,
        })?;
        let (path, mut file) = (path.to_owned(), BufWriter::new(file));
        let (events, inbox) = sync_channel(EVENT_QUEUE_CAPACITY);
        // A dedicated thread: a busy runtime must not delay the file, and a slow disk must not
        // delay the runtime.
        let owner = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || {
                run_writer(&inbox, &mut file).map_err(|source| RecordError::Write { path, source })
            })
            .map_err(|source| RecordError::Start { source })?;
        let recorder = Self::new(EventSink::File(events.clone()), clock);
        Ok((recorder, Recording(RecordingStore::File(events, owner))))
    }

    fn new(events: EventSink, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self {
            sink: events,
            clock: Arc::new(clock),
            next_call: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Records the beginning of an operation.
    pub fn invoke(&self, process: impl Into<ProcessName>, operation: Operation) -> CallId {
        let number = self.next_call.fetch_add(1, Ordering::Relaxed) + 1;
        let process = process.into();
        let call = number;
        self.record(process.clone(), None, EventKind::Invoke { call, operation });
        CallId { number, process }
    }

    /// Records that an operation took place.
    pub fn ok(&self, call: CallId, outcome: OperationResponse, revision: Option<Revision>) {
        let CallId { number, process } = call;
        let what = EventKind::Ok {
            call: number,
            outcome,
        };
        self.record(process, revision, what);
    }

    /// Records that an operation did not take place and never will: only for definite rejections.
    pub fn fail(&self, call: CallId, reason: impl Into<String>) {
        let CallId { number, process } = call;
        let what = EventKind::Fail {
            call: number,
            reason: reason.into(),
        };
        self.record(process, None, what);
    }

    /// Records that the outcome of an operation is unknown: a timeout, a lost connection.
    pub fn info(&self, call: CallId, reason: impl Into<String>) {
        let CallId { number, process } = call;
        let what = EventKind::Info {
            call: number,
            reason: reason.into(),
        };
        self.record(process, None, what);
    }

    /// Records a fault, just before it is injected.
    pub fn fault(&self, fault: Fault) {
        self.record(ProcessName::new("nemesis"), None, EventKind::Fault(fault));
    }

    /// Records an observation.
    pub fn observe(&self, process: impl Into<ProcessName>, observation: impl Into<Observation>) {
        let what = EventKind::Observation(observation.into());
        self.record(process.into(), None, what);
    }

    /// Records an observation of something that became true at this revision.
    pub fn observe_at(
        &self,
        process: impl Into<ProcessName>,
        observation: impl Into<Observation>,
        revision: Revision,
    ) {
        let what = EventKind::Observation(observation.into());
        self.record(process.into(), Some(revision), what);
    }

    /// Returns the nanoseconds since the run began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        (self.clock)()
    }

    fn record(&self, process: ProcessName, revision: Option<Revision>, what: EventKind) {
        let event = HistoryEvent {
            time_ns: self.now_ns(),
            process,
            revision,
            what,
        };
        // After the recording has ended there is no receiver. Later events are not part of the
        // history.
        match &self.sink {
            EventSink::Memory(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept) = kept.as_mut() {
                    kept.push(event);
                }
            }
            EventSink::File(events) => drop(events.send(WriterMessage::Event(event))),
        }
    }
}

impl Recording {
    /// Ends the history with the events that were recorded until now. Remaining handles record
    /// nothing more.
    ///
    /// # Errors
    /// If the file could not be written.
    pub fn finish(self) -> Result<History, RecordError> {
        let events = match self.0 {
            RecordingStore::Memory(kept) => {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
                kept.expect("only the end takes it, and there is one")
            }
            RecordingStore::File(events, owner) => {
                // A failure means that the owner thread has ended already; its result has the
                // reason.
                let _ = events.send(WriterMessage::End);
                owner.join().map_err(|_| RecordError::WriterExited)??
            }
        };
        Ok(History::new(events))
    }
}

/// Returns the line of an event, with its line end.
pub(super) fn line(event: &HistoryEvent) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("every event has a JSON form");
    line.push(b'\n');
    line
}

fn run_writer(
    inbox: &Receiver<WriterMessage>,
    file: &mut BufWriter<File>,
) -> io::Result<Vec<HistoryEvent>> {
    let mut events = Vec::new();
    loop {
        let message = match inbox.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty) => {
                // Flushes on every pause, so that a reader that follows the file sees all events.
                file.flush()?;
                inbox.recv().ok()
            }
            Err(TryRecvError::Disconnected) => None,
        };
        let Some(WriterMessage::Event(event)) = message else {
            file.flush()?;
            return Ok(events);
        };
        file.write_all(&line(&event))?;
        events.push(event);
    }
}
