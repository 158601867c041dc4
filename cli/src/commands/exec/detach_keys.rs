//! The keys that detach from a task: Ctrl-P, then Ctrl-Q. Pure.

const FIRST: u8 = 0x10;
const SECOND: u8 = 0x11;

/// Finds the detach keys in typed input.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    /// Whether the first key was typed; it is held back until the next byte.
    is_begun: bool,
}

/// A chunk of typed input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TypedInput {
    /// Bytes for the task.
    pub(super) bytes: Vec<u8>,
    /// Whether the detach keys follow these bytes.
    pub(super) detaches: bool,
}

impl DetachKeys {
    pub(super) fn scan(&mut self, typed: &[u8]) -> TypedInput {
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            match (std::mem::take(&mut self.is_begun), *byte) {
                (true, SECOND) => {
                    let detaches = true;
                    return TypedInput { bytes, detaches };
                }
                (true, FIRST) => {
                    bytes.push(FIRST);
                    self.is_begun = true;
                }
                (true, other) => bytes.extend([FIRST, other]),
                (false, FIRST) => self.is_begun = true,
                (false, other) => bytes.push(other),
            }
        }
        let detaches = false;
        TypedInput { bytes, detaches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_all(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::default();
        let mut all = Vec::new();
        for piece in pieces {
            let TypedInput { bytes, detaches } = keys.scan(piece);
            all.extend(bytes);
            if detaches {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn the_two_keys_in_sequence_detach_and_single_ones_are_input() {
        assert_eq!(scan_all(&[b"ls\x10\x11rest"]), (b"ls".to_vec(), true));
        assert_eq!(scan_all(&[b"\x10", b"\x11"]), (b"".to_vec(), true));
        assert_eq!(scan_all(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(
            scan_all(&[b"\x11\x10x", b"y"]),
            (b"\x11\x10xy".to_vec(), false)
        );
        assert_eq!(scan_all(&[b"a\x10"]), (b"a".to_vec(), false));
    }
}
