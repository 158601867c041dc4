//! Writer of the canonical bytes of fingerprints: numbered fields with lengths, defaults omitted.

use std::collections::BTreeMap;

/// The bytes of a field's length.
const LENGTH_BYTES: usize = 8;

/// A writer of canonical bytes. Numbers are big-endian, and fields ascend.
pub(crate) struct CanonicalWriter {
    bytes: Vec<u8>,
    /// The previous field in the same part; 0 for none.
    last: u16,
}

impl CanonicalWriter {
    pub(crate) fn new(layout: &[u8]) -> Self {
        let mut out = Self {
            bytes: Vec::with_capacity(1024),
            last: 0,
        };
        out.behind_length(|out| out.bytes.extend(layout));
        out
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes contents with their length as prefix, and returns the length.
    fn behind_length(&mut self, write: impl FnOnce(&mut Self)) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; LENGTH_BYTES]);
        let last = std::mem::take(&mut self.last);
        write(self);
        self.last = last;
        let bytes = self.bytes.len() - start - LENGTH_BYTES;
        self.bytes[start..start + LENGTH_BYTES].copy_from_slice(&(bytes as u64).to_be_bytes());
        bytes
    }

    /// Writes a field number. Two fields with the same number would make different requests alike.
    fn name(&mut self, field: u16) {
        debug_assert!(field > self.last, "{field} does not follow {}", self.last);
        self.last = field;
        self.bytes.extend(field.to_be_bytes());
    }

    /// Writes a field with any contents. Empty contents are the default: the field is omitted.
    pub(crate) fn part(&mut self, field: u16, write: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.name(field);
        if self.behind_length(write) == 0 {
            self.bytes.truncate(start);
        }
    }

    /// Writes a field that is present whatever its contents, such as one of several kinds, or an
    /// optional part.
    pub(crate) fn chosen(&mut self, field: u16, write: impl FnOnce(&mut Self)) {
        self.name(field);
        self.behind_length(write);
    }

    pub(crate) fn text(&mut self, field: u16, text: &str) {
        self.part(field, |out| out.bytes.extend(text.as_bytes()));
    }

    pub(crate) fn number(&mut self, field: u16, number: u64) {
        if number != 0 {
            self.part(field, |out| out.bytes.extend(number.to_be_bytes()));
        }
    }

    pub(crate) fn optional(&mut self, field: u16, number: Option<u64>) {
        if let Some(number) = number {
            self.part(field, |out| out.bytes.extend(number.to_be_bytes()));
        }
    }

    pub(crate) fn flag(&mut self, field: u16, flag: bool) {
        if flag {
            self.part(field, |out| out.bytes.push(1));
        }
    }

    /// Writes a list. An empty item counts like any other.
    pub(crate) fn list<T>(
        &mut self,
        field: u16,
        items: impl IntoIterator<Item = T>,
        write: impl Fn(&mut Self, T),
    ) {
        self.part(field, |out| {
            for item in items {
                out.behind_length(|out| write(out, item));
            }
        });
    }

    /// Writes a list of texts.
    pub(crate) fn words(&mut self, field: u16, words: &[String]) {
        self.list(field, words, |out, word| out.text(1, word));
    }

    pub(crate) fn texts(&mut self, field: u16, texts: &BTreeMap<String, String>) {
        self.list(field, texts, |out, (name, value)| {
            out.text(1, name);
            out.text(2, value);
        });
    }

    /// Appends contents as they are. The caller writes them in a field.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }
}
