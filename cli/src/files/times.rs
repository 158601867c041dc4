//! The times of output: the offset of a time, and the frames of an answer with times.

use std::io;

use super::busy::BusyWait;
use super::request::FileCall;
use super::{ChunkSink, FileChunk, FileLocation, FileReader, ReadError};

/// The time and the number of the bytes that follow.
const HEADER_BYTES: usize = 12;
/// The time of bytes whose time the agent does not know.
const UNKNOWN: i64 = i64::MIN;

/// Returns the failure of a request with times that an agent of an earlier release has answered.
pub(super) fn earlier_release(location: &FileLocation) -> ReadError {
    ReadError::Refused(format!(
        "{} has an earlier release, which reports no times: upgrade it, or omit --since and --timestamps",
        location.agent_id
    ))
}

/// Returns the failure of a request with times. An agent of an earlier release does not accept the
/// parameters.
pub(super) fn times_refused(error: ReadError, location: &FileLocation) -> ReadError {
    let is_unknown = |text: &str| {
        ["`times`", "`since_ms`"]
            .iter()
            .any(|field| text.contains(field))
    };
    match error {
        ReadError::Refused(text) if text.contains("unknown field") && is_unknown(&text) => {
            earlier_release(location)
        }
        error => error,
    }
}

impl FileReader {
    /// Returns the offset of the first byte that was written at this time or later. Its bytes may
    /// be removed by now.
    pub(crate) async fn since_offset(
        &mut self,
        location: &FileLocation,
        since_ms: i64,
    ) -> Result<u64, ReadError> {
        let (mut attempts, mut busy) = (self.attempts(), BusyWait::default());
        // An answer without content has the offset.
        let more = format!("&offset=0&length=0&since_ms={since_ms}");
        loop {
            let pause = match self.send(FileCall::Read, location, &more).await {
                Ok(answer) => {
                    let offset = answer.since_offset();
                    return offset.ok_or_else(|| earlier_release(location));
                }
                Err(ReadError::Busy { text, pause }) => busy.refused(&text, pause)?,
                Err(ReadError::Broken(_)) if attempts > 1 => {
                    attempts -= 1;
                    super::RETRY_PAUSE
                }
                Err(error) => return Err(times_refused(error, location)),
            };
            self.use_next_master_after(pause).await;
        }
    }
}

/// Divides the body of an answer with times into its frames.
#[derive(Debug, Default)]
pub(super) struct FrameParser {
    header: Vec<u8>,
    /// The number of bytes of the present frame that are still to come.
    left: usize,
}

impl FrameParser {
    /// Passes on the next part of the body. Returns the number of bytes of output in it.
    pub(super) fn pass(&mut self, mut body: &[u8], sink: ChunkSink<'_>) -> io::Result<u64> {
        let mut passed = 0;
        while !body.is_empty() {
            if self.left > 0 {
                let (bytes, rest) = body.split_at(self.left.min(body.len()));
                sink(FileChunk::Bytes(bytes))?;
                self.left -= bytes.len();
                passed += bytes.len() as u64;
                body = rest;
                continue;
            }
            let missing = HEADER_BYTES - self.header.len();
            let (part, rest) = body.split_at(missing.min(body.len()));
            self.header.extend_from_slice(part);
            body = rest;
            if let Some((time, length)) = self.header.split_first_chunk()
                && let Ok(length) = length.try_into()
            {
                let time = i64::from_be_bytes(*time);
                self.left = u32::from_be_bytes(length) as usize;
                self.header.clear();
                sink(FileChunk::Time(Some(time).filter(|time| *time != UNKNOWN)))?;
            }
        }
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        for (time, text) in [
            (1_000_i64, "one\n"),
            (i64::MIN, ""),
            (-5, "\0\n12 bytes long"),
        ] {
            body.extend(time.to_be_bytes());
            body.extend((text.len() as u32).to_be_bytes());
            body.extend(text.as_bytes());
        }
        body
    }

    /// Returns what a sink receives of these parts, and the number of bytes of output.
    fn passed<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (String, u64) {
        let (mut parser, mut text, mut count) = (FrameParser::default(), String::new(), 0);
        let mut sink = |piece: FileChunk<'_>| {
            match piece {
                FileChunk::Time(time) => text += &format!("<{time:?}>"),
                FileChunk::Bytes(bytes) => text += std::str::from_utf8(bytes).unwrap(),
                FileChunk::Missing(count) => panic!("{count} bytes are missing"),
            }
            Ok(())
        };
        for part in parts {
            count += parser.pass(part, &mut sink).unwrap();
        }
        (text, count)
    }

    #[test]
    fn frames_may_be_divided_anywhere() {
        let body = body();
        let expected = "<Some(1000)>one\n<None><Some(-5)>\0\n12 bytes long";
        for length in 1..=body.len() {
            let found = passed(body.chunks(length));
            assert_eq!(found, (expected.to_owned(), 19), "parts of {length}");
        }
    }

    #[test]
    fn only_bytes_of_output_are_counted_when_an_answer_breaks_off() {
        let body = body();
        assert_eq!(passed([&body[..11]].into_iter()), (String::new(), 0));
        assert_eq!(
            passed([&body[..14]].into_iter()),
            ("<Some(1000)>on".to_owned(), 2)
        );
    }

    #[test]
    fn refusals_of_an_earlier_release_are_recognized() {
        let location = FileLocation::of_task("agent-1", "framework-1", "web", "stdout");
        let refused =
            |text: &str| times_refused(ReadError::Refused(text.to_owned()), &location).to_string();
        let earlier = "query \"Failed to deserialize query string: unknown field `since_ms`, expected one of `path`, `offset`\" is not valid: use path=";
        assert!(refused(earlier).starts_with("agent-1 has an earlier release"));
        let other = "no times of \"x\" are recorded";
        assert_eq!(refused(other), other);
    }
}
