//! The executable: wiring, dev, operator verbs, output.
