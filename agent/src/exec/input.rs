//! The queue of input for a command: at most one window, so that the reader of the connection never
//! waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use argosy_proto::exec::INPUT_WINDOW_BYTES;
use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// The queue between the receiver of the client's messages and the writer to the command. A lock,
/// since both use it; nothing is awaited under it.
#[derive(Debug, Default)]
pub(super) struct InputQueue {
    queued: Mutex<QueuedInput>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct QueuedInput {
    bytes: BytesMut,
    /// Bytes that wait, and bytes that are being written.
    unconsumed: usize,
    has_ended: bool,
}

/// The next input of the command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InputChunk {
    Bytes(Bytes),
    /// The end of the input.
    End,
}

/// The client exceeds its window.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InputError {
    #[error("more than 131,072 bytes of input were sent beyond the input taken")]
    TooMuch,
    #[error("input was sent after its end")]
    AfterEnd,
}

impl InputQueue {
    /// Adds input of the client; empty input is the end.
    pub(super) fn add(&self, bytes: &[u8]) -> Result<(), InputError> {
        let mut waiting = self.queued();
        if waiting.has_ended {
            return Err(InputError::AfterEnd);
        }
        if waiting.unconsumed + bytes.len() > INPUT_WINDOW_BYTES {
            return Err(InputError::TooMuch);
        }
        waiting.unconsumed += bytes.len();
        waiting.bytes.extend_from_slice(bytes);
        waiting.has_ended = bytes.is_empty();
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for the next input. After the end there is none.
    pub(super) async fn next(&self) -> InputChunk {
        loop {
            {
                let mut waiting = self.queued();
                if !waiting.bytes.is_empty() {
                    return InputChunk::Bytes(waiting.bytes.split().freeze());
                }
                if waiting.has_ended {
                    return InputChunk::End;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Records that the command has received this many bytes: the client may send as many again.
    pub(super) fn consumed(&self, bytes: usize) {
        self.queued().unconsumed -= bytes;
    }

    /// Locks the queue. No panic leaves it half-changed.
    fn queued(&self) -> MutexGuard<'_, QueuedInput> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_is_read_in_order_until_its_end() {
        let input = InputQueue::default();
        input.add(b"one ").unwrap();
        input.add(b"two").unwrap();
        input.add(b"").unwrap();
        assert_eq!(input.next().await, InputChunk::Bytes("one two".into()));
        assert_eq!(input.next().await, InputChunk::End);
        assert_eq!(input.add(b"more"), Err(InputError::AfterEnd));
    }

    #[tokio::test]
    async fn input_beyond_the_window_is_rejected() {
        let input = InputQueue::default();
        let half = vec![0; INPUT_WINDOW_BYTES / 2];
        input.add(&half).unwrap();
        input.add(&half).unwrap();
        assert_eq!(input.add(b"x"), Err(InputError::TooMuch));
        let InputChunk::Bytes(bytes) = input.next().await else {
            panic!("it has not ended")
        };
        assert_eq!(bytes.len(), INPUT_WINDOW_BYTES);
        // They are in transit, but the command does not have them.
        assert_eq!(input.add(b"x"), Err(InputError::TooMuch));
        input.consumed(half.len());
        input.add(&half).unwrap();
        assert_eq!(input.add(b"x"), Err(InputError::TooMuch));
    }
}
