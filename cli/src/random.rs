//! The only source of randomness of this program: the kernel.

use std::fs::File;
use std::io::Read;

use anyhow::Context;

/// Returns random bytes.
pub(crate) fn bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// Returns a random number.
pub(crate) fn number() -> anyhow::Result<u64> {
    Ok(u64::from_le_bytes(bytes()?))
}

/// Returns an id for a change: 128 random bits as text.
pub(crate) fn request_id() -> anyhow::Result<String> {
    Ok(format!("{:016x}{:016x}", number()?, number()?))
}
