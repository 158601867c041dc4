//! Ordered maps and sets whose copies share equal parts. A copy takes constant time and never
//! changes.
//!
//! The API is the part of `BTreeMap` and `BTreeSet` that the registry needs. A change copies the
//! path from the root to the changed entry if another copy of the map still holds it, and nothing
//! otherwise.

mod tree;

use std::borrow::Borrow;
use std::ops::{Index, RangeBounds};
use std::sync::Arc;

use tree::{Iter, Tree};

/// A map of small values, which are copied together with their neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map<K: Ord, V>(Tree<K, V>);

/// A map of records. Each is behind an `Arc`: a change of one copies only that record, and only if
/// a copy of the table holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<K: Ord, V>(Tree<K, Arc<V>>);

/// A set of small items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<T: Ord>(Tree<T, ()>);

impl<K: Ord, V> Default for Map<K, V> {
    fn default() -> Self {
        Self(Tree::default())
    }
}

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Tree::default())
    }
}

impl<T: Ord> Default for Set<T> {
    fn default() -> Self {
        Self(Tree::default())
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// Returns the value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// Returns whether the key has a value.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.get(key).is_some()
    }

    /// Returns the first entry.
    #[must_use]
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.0.first()
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the collection is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Returns all entries in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> + DoubleEndedIterator {
        self.0.iter()
    }

    /// Returns all keys in ascending order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> + DoubleEndedIterator {
        self.0.iter().map(|(key, _)| key)
    }

    /// Returns all values in ascending order of their keys.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> + DoubleEndedIterator {
        self.0.iter().map(|(_, value)| value)
    }

    /// Returns the entries of a range in ascending order.
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(
        &self,
        range: R,
    ) -> impl DoubleEndedIterator<Item = (&K, &V)> + use<'_, K, V, Q, R>
    where
        K: Borrow<Q>,
    {
        self.0.range(range)
    }

    /// Returns the value of a key for modification.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// Sets the value of a key and returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Removes a key and returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.0 = Tree::default();
    }
}

impl<K: Ord + Clone, V: Clone + Default> Map<K, V> {
    /// Returns the value of a key for modification, and inserts a default value if there is none.
    pub fn or_default(&mut self, key: K) -> &mut V {
        self.0.or_default(key)
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// Returns the record of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(Arc::as_ref)
    }

    /// Returns the record of a key as the copies of the table share it. A change of the record
    /// creates another one.
    #[must_use]
    pub fn get_shared<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// Returns whether the key has a record.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.get(key).is_some()
    }

    /// Returns the first entry.
    #[must_use]
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.0.first().map(|(key, value)| (key, value.as_ref()))
    }

    /// Returns the last entry.
    #[must_use]
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.0.last().map(|(key, value)| (key, value.as_ref()))
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the collection is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Returns all entries in ascending order.
    pub fn iter(&self) -> TableIter<'_, K, V> {
        TableIter(self.0.iter())
    }

    /// Returns all keys in ascending order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> + DoubleEndedIterator {
        self.0.iter().map(|(key, _)| key)
    }

    /// Returns all records in ascending order of their keys.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> + DoubleEndedIterator {
        self.0.iter().map(|(_, value)| value.as_ref())
    }

    /// Returns the entries of a range in ascending order.
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(&self, range: R) -> TableIter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        TableIter(self.0.range(range))
    }

    /// Returns the records of a range in ascending order, as [`Table::get_shared`] returns them.
    pub fn range_shared<Q: Ord + ?Sized, R: RangeBounds<Q>>(
        &self,
        range: R,
    ) -> impl Iterator<Item = &Arc<V>> + use<'_, K, V, Q, R>
    where
        K: Borrow<Q>,
    {
        self.0.range(range).map(|(_, record)| record)
    }

    /// Returns the record of a key for modification.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key).map(Arc::make_mut)
    }

    /// Returns the first record, for tests that corrupt it.
    #[cfg(test)]
    pub(crate) fn first_mut(&mut self) -> Option<&mut V> {
        let key = self.0.first()?.0.clone();
        self.get_mut(&key)
    }

    /// Sets the record of a key.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, Arc::new(value));
    }

    /// Removes a key and returns its record.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).map(Arc::unwrap_or_clone)
    }

    /// Removes and returns the first entry.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.0.first()?.0.clone();
        let value = self.remove(&key)?;
        Some((key, value))
    }
}

impl<K: Ord + Clone, V: Clone + Default> Table<K, V> {
    /// Returns the record of a key for modification, and inserts a default one if there is none.
    pub fn or_default(&mut self, key: K) -> &mut V {
        Arc::make_mut(self.0.or_default(key))
    }
}

impl<K: Ord + Clone, V: Clone, Q: Ord + ?Sized> Index<&Q> for Table<K, V>
where
    K: Borrow<Q>,
{
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the key has a record")
    }
}

impl<T: Ord + Clone> Set<T> {
    /// Returns whether the set contains the item.
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.get(item).is_some()
    }

    /// Returns the first item.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.0.first().map(|(item, ())| item)
    }

    /// Returns the last item.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.0.last().map(|(item, ())| item)
    }

    /// Returns the number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the collection is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Returns all items in ascending order.
    pub fn iter(&self) -> SetIter<'_, T> {
        SetIter(self.0.iter())
    }

    /// Returns the items of a range in ascending order.
    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(
        &self,
        range: R,
    ) -> impl DoubleEndedIterator<Item = &T> + use<'_, T, Q, R>
    where
        T: Borrow<Q>,
    {
        SetIter(self.0.range(range))
    }

    /// Adds an item; returns whether it is new.
    pub fn insert(&mut self, item: T) -> bool {
        self.0.insert(item, ()).is_none()
    }

    /// Removes an item; returns whether the set contained it.
    pub fn remove<Q: Ord + ?Sized>(&mut self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.remove(item).is_some()
    }

    /// Removes and returns the first item.
    pub fn pop_first(&mut self) -> Option<T> {
        let first = self.first()?.clone();
        self.0.remove(&first)?;
        Some(first)
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.0 = Tree::default();
    }
}

impl<'a, T: Ord> IntoIterator for &'a Set<T> {
    type Item = &'a T;
    type IntoIter = SetIter<'a, T>;

    fn into_iter(self) -> SetIter<'a, T> {
        SetIter(self.0.iter())
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Table<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<T: Ord + Clone> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut set = Self::default();
        for item in items {
            set.insert(item);
        }
        set
    }
}

/// An iterator over the records of a table with their keys, ascending.
#[derive(Debug)]
pub struct TableIter<'a, K, V>(Iter<'a, K, Arc<V>>);

impl<'a, K, V> Iterator for TableIter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, record)| (key, record.as_ref()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<K, V> DoubleEndedIterator for TableIter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (key, record) = self.0.next_back()?;
        Some((key, record.as_ref()))
    }
}

impl<K, V> ExactSizeIterator for TableIter<'_, K, V> {}

impl<'a, K: Ord, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = TableIter<'a, K, V>;

    fn into_iter(self) -> TableIter<'a, K, V> {
        TableIter(self.0.iter())
    }
}

/// An iterator over the items of a set, ascending.
#[derive(Debug)]
pub struct SetIter<'a, T>(Iter<'a, T, ()>);

impl<'a, T> Iterator for SetIter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        self.0.next().map(|(item, ())| item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> DoubleEndedIterator for SetIter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(item, ())| item)
    }
}

impl<T> ExactSizeIterator for SetIter<'_, T> {}
