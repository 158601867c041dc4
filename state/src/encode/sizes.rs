//! Sizes of containers as stored.

use prost::Message;

use crate::task::Sizes;

/// Absent means that none is named.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct SizesMessage {
    #[prost(uint64, optional, tag = "1")]
    open_files: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    shm_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    tmp_bytes: Option<u64>,
}

/// `None` where none is named.
pub(super) fn stored(sizes: Sizes) -> Option<SizesMessage> {
    let Sizes {
        open_files,
        shm_bytes,
        tmp_bytes,
    } = sizes;
    (!sizes.is_empty()).then_some(SizesMessage {
        open_files,
        shm_bytes,
        tmp_bytes,
    })
}

pub(super) fn read(message: Option<SizesMessage>) -> Sizes {
    let message = message.unwrap_or_default();
    Sizes {
        open_files: message.open_files,
        shm_bytes: message.shm_bytes,
        tmp_bytes: message.tmp_bytes,
    }
}
