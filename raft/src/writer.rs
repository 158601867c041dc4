//! The one place from which the disk is written: a queue, first in, first out.
//!
//! Votes, entries, truncations, purges and applied records keep their order because nothing writes past this queue. It never
//! retries: the first error ends the process, and until it has ended everything is refused.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::disk::{Changes, Disk, Durability};
use crate::fatal::{Fatal, FatalError};

/// Writes that wait. When full, the sender waits: consensus or apply slow down to the pace of the disk.
const QUEUE: usize = 64;

/// Writes that are merged into one: an applied batch rides with the next append and costs no turn of its own.
const MERGED: usize = 32;

#[derive(Clone)]
pub(crate) struct Writer(Arc<Inner>);

enum Inner {
    /// The disk does not block: written in place. The lock lets writers in as they came, also over a made-up delay.
    Inline(tokio::sync::Mutex<Hand>),
    Thread {
        jobs: mpsc::Sender<Job>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
}

enum Job {
    Write {
        changes: Changes,
        durability: Durability,
        done: Option<oneshot::Sender<io::Result<()>>>,
    },
    End,
}

/// The only holder of the right to write.
struct Hand {
    disk: Arc<dyn Disk>,
    fatal: Fatal,
    broken: Option<io::ErrorKind>,
}

impl Writer {
    /// Starts the thread, if the disk may block.
    pub(crate) fn start(disk: Arc<dyn Disk>, fatal: Fatal) -> io::Result<Writer> {
        let threaded = disk.may_block();
        let hand = Hand {
            disk,
            fatal,
            broken: None,
        };
        if !threaded {
            return Ok(Writer(Arc::new(Inner::Inline(tokio::sync::Mutex::new(
                hand,
            )))));
        }
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("raft-writer".to_owned())
            .spawn(move || hand.work(inbox))?;
        Ok(Writer(Arc::new(Inner::Thread {
            jobs,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Returns when the changes, and all before them, are written as asked.
    pub(crate) async fn write(&self, changes: Changes, durability: Durability) -> io::Result<()> {
        let Inner::Thread { jobs, .. } = &*self.0 else {
            return self.write_in_place(changes, durability).await;
        };
        let (done, answer) = oneshot::channel();
        let job = Job::Write {
            changes,
            durability,
            done: Some(done),
        };
        jobs.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Returns when the changes are queued. For what a restart can do again: it needs order, not durability.
    pub(crate) async fn queue(&self, changes: Changes) -> io::Result<()> {
        let Inner::Thread { jobs, .. } = &*self.0 else {
            return self.write_in_place(changes, Durability::Buffered).await;
        };
        let job = Job::Write {
            changes,
            durability: Durability::Buffered,
            done: None,
        };
        jobs.send(job).await.map_err(|_| ended())
    }

    /// Returns when all that was queued before is written.
    pub(crate) async fn drain(&self) -> io::Result<()> {
        self.write(Changes::default(), Durability::Buffered).await
    }

    /// Writes what is queued, then refuses everything. Returns when the thread has let go of the disk.
    pub(crate) async fn close(&self) {
        let Inner::Thread { jobs, thread } = &*self.0 else {
            return;
        };
        // A closed queue means that the thread has ended already.
        let _ = jobs.send(Job::End).await;
        let thread = thread.lock().expect("no holder of the lock panics").take();
        if let Some(thread) = thread {
            // Its panic, if any, was printed by the thread itself.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn write_in_place(&self, changes: Changes, durability: Durability) -> io::Result<()> {
        let Inner::Inline(hand) = &*self.0 else {
            return Err(ended());
        };
        let mut hand = hand.lock().await;
        let delay = hand.disk.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        hand.perform(changes, durability)
    }
}

/// The thread holds the disk: when the last handle is gone, so is the thread, and nothing of the store runs on behind the program's end.
impl Drop for Inner {
    fn drop(&mut self) {
        let Inner::Thread { jobs, thread } = self else {
            return;
        };
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(jobs, closed));
        let thread = thread
            .get_mut()
            .expect("no holder of the lock panics")
            .take();
        if let Some(thread) = thread {
            // Its panic, if any, was printed by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Hand {
    fn work(mut self, mut inbox: mpsc::Receiver<Job>) {
        while let Some(job) = inbox.blocking_recv() {
            let mut merged = Changes::default();
            let mut durability = Durability::Buffered;
            let mut waiting = Vec::new();
            let mut next = Some(job);
            let mut count = 0;
            let mut end = false;
            while let Some(job) = next.take() {
                match job {
                    Job::Write {
                        changes,
                        durability: asked,
                        done,
                    } => {
                        merged.0.extend(changes.0);
                        durability = durability.max(asked);
                        waiting.extend(done);
                    }
                    Job::End => end = true,
                }
                count += 1;
                if count < MERGED && !end {
                    next = inbox.try_recv().ok();
                }
            }
            let result = self.perform(merged, durability);
            for done in waiting {
                // A caller that went away does not need the answer.
                let _ = done.send(copy(&result));
            }
            if end {
                return;
            }
        }
    }

    fn perform(&mut self, changes: Changes, durability: Durability) -> io::Result<()> {
        if let Some(kind) = self.broken {
            return Err(io::Error::new(
                kind,
                "an earlier write to this store failed",
            ));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let result = self.disk.write(changes, durability);
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
