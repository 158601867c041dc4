//! Words: runs of A–Z and a–z, in lower case, as bytes. All other bytes separate words.
//!
//! The same as `LC_ALL=C tr -cs A-Za-z '\n' | tr A-Z a-z`, file by file: the end of a file ends a
//! word.

use std::collections::HashMap;
use std::io::{self, Read};

/// Counts of words, in no order.
pub type WordCounts = HashMap<Vec<u8>, u64>;

/// A counter of words in a stream of chunks. A word may span chunks.
#[derive(Debug, Default)]
pub struct WordCounter {
    counts: WordCounts,
    word: Vec<u8>,
}

impl WordCounter {
    /// Processes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if byte.is_ascii_alphabetic() {
                self.word.push(byte.to_ascii_lowercase());
            } else {
                self.end_word();
            }
        }
    }

    /// Ends the current word, as the end of a file does.
    pub fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        match self.counts.get_mut(&self.word) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(self.word.clone(), 1)),
        }
        self.word.clear();
    }

    /// Counts the words that *begin* among the `length` bytes from the position of `input`.
    /// `before` is the byte before them, if any: a word that includes it began earlier. The last
    /// word is read to its end, so adjacent ranges count every word once.
    ///
    /// # Errors
    /// If `input` cannot be read.
    pub fn count_range(
        &mut self,
        input: &mut impl Read,
        before: Option<u8>,
        length: u64,
    ) -> io::Result<()> {
        let mut skipping = before.is_some_and(|byte| byte.is_ascii_alphabetic());
        let mut left = length;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = input.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            let mut bytes = &buffer[..read];
            if skipping {
                let letters = bytes
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphabetic())
                    .count();
                skipping = letters == read;
                left = left.saturating_sub(letters as u64);
                bytes = &bytes[letters..];
            }
            let inside = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.feed(&bytes[..inside]);
            left -= inside as u64;
            if left == 0 && !skipping {
                // Beyond the range: only the rest of a word that began inside.
                let rest = &bytes[inside..];
                let letters = rest
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphabetic())
                    .count();
                if !self.word.is_empty() {
                    self.feed(&rest[..letters]);
                }
                if self.word.is_empty() || letters < rest.len() {
                    break;
                }
            }
            if left == 0 && skipping {
                break;
            }
        }
        self.end_word();
        Ok(())
    }

    #[must_use]
    pub fn into_counts(mut self) -> WordCounts {
        self.end_word();
        self.counts
    }
}

/// Returns the index of the part, of `parts`, that a word belongs to: FNV-1a, the same in every
/// process.
#[must_use]
pub fn partition(word: &[u8], parts: usize) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in word {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    usize::try_from(hash % parts.max(1) as u64).expect("it is smaller than a usize")
}

/// Returns `word<TAB>count` lines in the order of LC_ALL=C sort.
#[must_use]
pub fn to_lines(counts: &WordCounts) -> Vec<u8> {
    let mut words: Vec<_> = counts.iter().collect();
    words.sort_unstable();
    let mut lines = Vec::new();
    for (word, count) in words {
        lines.extend_from_slice(word);
        lines.extend_from_slice(format!("\t{count}\n").as_bytes());
    }
    lines
}

/// Adds lines of [`to_lines`] to `counts`.
///
/// # Errors
/// The first invalid line, cut to 80 characters.
pub fn add_lines(counts: &mut WordCounts, lines: &[u8]) -> Result<(), String> {
    for line in lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let parsed = line.iter().position(|byte| *byte == b'\t').and_then(|tab| {
            let count = std::str::from_utf8(&line[tab + 1..])
                .ok()?
                .parse::<u64>()
                .ok()?;
            Some((&line[..tab], count))
        });
        let Some((word, count)) = parsed else {
            return Err(String::from_utf8_lossy(line).chars().take(80).collect());
        };
        *counts.entry(word.to_vec()).or_default() += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Seek, SeekFrom, Write};
    use std::process::{Command, Stdio};

    use super::*;

    fn count(bytes: &[u8]) -> WordCounts {
        let mut counter = WordCounter::default();
        counter.feed(bytes);
        counter.into_counts()
    }

    /// Counts the words with coreutils.
    fn coreutils(bytes: &[u8]) -> WordCounts {
        let script =
            "LC_ALL=C tr -cs A-Za-z '\\n' | LC_ALL=C tr A-Z a-z | LC_ALL=C sort | LC_ALL=C uniq -c";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let line = |line: &str| {
            let (count, word) = line.trim_start().split_once(' ')?;
            (!word.is_empty()).then(|| (word.as_bytes().to_vec(), count.parse().unwrap()))
        };
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(line)
            .collect()
    }

    fn sample(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let alphabet = b"abcXYZ \n\t09.-\x00\xc3\xa9the";
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            alphabet[(state >> 33) as usize % alphabet.len()]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn counts_are_those_of_coreutils() {
        for bytes in [
            &b"The cat, the CAT\nand 3the dog's"[..],
            b"",
            b"\xff\xfe",
            &sample(1, 100_000),
        ] {
            assert_eq!(count(bytes), coreutils(bytes));
        }
    }

    #[test]
    fn adjacent_ranges_count_every_word_once_at_any_boundary() {
        let text = sample(7, 300);
        let whole = count(&text);
        for first in 0..=text.len() {
            let second = (first + 37).min(text.len());
            let mut counter = WordCounter::default();
            for (start, end) in [(0, first), (first, second), (second, text.len())] {
                let mut input = Cursor::new(&text);
                input.seek(SeekFrom::Start(start as u64)).unwrap();
                let before = start.checked_sub(1).map(|at| text[at]);
                counter
                    .count_range(&mut input, before, (end - start) as u64)
                    .unwrap();
            }
            assert_eq!(counter.into_counts(), whole, "cut at {first} and {second}");
        }
    }

    #[test]
    fn words_longer_than_a_buffer_are_counted_correctly() {
        let text = [b" ".as_slice(), &[b'a'; 200_000], b" b"].concat();
        let mut counter = WordCounter::default();
        for (start, end) in [(0, 50_000), (50_000, 150_000), (150_000, text.len())] {
            let before = usize::checked_sub(start, 1).map(|at| text[at]);
            counter
                .count_range(&mut &text[start..], before, (end - start) as u64)
                .unwrap();
        }
        assert_eq!(counter.into_counts(), count(&text));
    }

    #[test]
    fn lines_round_trip_and_invalid_ones_are_reported() {
        let counts = count(b"b a b");
        assert_eq!(to_lines(&counts), b"a\t1\nb\t2\n");
        let mut twice = counts.clone();
        add_lines(&mut twice, &to_lines(&counts)).unwrap();
        assert_eq!(twice[&b"b".to_vec()], 4);
        assert_eq!(add_lines(&mut twice, b"no tab\n"), Err("no tab".into()));
    }

    #[test]
    fn every_word_has_one_partition_and_none_is_empty() {
        let mut seen = vec![0; 16];
        for word in 0..10_000 {
            seen[partition(format!("word{word}").as_bytes(), 16)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 400), "{seen:?}");
    }
}
