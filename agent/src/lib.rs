//! Running: the tasks of one host, their updates, journal, sandboxes.
