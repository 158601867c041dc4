//! A master of a former release, reduced to `apply`: reads entries and reports the records that it
//! writes.
//!
//! It is built against the `state` crate of that release. Input: the log index, cluster time, the
//! number of commands, each with its length. Output: the digest, the number of written records,
//! each with its key and its value. All numbers are little endian.

use std::io::{self, Read, Write};

use argosy_state::Registry;
use argosy_state::command::Entry;
use argosy_state::encode;
use argosy_state::ids::Timestamp;

fn number<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn length(input: &mut impl Read) -> io::Result<usize> {
    number(input).map(|bytes| u32::from_le_bytes(bytes) as usize)
}

fn text(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(&(bytes.len() as u32).to_le_bytes())?;
    output.write_all(bytes)
}

fn main() -> io::Result<()> {
    let mut input = io::BufReader::new(io::stdin().lock());
    let mut output = io::BufWriter::new(io::stdout().lock());
    let mut registry = Registry::new();
    while let Ok(index) = number(&mut input) {
        let at = Timestamp(u64::from_le_bytes(number(&mut input)?));
        let mut commands = Vec::new();
        for _ in 0..length(&mut input)? {
            let mut bytes = vec![0; length(&mut input)?];
            input.read_exact(&mut bytes)?;
            commands.push(encode::read_command(&bytes).map_err(io::Error::other)?);
        }
        registry.apply(u64::from_le_bytes(index), &Entry { at, commands });
        let writes = registry.take_changes();
        output.write_all(&registry.digest().to_le_bytes())?;
        output.write_all(&(writes.len() as u32).to_le_bytes())?;
        for write in writes {
            text(&mut output, &write.key)?;
            output.write_all(&[u8::from(write.value.is_some())])?;
            text(&mut output, &write.value.unwrap_or_default())?;
        }
        output.flush()?;
    }
    Ok(())
}
