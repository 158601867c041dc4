//! The async runtime that openraft uses: tokio, with random numbers from the tokio runtime.
//!
//! openraft's adapter for tokio draws election timeouts from the operating system's randomness.
//! Here they come from the tokio runtime, which a simulation seeds. In production the operating
//! system seeds it.

use std::future;
use std::time::Duration;

use futures::FutureExt as _;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;

type Tokio = TokioRuntime;

/// tokio with repeatable random numbers.
#[derive(Debug)]
pub(crate) struct Runtime(Tokio);

/// Returns 64 random bits of the current tokio runtime.
fn random_seed() -> u64 {
    let tosses = async {
        let mut bits = 0;
        for _ in 0..u64::BITS {
            bits <<= 1;
            tokio::select! {
                () = future::ready(()) => {}
                () = future::ready(()) => bits |= 1,
            }
        }
        bits
    };
    // Unconstrained: a task that has used up its budget would never finish.
    let tossed = tokio::task::coop::unconstrained(tosses).now_or_never();
    tossed.expect("both sides are ready")
}

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <DeterministicRng<Tokio> as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        type Seeded = DeterministicRng<Tokio>;
        let drawn = Seeded::scope(random_seed(), async { Seeded::thread_rng() });
        drawn.now_or_never().expect("there is nothing to wait for")
    }

    fn new(threads: usize) -> Self {
        Runtime(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw() -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async { random_seed() })
    }

    #[test]
    fn two_runtimes_draw_different_numbers() {
        assert_ne!(draw(), draw());
    }

    #[test]
    fn runtime_passes_the_openraft_suite() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }
}
