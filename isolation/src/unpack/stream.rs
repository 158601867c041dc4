//! Decoders, and the limits of their output.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

use liblzma::stream::CONCATENATED;
use sha2::{Digest, Sha256};

use super::error::RuleViolation;
use super::{ArchiveFormat, ArchiveRule};

/// The maximum window memory of a decoder, in bytes.
const DECODER_LIMIT_BYTES: u64 = 128 << 20;
/// The same as a power of two, as zstd requires.
const WINDOW_LIMIT_LOG: u32 = 27;
/// The maximum total length of one entry's headers, in bytes: tar decoders hold them in memory.
pub(super) const HEADER_LIMIT_BYTES: u64 = 1 << 20;

/// Byte counts, shared by the layers of readers.
#[derive(Debug, Default)]
pub(super) struct ByteCounts {
    /// Of the archive.
    pub(super) read: Cell<u64>,
    /// Of the decoder's output.
    pub(super) decoded: Cell<u64>,
    /// The position up to which the decoder's output may be read now; 0 means up to its limit.
    pub(super) read_limit: Cell<u64>,
}

/// A reader of the raw archive that counts its bytes.
pub(super) struct CountingReader {
    pub(super) file: File,
    pub(super) counts: Rc<ByteCounts>,
}

impl Read for CountingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.counts.read.set(self.counts.read.get() + length as u64);
        Ok(length)
    }
}

impl Seek for CountingReader {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// A reader of the decompressed archive, up to a limit, with its digest if requested.
pub(super) struct DecodingReader {
    decoder: Box<dyn Read>,
    counts: Rc<ByteCounts>,
    max_bytes: u64,
    rule: ArchiveRule,
    digest: Option<Sha256>,
}

impl DecodingReader {
    /// Reads at most `most` bytes; more violates `rule`.
    pub(super) fn new(
        file: File,
        format: ArchiveFormat,
        counts: &Rc<ByteCounts>,
        (most, rule): (u64, ArchiveRule),
        digest: bool,
    ) -> io::Result<Self> {
        let counted = CountingReader {
            file,
            counts: Rc::clone(counts),
        };
        let buffered = BufReader::with_capacity(128 * 1024, counted);
        let decoder: Box<dyn Read> = match format {
            ArchiveFormat::TarGzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
            ArchiveFormat::TarZstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
                decoder.window_log_max(WINDOW_LIMIT_LOG)?;
                Box::new(decoder)
            }
            ArchiveFormat::TarXz => {
                let decoder =
                    liblzma::stream::Stream::new_stream_decoder(DECODER_LIMIT_BYTES, CONCATENATED)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(buffered, decoder))
            }
            ArchiveFormat::Tar | ArchiveFormat::Zip => Box::new(buffered),
        };
        let digest = digest.then(Sha256::new);
        Ok(Self {
            decoder,
            counts: Rc::clone(counts),
            max_bytes: most,
            rule,
            digest,
        })
    }

    /// Reads the rest after the last entry, which must be zeroes.
    pub(super) fn finish(mut self) -> io::Result<Option<[u8; 32]>> {
        self.counts.read_limit.set(0);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.read(&mut buffer)? {
                0 => break,
                length if buffer[..length].iter().all(|byte| *byte == 0) => {}
                _ => return Err(io::Error::other(RuleViolation(ArchiveRule::Trailing))),
            }
        }
        Ok(self.digest.map(|digest| digest.finalize().into()))
    }
}

impl Read for DecodingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        let decoded = self.counts.decoded.get() + length as u64;
        self.counts.decoded.set(decoded);
        if decoded > self.max_bytes {
            return Err(io::Error::other(RuleViolation(self.rule.clone())));
        }
        let until = self.counts.read_limit.get();
        if until != 0 && decoded > until {
            let rule = ArchiveRule::Header {
                most: HEADER_LIMIT_BYTES,
            };
            return Err(io::Error::other(RuleViolation(rule)));
        }
        if let Some(digest) = &mut self.digest {
            digest.update(&buffer[..length]);
        }
        Ok(length)
    }
}
