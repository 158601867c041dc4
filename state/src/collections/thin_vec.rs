//! Lists that are nearly always empty: an empty one takes the space of one pointer.

use std::fmt;
use std::ops::Deref;

/// A list that is nearly always empty. Equality and order are those of slices.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(
    clippy::box_collection,
    reason = "a pointer, and not three words, in each of very many records"
)]
pub struct ThinVec<T>(
    /// A non-empty list, or `None`, which sorts below every other list as an empty slice does.
    Option<Box<Vec<T>>>,
);

impl<T> ThinVec<T> {
    /// Appends an item.
    pub fn push(&mut self, item: T) {
        self.0.get_or_insert_default().push(item);
    }
}

impl<T> Default for ThinVec<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: fmt::Debug> fmt::Debug for ThinVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for ThinVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl<T> From<Vec<T>> for ThinVec<T> {
    fn from(items: Vec<T>) -> Self {
        Self((!items.is_empty()).then(|| Box::new(items)))
    }
}

impl<T> FromIterator<T> for ThinVec<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<'a, T> IntoIterator for &'a ThinVec<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thin_vector_has_the_size_of_a_pointer_and_compares_as_a_slice() {
        assert_eq!(size_of::<ThinVec<u64>>(), size_of::<usize>());
        let lists = [vec![], vec![1], vec![1, 2], vec![2]];
        for one in &lists {
            for other in &lists {
                let order = ThinVec::from(one.clone()).cmp(&ThinVec::from(other.clone()));
                assert_eq!(order, one.cmp(other), "{one:?}, {other:?}");
            }
        }
        let mut list = ThinVec::default();
        assert!(list.is_empty());
        list.push(3);
        assert_eq!(
            (&list[..], format!("{list:?}")),
            (&[3][..], "[3]".to_owned())
        );
    }
}
