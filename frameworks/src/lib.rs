//! First-party schedulers on the public SDK.
