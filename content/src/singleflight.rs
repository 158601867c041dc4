//! Singleflight: concurrent requests for the same work share one execution. Makes no decisions.
//!
//! A request during the execution joins it and gets the same result, success or failure; a later
//! one starts again. The work continues while one requester is left, and stops with the last.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;

/// Work in progress, by key. `R` identifies requesters, for work that depends on them.
pub(crate) struct Singleflight<K, V: Clone, P, R = ()> {
    in_flight: Mutex<InFlight<K, V, P, R>>,
}

/// Bounded by the requesters: work without a requester is removed.
struct InFlight<K, V: Clone, P, R> {
    serial: u64,
    calls: BTreeMap<K, SharedWork<V, P, R>>,
}

struct SharedWork<V: Clone, P, R> {
    serial: u64,
    work: WeakShared<BoxFuture<'static, V>>,
    progress: watch::Receiver<P>,
    /// All requesters so far, also those that no longer wait.
    requesters: watch::Sender<BTreeSet<R>>,
}

/// A requester's share of an execution. The work continues while one of them is awaited.
pub(crate) struct Waiter<V: Clone, P> {
    pub(crate) work: Shared<BoxFuture<'static, V>>,
    pub(crate) progress: watch::Receiver<P>,
    /// Whether the work was started for it.
    pub(crate) is_first: bool,
}

/// Removes work from the list when it ends, fails or is cancelled.
struct RemoveOnDrop<K: Ord + Clone, V: Clone, P, R> {
    calls: Arc<Singleflight<K, V, P, R>>,
    key: K,
    serial: u64,
}

impl<K: Ord + Clone, V: Clone, P, R> Drop for RemoveOnDrop<K, V, P, R> {
    fn drop(&mut self) {
        let mut going = self.calls.in_flight();
        let listed = going.calls.get(&self.key);
        if listed.is_some_and(|call| call.serial == self.serial) {
            going.calls.remove(&self.key);
        }
    }
}

impl<K, V, P, R> Singleflight<K, V, P, R>
where
    K: Ord + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
    P: Default + Send + Sync + 'static,
    R: Ord + Send + Sync + 'static,
{
    pub(crate) fn new() -> Arc<Self> {
        let going = InFlight {
            serial: 0,
            calls: BTreeMap::new(),
        };
        Arc::new(Self {
            in_flight: Mutex::new(going),
        })
    }

    /// Joins the work of this key, or starts it. `begin` gets the sender of its progress, and its
    /// requesters.
    pub(crate) fn join<F>(
        self: &Arc<Self>,
        key: K,
        requester: R,
        begin: impl FnOnce(watch::Sender<P>, watch::Receiver<BTreeSet<R>>) -> F,
    ) -> Waiter<V, P>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut going = self.in_flight();
        if let Some(call) = going.calls.get(&key)
            && let Some(work) = call.work.upgrade()
        {
            call.requesters
                .send_if_modified(|all| all.insert(requester));
            let progress = call.progress.clone();
            return Waiter {
                work,
                progress,
                is_first: false,
            };
        }
        going.serial += 1;
        let serial = going.serial;
        let departure = RemoveOnDrop {
            calls: Arc::clone(self),
            key: key.clone(),
            serial,
        };
        let (sender, progress) = watch::channel(P::default());
        let (requesters, of_work) = watch::channel(BTreeSet::from([requester]));
        let work = begin(sender, of_work);
        let work = async move {
            let _departure = departure;
            work.await
        };
        let work = work.boxed().shared();
        let call = SharedWork {
            serial,
            work: work
                .downgrade()
                .expect("work that was never polled is there"),
            progress: progress.clone(),
            requesters,
        };
        // The replaced work was cancelled, and has nothing left to drop.
        going.calls.insert(key, call);
        Waiter {
            work,
            progress,
            is_first: true,
        }
    }
}

impl<K, V: Clone, P, R> Singleflight<K, V, P, R> {
    fn in_flight(&self) -> MutexGuard<'_, InFlight<K, V, P, R>> {
        // Every change under the lock is one step, so that a panic leaves nothing half-done.
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    type WorkResult = Result<u32, &'static str>;

    struct WorkFixture {
        calls: Arc<Singleflight<&'static str, WorkResult, u32>>,
        started: Arc<AtomicU32>,
        ended: Arc<AtomicU32>,
    }

    impl WorkFixture {
        fn new() -> Self {
            Self {
                calls: Singleflight::new(),
                started: Arc::default(),
                ended: Arc::default(),
            }
        }

        fn join(&self, answer: oneshot::Receiver<WorkResult>) -> Waiter<WorkResult, u32> {
            struct CountOnDrop(Arc<AtomicU32>);
            impl Drop for CountOnDrop {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Ordering::SeqCst);
                }
            }
            let (begun, ended) = (Arc::clone(&self.started), Arc::clone(&self.ended));
            self.calls.join("layer", (), move |progress, _| {
                // Created only for work that is started.
                let end = CountOnDrop(ended);
                async move {
                    let _end = end;
                    begun.fetch_add(1, Ordering::SeqCst);
                    progress.send_replace(7);
                    answer.await.unwrap_or(Err("no answer"))
                }
            })
        }

        fn counts(&self) -> (u32, u32, usize) {
            let listed = self.calls.in_flight().calls.len();
            let (begun, ended) = (&self.started, &self.ended);
            (
                begun.load(Ordering::SeqCst),
                ended.load(Ordering::SeqCst),
                listed,
            )
        }
    }

    fn unused() -> oneshot::Receiver<WorkResult> {
        oneshot::channel().1
    }

    #[tokio::test]
    async fn a_later_requester_joins_and_sees_the_progress() {
        let world = WorkFixture::new();
        let (answer, wanted) = oneshot::channel();
        let first = tokio::spawn(world.join(wanted).work);
        tokio::task::yield_now().await;
        let second = world.join(unused());
        assert_eq!(*second.progress.borrow(), 7);
        answer.send(Ok(5)).unwrap();
        assert_eq!(second.work.await, Ok(5));
        assert_eq!(first.await.unwrap(), Ok(5));
        assert_eq!(world.counts(), (1, 1, 0));
    }

    #[tokio::test]
    async fn a_failure_reaches_all_waiters_and_the_next_retries() {
        let world = WorkFixture::new();
        let (answer, wanted) = oneshot::channel();
        let (first, second) = (world.join(wanted), world.join(unused()));
        answer.send(Err("broken")).unwrap();
        assert_eq!(first.work.await, Err("broken"));
        let (answer, wanted) = oneshot::channel();
        let third = world.join(wanted);
        assert_eq!(second.work.await, Err("broken"));
        answer.send(Ok(6)).unwrap();
        assert_eq!(third.work.await, Ok(6));
        assert_eq!(world.counts(), (2, 2, 0));
    }

    #[tokio::test]
    async fn work_continues_until_the_last_waiter_leaves() {
        let world = WorkFixture::new();
        let (answer, wanted) = oneshot::channel();
        let first = tokio::spawn(world.join(wanted).work);
        tokio::task::yield_now().await;
        let second = tokio::spawn(world.join(unused()).work);
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(world.counts(), (1, 0, 1));
        answer.send(Ok(8)).unwrap();
        assert_eq!(second.await.unwrap(), Ok(8));

        let third = tokio::spawn(world.join(oneshot::channel().1).work);
        tokio::task::yield_now().await;
        let _ = third.await;
        let (_kept, wanted) = oneshot::channel();
        let last = world.join(wanted);
        assert_eq!(world.counts().2, 1);
        drop(last);
        assert_eq!(world.counts().2, 0);
    }
}
