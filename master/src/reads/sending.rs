//! Answers that are being sent, in small chunks: unread bytes are held and counted here, not in the
//! buffers of their connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::ReadReservation;

/// Bytes passed to a connection in one chunk: it requests more when its reader has read them.
const CHUNK: usize = 16 << 10;

/// All answers in progress.
#[derive(Debug, Clone, Default)]
pub(super) struct SendTracker {
    // Held for a lookup; nothing is awaited under it.
    answers: Arc<Mutex<OpenAnswers>>,
}

#[derive(Debug, Default)]
struct OpenAnswers {
    last_number: u64,
    open: BTreeMap<u64, Arc<Mutex<AnswerProgress>>>,
}

/// One answer: the rest of it, until it is sent or cut off.
#[derive(Debug)]
struct AnswerProgress {
    unsent: Option<UnsentBody>,
    began: Instant,
    /// Time at which its reader last read something.
    last_progress: Instant,
}

#[derive(Debug)]
struct UnsentBody {
    body: Body,
    chunk: Bytes,
    _reservations: Vec<ReadReservation>,
}

/// A body that releases its share of the budget when it is sent, dropped or cut off.
struct TrackedBody {
    answer: Arc<Mutex<AnswerProgress>>,
    tracker: SendTracker,
    number: u64,
}

impl SendTracker {
    pub(super) fn send(&self, body: Body, mut shares: Vec<ReadReservation>) -> Body {
        shares.iter_mut().for_each(ReadReservation::finish_building);
        if let (Some(bytes), Some(share)) = (body.size_hint().exact(), shares.first_mut()) {
            share.resize(usize::try_from(bytes).unwrap_or(usize::MAX / 2));
        }
        let now = Instant::now();
        let rest = UnsentBody {
            body,
            chunk: Bytes::new(),
            _reservations: shares,
        };
        let answer = Arc::new(Mutex::new(AnswerProgress {
            unsent: Some(rest),
            began: now,
            last_progress: now,
        }));
        let mut answers = locked(&self.answers);
        answers.last_number += 1;
        let number = answers.last_number;
        answers.open.insert(number, Arc::clone(&answer));
        let all = self.clone();
        Body::new(TrackedBody {
            answer,
            tracker: all,
            number,
        })
    }

    /// Drops answers of which nothing was read for `stalled`, or not all within `longest`. Returns
    /// their number.
    pub(super) fn drop_slow(&self, now: Instant, stalled: Duration, longest: Duration) -> u64 {
        let open: Vec<_> = locked(&self.answers).open.values().cloned().collect();
        let mut cut = 0;
        for answer in open {
            let mut answer = locked(&answer);
            let is_slow = now.duration_since(answer.last_progress) >= stalled
                || now.duration_since(answer.began) >= longest;
            if is_slow && answer.unsent.take().is_some() {
                cut += 1;
            }
        }
        cut
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        locked(&self.tracker.answers).open.remove(&self.number);
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut answer = locked(&self.answer);
        let Some(rest) = &mut answer.unsent else {
            return Poll::Ready(Some(Err(axum::Error::new(SlowReaderError))));
        };
        if rest.chunk.is_empty() {
            match ready!(Pin::new(&mut rest.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => rest.chunk = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                last => return Poll::Ready(last),
            }
        }
        let part = rest.chunk.split_to(rest.chunk.len().min(CHUNK));
        answer.last_progress = Instant::now();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        let answer = locked(&self.answer);
        let rest = answer.unsent.as_ref();
        rest.is_some_and(|rest| rest.chunk.is_empty() && rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let answer = locked(&self.answer);
        let exact = answer.unsent.as_ref().and_then(|rest| {
            let later = rest.body.size_hint().exact()?;
            Some(later + rest.chunk.len() as u64)
        });
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The reader was too slow.
#[derive(Debug, thiserror::Error)]
#[error("the answer was read too slowly")]
struct SlowReaderError;

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no thread panics while holding it")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::super::{ReadBounds, ReadLimiter};
    use super::*;

    async fn answer(reads: &ReadLimiter, bytes: usize) -> Body {
        let share = reads.reserve(bytes, bytes).await.unwrap();
        reads.tracker.send(Body::from(vec![7; bytes]), vec![share])
    }

    #[tokio::test]
    async fn an_answer_is_sent_in_chunks_and_then_releases_its_share() {
        let reads = ReadLimiter::new(ReadBounds::default());
        let mut body = answer(&reads, 100_000).await.into_data_stream();
        let mut sent = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.unwrap();
            assert!(chunk.len() <= CHUNK);
            assert!(chunk.iter().all(|byte| *byte == 7));
            assert!(reads.held_bytes() >= 100_000);
            sent += chunk.len();
        }
        drop(body);
        assert_eq!((sent, reads.held_bytes()), (100_000, 0));
        assert_eq!(locked(&reads.tracker.answers).open.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_reader_is_cut_off_and_its_bytes_released() {
        let reads = ReadLimiter::new(ReadBounds::default());
        let cutter = tokio::spawn(reads.clone().cut_off_slow_readers(Vec::new()));
        let mut stalled = answer(&reads, 1_000_000).await.into_data_stream();
        let mut slow = answer(&reads, 1_000_000).await.into_data_stream();
        stalled.next().await.unwrap().unwrap();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            slow.next().await.unwrap().unwrap();
        }
        // The memory is released although the connection never requested the next chunk.
        assert!(reads.held_bytes() < 1_100_000, "{}", reads.held_bytes());
        stalled.next().await.unwrap().unwrap_err();
        // A reader that occasionally reads a little is cut off too.
        let begun = Instant::now();
        while slow.next().await.unwrap().is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(reads.held_bytes(), 0);
        cutter.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_of_another_budget_is_cut_off_when_others_wait_for_that() {
        let reads = ReadLimiter::new(ReadBounds::default());
        let pages = ReadLimiter::new(ReadBounds {
            bytes: 2_000_000,
            bytes_each: 2_000_000,
            bytes_reserved: 0,
            ..ReadBounds::default()
        });
        let cutter = reads.clone().cut_off_slow_readers(vec![pages.clone()]);
        let cutter = tokio::spawn(cutter);
        let share = pages.reserve(1_500_000, 1_500_000).await.unwrap();
        let body = Body::from(vec![7; 1_500_000]);
        let mut slow = reads.tracker.send(body, vec![share]).into_data_stream();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            slow.next().await.unwrap().unwrap();
        }
        // It waits for at most two seconds.
        pages.reserve(1_000_000, 1_000_000).await.unwrap();
        slow.next().await.unwrap().unwrap_err();
        cutter.abort();
    }
}
