//! Positions of the parts of an acceptance, each of which can be refused.

/// The position of a part of an acceptance that can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The index of the operation in the call, from 0.
    pub operation: u32,
    /// The index of the task in the operation, from 0; 0 for an operation without tasks.
    pub task: u32,
}

impl Position {
    /// Returns a position that counts over the parts of all operations: see [`CallShape::place`].
    #[must_use]
    pub fn counted(task: u32) -> Self {
        let operation = 0;
        Self { operation, task }
    }
}

/// The number of parts of each operation of a call. It resolves a number that counts over all
/// operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallShape(Vec<usize>);

impl FromIterator<usize> for CallShape {
    fn from_iter<I: IntoIterator<Item = usize>>(parts: I) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl CallShape {
    /// Returns the operation and task of a position whose `task` may extend into the following
    /// operations. Commands and answers of format 2 have one operation, so their positions do.
    #[must_use]
    pub fn place(&self, position: Position) -> Position {
        let mut task = position.task as usize;
        for (operation, parts) in (0..).zip(&self.0).skip(position.operation as usize) {
            match task.checked_sub(*parts) {
                Some(further) => task = further,
                None => {
                    let task = u32::try_from(task).expect("it is at most what it was");
                    return Position { operation, task };
                }
            }
        }
        position
    }

    /// Returns the number of parts of all operations before a position.
    #[must_use]
    pub fn count(&self, position: Position) -> u32 {
        let before = self.0.iter().take(position.operation as usize);
        let count = before.sum::<usize>() + position.task as usize;
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}
