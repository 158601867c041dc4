//! Workloads and peers: what Argosy costs, measured beside others.
