//! Build options that keep the program of every map and reduce small, because it is copied for each
//! task.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=argosy-wordmap=-Wl,--strip-debug");
}
