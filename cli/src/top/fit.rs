//! The widths of columns on a terminal of any width.

use super::listing::ColumnSpec;

/// Blanks between two columns.
const GAP: usize = 2;
/// The least width to which a column is cut.
const LEAST: usize = 6;
/// The widest column that is not the last one.
const WIDEST: usize = 40;

/// A column with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) begin: usize,
    pub(super) width: usize,
}

/// Returns the places of the columns that fit, from left to right. Columns of a low rank get their
/// place first; one that does not fit may be cut, and is else left out.
pub(super) fn places(columns: &[ColumnSpec], wanted: &[usize], room: usize) -> Vec<Place> {
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|column| columns[*column].rank);
    let last = by_rank.last().copied();
    let mut widths = vec![None; columns.len()];
    let mut left = room;
    for column in by_rank {
        let gap = if left == room { 0 } else { GAP };
        let most = if Some(column) == last {
            usize::MAX
        } else {
            WIDEST
        };
        let wanted = wanted[column].min(most);
        let free = left.saturating_sub(gap);
        if free == 0 || free < wanted.min(LEAST) {
            continue;
        }
        let width = wanted.min(free);
        widths[column] = Some(width);
        left = free - width;
    }
    let mut begin = 0;
    let mut all = Vec::new();
    for (column, width) in widths.into_iter().enumerate() {
        let Some(width) = width else {
            continue;
        };
        all.push(Place {
            column,
            begin,
            width,
        });
        begin += width + GAP;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(ranks: &[u8]) -> Vec<ColumnSpec> {
        let column = |rank: &u8| ColumnSpec {
            heading: "H",
            rank: *rank,
        };
        ranks.iter().map(column).collect()
    }

    fn widths(ranks: &[u8], wanted: &[usize], room: usize) -> Vec<(usize, usize, usize)> {
        let places = places(&columns(ranks), wanted, room);
        places
            .into_iter()
            .map(|place| (place.column, place.begin, place.width))
            .collect()
    }

    #[test]
    fn columns_of_a_high_rank_are_left_out_first() {
        assert_eq!(
            widths(&[0, 2, 1], &[8, 10, 10], 40),
            [(0, 0, 8), (1, 10, 10), (2, 22, 10)]
        );
        // The second is cut to what is left.
        assert_eq!(
            widths(&[0, 2, 1], &[8, 10, 10], 30),
            [(0, 0, 8), (1, 10, 8), (2, 20, 10)]
        );
        assert_eq!(
            widths(&[0, 2, 1], &[8, 10, 10], 24),
            [(0, 0, 8), (2, 10, 10)]
        );
        assert!(widths(&[0, 2, 1], &[80, 10, 10], 5).is_empty());
        assert_eq!(widths(&[0], &[80], 7), [(0, 0, 7)]);
        assert_eq!(widths(&[0, 1], &[80, 5], 60), [(0, 0, 40), (1, 42, 5)]);
        assert!(widths(&[0, 1], &[4, 5], 0).is_empty());
    }
}
