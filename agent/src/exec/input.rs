//! Input on its way to a command: at most a window of it, so that whoever reads the connection never waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use argosy_proto::exec::INPUT_WINDOW_BYTES;
use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Between the one who hears the client and the one who writes to the command. A lock, since both look at it; nothing is
/// awaited under it.
#[derive(Debug, Default)]
pub(super) struct Input {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: BytesMut,
    /// Those that wait, and those that are being written.
    untaken: usize,
    has_ended: bool,
}

/// What the command gets next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Bytes(Bytes),
    /// There is no more.
    End,
}

/// The client keeps no measure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InputError {
    #[error("more input was sent than 131,072 bytes beyond what was taken")]
    TooMuch,
    #[error("input was sent after its end")]
    AfterEnd,
}

impl Input {
    /// Adds what the client has sent; nothing is the end.
    pub(super) fn add(&self, bytes: &[u8]) -> Result<(), InputError> {
        let mut waiting = self.waiting();
        if waiting.has_ended {
            return Err(InputError::AfterEnd);
        }
        if waiting.untaken + bytes.len() > INPUT_WINDOW_BYTES {
            return Err(InputError::TooMuch);
        }
        waiting.untaken += bytes.len();
        waiting.bytes.extend_from_slice(bytes);
        waiting.has_ended = bytes.is_empty();
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for something to write. After the end there is nothing.
    pub(super) async fn next(&self) -> Next {
        loop {
            {
                let mut waiting = self.waiting();
                if !waiting.bytes.is_empty() {
                    return Next::Bytes(waiting.bytes.split().freeze());
                }
                if waiting.has_ended {
                    return Next::End;
                }
            }
            self.changed.notified().await;
        }
    }

    /// The command has so much more: the client may send as much again.
    pub(super) fn taken(&self, bytes: usize) {
        self.waiting().untaken -= bytes;
    }

    /// No panic leaves it half-changed.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_added_comes_out_in_order_and_then_the_end() {
        let input = Input::default();
        input.add(b"one ").unwrap();
        input.add(b"two").unwrap();
        input.add(b"").unwrap();
        assert_eq!(input.next().await, Next::Bytes("one two".into()));
        assert_eq!(input.next().await, Next::End);
        assert_eq!(input.add(b"more"), Err(InputError::AfterEnd));
    }

    #[tokio::test]
    async fn a_client_may_send_no_more_than_the_window_untaken() {
        let input = Input::default();
        let half = vec![0; INPUT_WINDOW_BYTES / 2];
        input.add(&half).unwrap();
        input.add(&half).unwrap();
        assert_eq!(input.add(b"x"), Err(InputError::TooMuch));
        let Next::Bytes(bytes) = input.next().await else {
            panic!("it has not ended")
        };
        assert_eq!(bytes.len(), INPUT_WINDOW_BYTES);
        // They are on their way, but the command does not have them.
        assert_eq!(input.add(b"x"), Err(InputError::TooMuch));
        input.taken(half.len());
        input.add(&half).unwrap();
        assert_eq!(input.add(b"x"), Err(InputError::TooMuch));
    }
}
