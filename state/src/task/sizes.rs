//! Sizes of a container that its agent bounds.

use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;

/// The sizes that a task requests instead of its agent's defaults, or the largest ones that an
/// agent allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// The number of open files of each process. `None`: the default; of an agent: no other size is
    /// allowed.
    pub open_files: Option<u64>,
    /// The bytes in `/dev/shm`, which count as the task's memory. `None` as above.
    pub shm_bytes: Option<u64>,
    /// The bytes in `/tmp`, likewise.
    pub tmp_bytes: Option<u64>,
}

/// A size above the bound of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeExceeded {
    /// The field, such as `open_files`.
    pub field: &'static str,
    /// The requested size.
    pub asked: u64,
    /// The bound of the agent; `None`: the agent does not accept the field.
    pub most: Option<u64>,
    /// The agent's flag that would allow it.
    pub flag: String,
}

impl Sizes {
    /// Returns whether no size is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes the larger one of each size.
    pub fn join(&mut self, other: Self) {
        self.open_files = self.open_files.max(other.open_files);
        self.shm_bytes = self.shm_bytes.max(other.shm_bytes);
        self.tmp_bytes = self.tmp_bytes.max(other.tmp_bytes);
    }

    /// Returns the first size that exceeds the bound of an agent.
    #[must_use]
    pub fn first_exceeding(&self, most: &Self) -> Option<SizeExceeded> {
        let files = |number: u64| format!("--max-open-files {number}");
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let shm = |bytes| format!("--max-shm-size {}M", mebibytes(bytes));
        let tmp = |bytes| format!("--max-tmp-size {}M", mebibytes(bytes));
        let all: [(_, _, _, &dyn Fn(u64) -> String); 3] = [
            ("open_files", self.open_files, most.open_files, &files),
            ("shm_bytes", self.shm_bytes, most.shm_bytes, &shm),
            ("tmp_bytes", self.tmp_bytes, most.tmp_bytes, &tmp),
        ];
        all.into_iter().find_map(|(field, asked, most, flag)| {
            let asked = asked.filter(|asked| most.is_none_or(|most| *asked > most))?;
            Some(SizeExceeded {
                field,
                asked,
                most,
                flag: flag(asked),
            })
        })
    }
}

stored!(message Sizes {
    1 open_files: MaybeNumber,
    2 shm_bytes: MaybeNumber,
    3 tmp_bytes: MaybeNumber,
});

impl Sizes {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let Sizes {
            open_files,
            shm_bytes,
            tmp_bytes,
        } = self;
        out.optional(1, *open_files);
        out.optional(2, *shm_bytes);
        out.optional(3, *tmp_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_above_the_agents_maximum_is_named_with_both_values_and_the_flag() {
        let most = Sizes {
            open_files: Some(4_096),
            shm_bytes: Some(1 << 30),
            tmp_bytes: None,
        };
        assert_eq!(Sizes::default().first_exceeding(&most), None);
        assert_eq!(Sizes::default().first_exceeding(&Sizes::default()), None);
        let mut asked = Sizes {
            open_files: Some(4_096),
            shm_bytes: Some(1 << 30),
            tmp_bytes: None,
        };
        assert_eq!(asked.first_exceeding(&most), None);
        asked.tmp_bytes = Some(1);
        let beyond = asked.first_exceeding(&most).unwrap();
        assert_eq!((beyond.field, beyond.most), ("tmp_bytes", None));
        assert_eq!(beyond.flag, "--max-tmp-size 1M");
        asked.shm_bytes = Some((1 << 30) + 1);
        let beyond = asked.first_exceeding(&most).unwrap();
        assert_eq!((beyond.field, beyond.most), ("shm_bytes", Some(1 << 30)));
        assert_eq!(beyond.flag, "--max-shm-size 1025M");
        asked.open_files = Some(5_000);
        let beyond = asked.first_exceeding(&most).unwrap();
        assert_eq!((beyond.field, beyond.asked), ("open_files", 5_000));
        assert_eq!(beyond.flag, "--max-open-files 5000");
    }

    #[test]
    fn joined_sizes_are_the_largest_of_each() {
        let mut all = Sizes {
            open_files: Some(5),
            ..Sizes::default()
        };
        all.join(Sizes {
            open_files: Some(4),
            shm_bytes: Some(7),
            tmp_bytes: None,
        });
        let wanted = Sizes {
            open_files: Some(5),
            shm_bytes: Some(7),
            tmp_bytes: None,
        };
        assert_eq!(all, wanted);
    }
}
