//! Splitting of the input into equal pieces, independent of the sizes of the files.
//!
//! Cuts may be anywhere. A word belongs to the piece in which it begins.

use crate::paths::InputFile;
use crate::wordmap::Segment;

/// Returns `maps` lists of segments of equal size to the byte. Together they are the whole input,
/// in order.
#[must_use]
pub fn split(inputs: &[InputFile], maps: usize) -> Vec<Vec<Segment>> {
    let total: u128 = inputs.iter().map(|input| u128::from(input.size)).sum();
    let cut = |piece: usize| {
        u64::try_from(total * piece as u128 / maps.max(1) as u128).unwrap_or(u64::MAX)
    };
    let mut pieces = vec![Vec::new(); maps];
    let (mut piece, mut position) = (0, 0_u64);
    for input in inputs {
        let mut start = 0;
        while start < input.size {
            while position >= cut(piece + 1) {
                piece += 1;
            }
            let take = (input.size - start).min(cut(piece + 1) - position);
            pieces[piece].push(Segment {
                path: input.path.clone(),
                start,
                end: start + take,
            });
            start += take;
            position += take;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(sizes: &[u64]) -> Vec<InputFile> {
        let input = |(at, size): (usize, &u64)| InputFile {
            path: format!("/{at}").into(),
            size: *size,
        };
        sizes.iter().enumerate().map(input).collect()
    }

    #[test]
    fn the_pieces_of_a_split_are_equal_ordered_and_complete() {
        for (sizes, maps) in [
            (&[1_000_u64, 1, 0, 50, 999][..], 7),
            (&[3], 5),
            (&[], 4),
            (&[10, 10], 1),
        ] {
            let inputs = inputs(sizes);
            let pieces = split(&inputs, maps);
            assert_eq!(pieces.len(), maps);
            let total: u64 = sizes.iter().sum();
            for piece in &pieces {
                let size: u64 = piece
                    .iter()
                    .map(|segment| segment.end - segment.start)
                    .sum();
                assert!(
                    size <= total / maps as u64 + 1,
                    "{size} of {total} in {maps}"
                );
            }
            let mut joined: Vec<Segment> = Vec::new();
            for segment in pieces.into_iter().flatten() {
                match joined.last_mut() {
                    Some(last) if last.path == segment.path => {
                        assert_eq!(last.end, segment.start);
                        last.end = segment.end;
                    }
                    _ => joined.push(segment),
                }
            }
            let whole = inputs
                .iter()
                .filter(|input| input.size > 0)
                .map(|input| Segment {
                    path: input.path.clone(),
                    start: 0,
                    end: input.size,
                });
            assert_eq!(joined, whole.collect::<Vec<_>>());
        }
    }
}
