//! Builders of facts for tests.
