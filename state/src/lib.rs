//! The replicated facts of a cluster: registry, commands, apply.
