//! Keeps the program that every map and reduce fetches small: a copy is made for each task.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=argosy-wordmap=-Wl,--strip-debug");
}
