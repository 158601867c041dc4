//! The form of proposals in the log of a cluster of an earlier level.

use argosy_state::encode;
use argosy_state::level::Level;

use super::World;

impl World {
    /// Converts the waiting proposals to the form that they have in the log of a cluster of this
    /// level.
    pub(crate) fn log_at(&mut self, level: Level) {
        for proposed in &mut self.queue {
            let bytes = encode::command(proposed, level);
            *proposed = encode::read_command(&bytes).unwrap();
        }
    }
}
