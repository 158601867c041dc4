//! Sizes of a container that its agent bounds.

use crate::encode::stored::stored;
use crate::fingerprint::Writer;

/// What a task asks for instead of its agent's usual sizes, or what an agent gives at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Open files of each of its processes. `None`: the usual number; of an agent: it takes no other.
    pub open_files: Option<u64>,
    /// Bytes in `/dev/shm`; they count as the task's memory. `None` as above.
    pub shm_bytes: Option<u64>,
    /// The same in `/tmp`.
    pub tmp_bytes: Option<u64>,
}

/// A size beyond what an agent gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// Its field, as `open_files`.
    pub field: &'static str,
    /// What was asked for.
    pub asked: u64,
    /// What the agent gives at most; `None`: it takes no such field.
    pub most: Option<u64>,
    /// The agent's flag that would allow it.
    pub flag: String,
}

impl Sizes {
    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The larger of each.
    pub fn join(&mut self, other: Self) {
        self.open_files = self.open_files.max(other.open_files);
        self.shm_bytes = self.shm_bytes.max(other.shm_bytes);
        self.tmp_bytes = self.tmp_bytes.max(other.tmp_bytes);
    }

    /// The first of these that is more than an agent gives.
    #[must_use]
    pub fn beyond(&self, most: &Self) -> Option<Beyond> {
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
            Some(Beyond {
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
    fn a_size_beyond_an_agents_is_named_with_both_figures_and_the_flag() {
        let most = Sizes {
            open_files: Some(4_096),
            shm_bytes: Some(1 << 30),
            tmp_bytes: None,
        };
        assert_eq!(Sizes::default().beyond(&most), None);
        assert_eq!(Sizes::default().beyond(&Sizes::default()), None);
        let mut asked = Sizes {
            open_files: Some(4_096),
            shm_bytes: Some(1 << 30),
            tmp_bytes: None,
        };
        assert_eq!(asked.beyond(&most), None);
        asked.tmp_bytes = Some(1);
        let beyond = asked.beyond(&most).unwrap();
        assert_eq!((beyond.field, beyond.most), ("tmp_bytes", None));
        assert_eq!(beyond.flag, "--max-tmp-size 1M");
        asked.shm_bytes = Some((1 << 30) + 1);
        let beyond = asked.beyond(&most).unwrap();
        assert_eq!((beyond.field, beyond.most), ("shm_bytes", Some(1 << 30)));
        assert_eq!(beyond.flag, "--max-shm-size 1025M");
        asked.open_files = Some(5_000);
        let beyond = asked.beyond(&most).unwrap();
        assert_eq!((beyond.field, beyond.asked), ("open_files", 5_000));
        assert_eq!(beyond.flag, "--max-open-files 5000");
    }

    #[test]
    fn several_tasks_need_the_largest_of_each() {
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
