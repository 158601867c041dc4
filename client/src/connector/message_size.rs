//! The bound on the size of a message.

use prost::Message;
use tonic::Code;

use crate::failure::MasterRejection;

/// Maximum length of a message in either direction, in bytes.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Refuses a message that masters would not read. If it were sent, its encoder would reset the
/// stream of the call, which cannot be distinguished from a broken connection.
pub(crate) fn check_size(message: &impl Message) -> Result<(), MasterRejection> {
    let bytes = message.encoded_len();
    if bytes <= MESSAGE_BYTES {
        return Ok(());
    }
    Err(MasterRejection {
        code: Code::ResourceExhausted,
        reason: "message-too-large".to_owned(),
        message: format!(
            "the call has {bytes} bytes, at most {MESSAGE_BYTES} are allowed; \
             split the call, or use uris for data"
        ),
        details: Default::default(),
    })
}
