//! A B+ tree whose copies share equal parts.
//!
//! A copy increments one reference count. A change descends from the root, copies each node on its
//! path that another copy of the tree still holds, and changes the others in place. Branches count
//! the entries below them, so that a range knows its length, and an iterator can begin at any
//! entry.

use std::borrow::Borrow;
use std::mem;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

/// The largest number of entries of a leaf, and of children of a branch.
const MAX_ENTRIES: usize = 32;
/// The size below which a node borrows from a neighbour or is merged with it.
const MIN_ENTRIES: usize = MAX_ENTRIES / 4;

/// The index of the child at each depth, and of the entry in the leaf. All nodes except the
/// rightmost have at least [`MIN_ENTRIES`]: fewer than 8^12 entries fit in memory.
type Path = [u8; 12];

/// An ordered map.
#[derive(Debug, Clone)]
pub(super) struct Tree<K, V> {
    /// The root; `None` for an empty tree.
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<K, V> {
    /// Entries in ascending order; never empty.
    Leaf(Vec<(K, V)>),
    /// Children in ascending order; never empty. All leaves are at the same depth.
    Branch(Vec<Child<K, V>>),
}

#[derive(Debug, Clone)]
struct Child<K, V> {
    /// A key that is at most the first key below, and above all keys of the previous child.
    from: K,
    /// The number of entries below.
    len: usize,
    node: Arc<Node<K, V>>,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K: Ord, V> Tree<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&entries[at].1);
                }
                Node::Branch(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    pub(super) fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    pub(super) fn last(&self) -> Option<(&K, &V)> {
        self.iter().next_back()
    }

    /// Returns the path to a key, if the key exists. So a change searches for the key once, and
    /// copies nothing if it does not exist.
    fn path<Q: Ord + ?Sized>(&self, key: &Q) -> Option<Path>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        let mut path = Path::default();
        for step in &mut path {
            match node {
                Node::Leaf(entries) => {
                    *step = find(entries, key).ok()? as u8;
                    return Some(path);
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    *step = at as u8;
                    node = &children[at].node;
                }
            }
        }
        unreachable!("a tree of this depth fits in no memory")
    }

    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        Iter::new(self.root.as_deref(), 0..self.len)
    }

    pub(super) fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(&self, range: R) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let from = match range.start_bound() {
            Bound::Included(key) => self.rank(key, false),
            Bound::Excluded(key) => self.rank(key, true),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(key) => self.rank(key, true),
            Bound::Excluded(key) => self.rank(key, false),
            Bound::Unbounded => self.len,
        };
        Iter::new(self.root.as_deref(), from..to.max(from))
    }

    /// Returns the number of keys below this one; with `itself`, this one counts too.
    fn rank<Q: Ord + ?Sized>(&self, key: &Q, itself: bool) -> usize
    where
        K: Borrow<Q>,
    {
        let Some(mut node) = self.root.as_deref() else {
            return 0;
        };
        let mut before = 0;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let within = match find(entries, key) {
                        Ok(at) => at + usize::from(itself),
                        Err(at) => at,
                    };
                    return before + within;
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    before += children[..at].iter().map(|child| child.len).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let path = self.path(key)?;
        self.follow(path)
    }

    fn follow(&mut self, path: Path) -> Option<&mut V> {
        let mut node = Arc::make_mut(self.root.as_mut()?);
        for step in path {
            match node {
                Node::Leaf(entries) => return Some(&mut entries[usize::from(step)].1),
                Node::Branch(children) => {
                    node = Arc::make_mut(&mut children[usize::from(step)].node);
                }
            }
        }
        None
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![(key, value)])));
            self.len = 1;
            return None;
        };
        let (former, split) = Arc::make_mut(root).insert(key, value);
        self.len += usize::from(former.is_none());
        if let Some(right) = split {
            let left = Child::of(mem::replace(root, Arc::clone(&right)));
            let both = vec![left, Child::of(right)];
            *root = Arc::new(Node::Branch(both));
        }
        former
    }

    pub(super) fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let path = self.path(&key).unwrap_or_else(|| {
            self.insert(key.clone(), V::default());
            self.path(&key).expect("it has been inserted")
        });
        self.follow(path).expect("the path leads to an entry")
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let path = self.path(key)?;
        let root = Arc::make_mut(self.root.as_mut()?);
        let removed = root.remove(&path);
        self.len -= 1;
        if self.len == 0 {
            self.root = None;
        } else if let Node::Branch(children) = root
            && children.len() == 1
        {
            self.root = children.pop().map(|child| child.node);
        }
        Some(removed)
    }
}

/// Returns the index of the key, or the index at which it belongs.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

/// Returns the index of the child that may contain the key.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    let after = children.partition_point(|child| child.from.borrow() <= key);
    after.saturating_sub(1)
}

impl<K: Clone, V> Child<K, V> {
    fn of(node: Arc<Node<K, V>>) -> Self {
        let (from, len) = match &*node {
            Node::Leaf(entries) => (entries[0].0.clone(), entries.len()),
            Node::Branch(children) => {
                let len = children.iter().map(|child| child.len).sum();
                (children[0].from.clone(), len)
            }
        };
        Self { from, len, node }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Inserts an entry. Returns the former value, and the part that no longer fits, which belongs
    /// after this node.
    fn insert(&mut self, key: K, value: V) -> (Option<V>, Option<Arc<Self>>) {
        match self {
            Self::Leaf(entries) => match find(entries, &key) {
                Ok(at) => (Some(mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    make_room(entries);
                    entries.insert(at, (key, value));
                    let rest = split(entries, at).map(|rest| Arc::new(Self::Leaf(rest)));
                    (None, rest)
                }
            },
            Self::Branch(children) => {
                let at = child_of(children, &key);
                let child = &mut children[at];
                if at == 0 && key < child.from {
                    child.from = key.clone();
                }
                let (former, split_off) = Arc::make_mut(&mut child.node).insert(key, value);
                child.len += usize::from(former.is_none());
                let Some(right) = split_off else {
                    return (former, None);
                };
                let right = Child::of(right);
                children[at].len -= right.len;
                make_room(children);
                children.insert(at + 1, right);
                let rest = split(children, at + 1).map(|rest| Arc::new(Self::Branch(rest)));
                (former, rest)
            }
        }
    }

    /// Removes the entry to which a path leads.
    fn remove(&mut self, path: &[u8]) -> V {
        let (at, path) = (usize::from(path[0]), &path[1..]);
        match self {
            Self::Leaf(entries) => entries.remove(at).1,
            Self::Branch(children) => {
                let child = &mut children[at];
                let node = Arc::make_mut(&mut child.node);
                let removed = node.remove(path);
                child.len -= 1;
                if child.len == 0 {
                    children.remove(at);
                } else if node.width() < MIN_ENTRIES {
                    rebalance(children, at);
                }
                removed
            }
        }
    }

    /// Appends the entries or children of the next node.
    fn append(&mut self, right: &mut Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(right)) => join(left, right),
            (Self::Branch(left), Self::Branch(right)) => join(left, right),
            _ => unreachable!("neighbours are at one depth"),
        }
    }

    /// Splits off the second half.
    fn split_half(&mut self) -> Self {
        match self {
            Self::Leaf(entries) => Self::Leaf(cut(entries, entries.len() / 2)),
            Self::Branch(children) => Self::Branch(cut(children, children.len() / 2)),
        }
    }
}

/// Reserves space for one more item. Doubling would allocate twice the size of a full node: one
/// item more than [`MAX_ENTRIES`] exists only just before a split.
fn make_room<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        let more = (items.len() / 4).max(4);
        items.reserve_exact(more.min(MAX_ENTRIES + 1 - items.len().min(MAX_ENTRIES)));
    }
}

/// Returns the part that does not fit after an insertion at `at`. Keys that arrive in ascending
/// order leave full nodes.
fn split<T>(items: &mut Vec<T>, at: usize) -> Option<Vec<T>> {
    if items.len() <= MAX_ENTRIES {
        return None;
    }
    let is_last = at + 1 == items.len();
    Some(cut(
        items,
        if is_last {
            MAX_ENTRIES
        } else {
            MAX_ENTRIES / 2
        },
    ))
}

/// Splits off all items from `at` on. The rest keeps space for a few more.
fn cut<T>(items: &mut Vec<T>, at: usize) -> Vec<T> {
    let rest = items.split_off(at);
    items.shrink_to(at + MIN_ENTRIES / 2);
    rest
}

fn join<T>(left: &mut Vec<T>, right: &mut Vec<T>) {
    left.reserve_exact(right.len());
    left.append(right);
}

/// Merges a child that has become small with a neighbour, or moves items from the neighbour to it.
fn rebalance<K: Ord + Clone, V: Clone>(children: &mut Vec<Child<K, V>>, at: usize) {
    if children.len() == 1 {
        return;
    }
    let left = if at + 1 == children.len() { at - 1 } else { at };
    let mut right = children.remove(left + 1);
    let child = &mut children[left];
    let node = Arc::make_mut(&mut child.node);
    node.append(Arc::make_mut(&mut right.node));
    child.len += right.len;
    if node.width() > MAX_ENTRIES {
        let rest = Child::of(Arc::new(node.split_half()));
        child.len -= rest.len;
        children.insert(left + 1, rest);
    }
}

/// An iterator over entries with consecutive ranks, from both ends.
#[derive(Debug)]
pub(super) struct Iter<'a, K, V> {
    root: Option<&'a Node<K, V>>,
    /// The ranks of the remaining entries.
    remaining: Range<usize>,
    /// The rest of the leaf at the front, which may extend beyond the remaining entries.
    front: &'a [(K, V)],
    back: &'a [(K, V)],
}

impl<'a, K, V> Iter<'a, K, V> {
    fn new(root: Option<&'a Node<K, V>>, left: Range<usize>) -> Self {
        Self {
            root,
            remaining: left,
            front: &[],
            back: &[],
        }
    }

    /// Returns the leaf of the entry with this rank, and the entry's index in it.
    fn leaf(&self, mut rank: usize) -> (&'a [(K, V)], usize) {
        let mut node = self.root.expect("a tree with entries has a root");
        loop {
            match node {
                Node::Leaf(entries) => return (entries, rank),
                Node::Branch(children) => {
                    let mut at = 0;
                    while rank >= children[at].len {
                        rank -= children[at].len;
                        at += 1;
                    }
                    node = &children[at].node;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let rank = self.remaining.next()?;
        if self.front.is_empty() {
            let (entries, at) = self.leaf(rank);
            self.front = &entries[at..];
        }
        let ((key, value), rest) = self.front.split_first()?;
        self.front = rest;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.remaining.size_hint()
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let rank = self.remaining.next_back()?;
        if self.back.is_empty() {
            let (entries, at) = self.leaf(rank);
            self.back = &entries[..=at];
        }
        let ((key, value), rest) = self.back.split_last()?;
        self.back = rest;
        Some((key, value))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<K: PartialEq, V: PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let entries = |tree: &'_ Self| (tree.root.clone(), tree.len);
        let ((ours, len), (theirs, others)) = (entries(self), entries(other));
        if len != others {
            return false;
        }
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => {
                Arc::ptr_eq(&ours, &theirs)
                    || Iter::new(Some(&*ours), 0..len).eq(Iter::new(Some(&*theirs), 0..len))
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl<K: Eq, V: Eq> Eq for Tree<K, V> {}

#[cfg(test)]
mod tests;
