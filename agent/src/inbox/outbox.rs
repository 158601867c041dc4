//! The queue of messages to an executor on its present stream, bounded in number and in bytes.
//!
//! An executor that does not read must not exhaust the memory of the agent. Its stream ends when
//! the queue is full: unread messages are repeated on the next one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use argosy_proto::v1;
use futures::Stream;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::DropGuard;
use tonic::Status;

/// Maximum number of queued messages.
const MESSAGES: usize = 1_024;
/// Maximum size of all queued messages, in bytes: twice that of the largest message.
const BYTES: usize = 8 * 1024 * 1024;

/// A message, and its share of [`BYTES`] until it is sent.
type Queued = (v1::ToExecutor, OwnedSemaphorePermit);

/// The present stream of an executor. Dropping it ends the stream in both directions.
pub struct ExecutorSender {
    queue: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
    /// While it exists, the stream is read.
    _reading: DropGuard,
}

/// The messages of a stream, in their order. It ends when its sender is dropped.
pub(crate) struct ExecutorMessages(mpsc::Receiver<Queued>);

/// Creates a queue. `reading` is dropped with the sender.
pub(crate) fn outbox(reading: DropGuard) -> (ExecutorSender, ExecutorMessages) {
    let (queue, messages) = mpsc::channel(MESSAGES);
    let sender = ExecutorSender {
        queue,
        bytes: Arc::new(Semaphore::new(BYTES)),
        _reading: reading,
    };
    (sender, ExecutorMessages(messages))
}

impl ExecutorSender {
    /// Appends a message. Returns `false` if the queue is full or the stream has ended.
    pub(crate) fn send(&self, message: v1::ToExecutor) -> bool {
        let size = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(size);
        permit.is_ok_and(|permit| self.queue.try_send((message, permit)).is_ok())
    }
}

impl Stream for ExecutorMessages {
    type Item = Result<v1::ToExecutor, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_recv(context);
        next.map(|queued| queued.map(|(message, _share)| Ok(message)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn message(bytes: usize) -> v1::ToExecutor {
        let data = vec![0; bytes];
        v1::ToExecutor {
            message: Some(v1::to_executor::Message::FrameworkMessage(data)),
        }
    }

    #[tokio::test]
    async fn unread_messages_are_bounded_in_bytes_and_in_number() {
        for bytes in [0, BYTES / 4] {
            let (sender, mut messages) = outbox(CancellationToken::new().drop_guard());
            let fit = (0..=MESSAGES)
                .filter(|_| sender.send(message(bytes)))
                .count();
            // The frame of each message counts, too.
            assert_eq!(fit, if bytes == 0 { MESSAGES } else { 3 });
            messages.next().await.unwrap().unwrap();
            assert!(sender.send(message(bytes)), "one was sent");
            drop(sender);
            assert_eq!(messages.count().await, fit);
        }
    }
}
