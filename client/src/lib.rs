//! Finding the leader, retrying, resuming; the framework SDK and the operator client.
