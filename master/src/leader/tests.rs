//! Leader: inputs in, effects compared.
