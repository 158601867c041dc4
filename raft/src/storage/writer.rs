//! The only writer of the disk: a first-in, first-out queue.
//!
//! Votes, entries, truncations, purges and applied records keep their order because every write
//! passes this queue. A write is never retried: the first error ends the process, and until then
//! everything is rejected.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use metrics::{Histogram, histogram};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::disk::{ChangeBatch, Disk, Durability};
use crate::concurrency::{self, JoinHandle, Mutex};
use crate::fatal::{FatalError, FatalHandler};

/// The maximum number of queued writes. When the queue is full, the sender waits: consensus or
/// apply slow down to the rate of the disk.
const QUEUE: usize = 64;

/// The maximum number of writes that are merged into one: an applied batch joins the next append
/// and costs no separate write.
const MAX_MERGED: usize = 32;

/// A callback for a completed write. It runs on the writer's thread: it must neither wait nor
/// panic.
pub(crate) type WriteCallback = Box<dyn FnOnce(io::Result<()>) + Send>;

#[derive(Clone)]
pub(crate) struct DiskWriter(Arc<Inner>);

struct Inner {
    jobs: mpsc::Sender<WriteJob>,
    worker: Mutex<Option<Worker>>,
}

/// The worker that empties the queue.
enum Worker {
    Thread(JoinHandle<()>),
    /// For a disk that does not block: simulations have no threads.
    Task(tokio::task::JoinHandle<()>),
}

enum WriteJob {
    Write {
        changes: ChangeBatch,
        durability: Durability,
        done: Option<WriteCallback>,
    },
    End,
}

/// The exclusive right to write.
struct WriteAccess {
    disk: Arc<dyn Disk>,
    fatal: FatalHandler,
    broken: Option<io::ErrorKind>,
    /// Durations of synced writes.
    synced: Histogram,
}

/// A reserved slot in the queue.
pub(crate) struct QueueSlot<'a>(mpsc::Permit<'a, WriteJob>);

impl QueueSlot<'_> {
    /// Queues the changes; `done` is called when they, and all before them, are written with the
    /// given durability. Without `done` and unsynced: for changes that a restart can repeat, which
    /// need order but not durability.
    pub(crate) fn queue(
        self,
        changes: ChangeBatch,
        durability: Durability,
        done: Option<WriteCallback>,
    ) {
        self.0.send(WriteJob::Write {
            changes,
            durability,
            done,
        });
    }
}

impl DiskWriter {
    /// Starts a thread if the disk may block, otherwise a task on the current runtime.
    pub(crate) fn start(disk: Arc<dyn Disk>, fatal: FatalHandler) -> io::Result<DiskWriter> {
        let threaded = disk.may_block();
        let hand = WriteAccess {
            disk,
            fatal,
            broken: None,
            synced: histogram!("argosy_raft_append_sync_duration_seconds"),
        };
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let worker = if threaded {
            let thread = concurrency::Builder::new().name("raft-writer".to_owned());
            Worker::Thread(thread.spawn(move || hand.work(inbox))?)
        } else {
            Worker::Task(tokio::spawn(hand.work_as_task(inbox)))
        };
        Ok(DiskWriter(Arc::new(Inner {
            jobs,
            worker: Mutex::new(Some(worker)),
        })))
    }

    /// Returns when the changes are queued; `done` is called when they, and all before them, are
    /// written with the given durability.
    async fn submit(
        &self,
        changes: ChangeBatch,
        durability: Durability,
        done: Option<WriteCallback>,
    ) -> io::Result<()> {
        self.reserve_slot().await?.queue(changes, durability, done);
        Ok(())
    }

    /// Returns when the changes, and all before them, are written with the given durability.
    pub(crate) async fn write(
        &self,
        changes: ChangeBatch,
        durability: Durability,
    ) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let done: WriteCallback = Box::new(move |result| {
            // A dropped caller does not need the answer.
            let _ = done.send(result);
        });
        self.submit(changes, durability, Some(done)).await?;
        answer.await.map_err(|_| ended())?
    }

    /// Returns when the changes are queued, and calls `done` when they, and all before them, are
    /// written with the given durability. `done` runs on the writer's thread, so it must neither
    /// wait nor panic.
    pub(crate) async fn write_then(
        &self,
        changes: ChangeBatch,
        durability: Durability,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let done: WriteCallback = Box::new(done);
        self.submit(changes, durability, Some(done)).await
    }

    /// Reserves a slot in the queue; waits until one is free.
    pub(crate) async fn reserve_slot(&self) -> io::Result<QueueSlot<'_>> {
        Ok(QueueSlot(self.0.jobs.reserve().await.map_err(|_| ended())?))
    }

    /// Returns when everything queued before is written.
    pub(crate) async fn drain(&self) -> io::Result<()> {
        self.write(ChangeBatch::default(), Durability::Buffered)
            .await
    }

    /// Writes everything queued, then rejects further writes. Returns when the worker has released
    /// the disk.
    pub(crate) async fn close(&self) {
        // A closed queue means that the worker has ended already.
        let _ = self.0.jobs.send(WriteJob::End).await;
        match self.0.take() {
            Some(Worker::Thread(thread)) => {
                // The thread has printed its panic, if any.
                let _ = concurrency::run_blocking(move || thread.join()).await;
            }
            Some(Worker::Task(task)) => {
                // The task has printed its panic, if any.
                let _ = task.await;
            }
            None => {}
        }
    }
}

impl Inner {
    fn take(&self) -> Option<Worker> {
        let mut worker = self.worker.lock().expect("no holder of the lock panics");
        worker.take()
    }
}

/// Ends the worker, which holds the disk, with the last handle: no part of the store keeps running
/// after its owner. A thread writes the queued changes first. A task is aborted, like a machine
/// that loses power.
impl Drop for Inner {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.jobs, closed));
        match self.take() {
            Some(Worker::Thread(thread)) => {
                // The thread has printed its panic, if any.
                let _ = thread.join();
            }
            Some(Worker::Task(task)) => task.abort(),
            None => {}
        }
    }
}

impl WriteAccess {
    fn work(mut self, mut inbox: mpsc::Receiver<WriteJob>) {
        while let Some(job) = concurrency::receive(&mut inbox) {
            if self.write_batch(job, &mut inbox).is_break() {
                return;
            }
        }
    }

    async fn work_as_task(mut self, mut inbox: mpsc::Receiver<WriteJob>) {
        while let Some(job) = inbox.recv().await {
            let delay = self.disk.delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if self.write_batch(job, &mut inbox).is_break() {
                return;
            }
        }
    }

    /// Writes the queued changes as one write. Breaks at the end.
    fn write_batch(
        &mut self,
        job: WriteJob,
        inbox: &mut mpsc::Receiver<WriteJob>,
    ) -> ControlFlow<()> {
        let mut merged = ChangeBatch::default();
        let mut durability = Durability::Buffered;
        let mut waiting = Vec::new();
        let mut next = Some(job);
        let mut count = 0;
        let mut end = ControlFlow::Continue(());
        while let Some(job) = next.take() {
            match job {
                WriteJob::Write {
                    changes,
                    durability: asked,
                    done,
                } => {
                    merged.0.extend(changes.0);
                    durability = durability.max(asked);
                    waiting.extend(done);
                }
                WriteJob::End => end = ControlFlow::Break(()),
            }
            count += 1;
            if count < MAX_MERGED && end.is_continue() {
                next = inbox.try_recv().ok();
            }
        }
        let result = self.perform(merged, durability);
        for done in waiting {
            done(copy(&result));
        }
        end
    }

    fn perform(&mut self, changes: ChangeBatch, durability: Durability) -> io::Result<()> {
        if let Some(kind) = self.broken {
            return Err(io::Error::new(
                kind,
                "an earlier write to this store failed",
            ));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let result = self.disk.write(changes, durability);
        if durability == Durability::Synced {
            self.synced.record(began.elapsed());
        }
        if let Err(source) = &result {
            self.broken = Some(source.kind());
            (self.fatal)(&FatalError {
                path: self.disk.name(),
                what: "write to",
                source: copy_error(source),
            });
        }
        result
    }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(copy_error(error)),
    }
}

fn copy_error(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the store is closed")
}
