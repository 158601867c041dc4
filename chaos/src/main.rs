//! `argosy-chaos`: the command line of the chaos harness.

fn main() {}
