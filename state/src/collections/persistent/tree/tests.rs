//! Tests that trees behave like ordered maps, keep their shape, and do not change their copies.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use proptest::prelude::*;

use super::*;

/// Returns the first and last key, the number of entries, and the depth of the leaves.
fn shape(node: &Node<u32, u32>, is_root: bool) -> (u32, u32, usize, usize) {
    assert!(
        (1..=MAX_ENTRIES).contains(&node.width()),
        "{}",
        node.width()
    );
    match node {
        Node::Leaf(entries) => {
            assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let ends = (entries[0].0, entries[entries.len() - 1].0);
            (ends.0, ends.1, entries.len(), 0)
        }
        Node::Branch(children) => {
            assert!(!is_root || children.len() > 1, "a root of one child");
            let mut total = 0;
            let mut ends: Option<(u32, u32)> = None;
            let mut depth = None;
            for child in children {
                let (first, last, len, below) = shape(&child.node, false);
                assert_eq!(child.len, len);
                assert!(child.from <= first && ends.is_none_or(|(_, before)| before < child.from));
                assert_eq!(
                    *depth.get_or_insert(below),
                    below,
                    "leaves are at one depth"
                );
                ends = Some((ends.map_or(first, |(first, _)| first), last));
                total += len;
            }
            let (first, last) = ends.expect("a branch has children");
            (
                first,
                last,
                total,
                depth.expect("a branch has children") + 1,
            )
        }
    }
}

/// Checks a tree against the model, and returns the depth of the leaves.
fn check(tree: &Tree<u32, u32>, model: &BTreeMap<u32, u32>) -> usize {
    assert!(tree.iter().eq(model.iter()), "{tree:?}, {model:?}");
    assert!(tree.iter().rev().eq(model.iter().rev()));
    let Some(root) = &tree.root else {
        assert_eq!((tree.len, model.len()), (0, 0));
        return 0;
    };
    let (first, last, len, depth) = shape(root, true);
    assert_eq!((len, tree.len), (model.len(), model.len()));
    assert_eq!(tree.first(), Some((&first, &model[&first])));
    assert_eq!(tree.last(), Some((&last, &model[&last])));
    for key in [first, u32::midpoint(first, last), last] {
        assert_eq!(tree.get(&key), model.get(&key));
        assert!(tree.range(key..).eq(model.range(key..)));
        assert!(tree.range(..=key).rev().eq(model.range(..=key).rev()));
        let behind = (Excluded(key), Unbounded);
        assert!(tree.range(behind).eq(model.range(behind)));
        assert_eq!(tree.range(behind).len(), model.range(behind).count());
        // From both ends until they meet.
        let (mut range, mut wanted) = (tree.range(..key), model.range(..key));
        while let Some(entry) = range.next() {
            assert_eq!(Some(entry), wanted.next());
            assert_eq!(range.next_back(), wanted.next_back());
        }
        assert_eq!((range.next_back(), wanted.next()), (None, None));
    }
    depth
}

#[derive(Debug, Clone)]
enum Step {
    /// Inserts this many keys from here on, at this distance.
    Insert(u32, u32, u32),
    Remove(u32, u32, u32),
    Change(u32),
    Copy,
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    let run = || (0..20_000_u32, 1..900_u32, 1..7_u32);
    prop_oneof![
        4 => run().prop_map(|(from, count, apart)| Step::Insert(from, count, apart)),
        3 => run().prop_map(|(from, count, apart)| Step::Remove(from, count, apart)),
        2 => (0..20_000_u32).prop_map(Step::Change),
        1 => Just(Step::Copy),
        1 => Just(Step::Drop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn trees_keep_their_shape_and_copies_do_not_change(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
        let mut copies: Vec<(Tree<u32, u32>, BTreeMap<u32, u32>)> = Vec::new();
        for (at, step) in (0..).zip(steps) {
            match step {
                Step::Insert(from, count, apart) => {
                    for key in (from..).step_by(apart as usize).take(count as usize) {
                        assert_eq!(tree.insert(key, at), model.insert(key, at));
                    }
                }
                Step::Remove(from, count, apart) => {
                    for key in (from..).step_by(apart as usize).take(count as usize) {
                        assert_eq!(tree.remove(&key), model.remove(&key));
                    }
                }
                Step::Change(key) => {
                    let found = tree.get_mut(&key).map(|value| *value += 1);
                    assert_eq!(found, model.get_mut(&key).map(|value| *value += 1));
                }
                Step::Copy => copies.push((tree.clone(), model.clone())),
                Step::Drop => drop(copies.pop()),
            }
        }
        check(&tree, &model);
        for (copy, model) in &copies {
            check(copy, model);
        }
    }
}

#[test]
fn ascending_keys_fill_nodes_and_removals_in_any_order_empty_the_tree() {
    let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
    for key in 0..40_000 {
        tree.insert(key, key);
        model.insert(key, key);
    }
    assert_eq!(
        check(&tree, &model),
        3,
        "40,000 entries in full nodes of 32"
    );
    // 7,919 is coprime to the number of keys: each key occurs once, in scattered order.
    for key in (0..40_000_u32).map(|at| at * 7_919 % 40_000) {
        assert_eq!(tree.remove(&key), model.remove(&key));
        if model.len() % 4_096 == 0 {
            check(&tree, &model);
        }
    }
    assert!(tree.root.is_none() && tree.first().is_none());
}

#[test]
fn a_lookup_of_a_missing_key_copies_nothing() {
    let mut tree = Tree::default();
    for key in 0..1_000 {
        tree.insert(2 * key, key);
    }
    let copy = tree.clone();
    assert!(tree.get_mut(&1_001).is_none() && tree.remove(&7).is_none());
    let (Some(ours), Some(theirs)) = (&tree.root, &copy.root) else {
        panic!("neither is empty");
    };
    assert!(Arc::ptr_eq(ours, theirs));
    assert_eq!(tree, copy);
    *tree.get_mut(&1_000).unwrap() += 1;
    assert_ne!(tree, copy);
    assert_eq!(copy.get(&1_000), Some(&500));
}

/// Returns the largest capacity of a node, in entries or children.
fn room(node: &Node<u32, u32>) -> usize {
    match node {
        Node::Leaf(entries) => entries.capacity(),
        Node::Branch(children) => {
            let below = children.iter().map(|child| room(&child.node)).max();
            children.capacity().max(below.unwrap_or(0))
        }
    }
}

#[test]
fn the_capacity_of_a_node_is_bounded() {
    let mut tree = Tree::default();
    for number in 0..20_000_u32 {
        tree.insert(number.wrapping_mul(2_654_435_761), number);
    }
    let keys: Vec<u32> = tree.iter().map(|(key, _)| *key).step_by(3).collect();
    assert_eq!(room(tree.root.as_ref().unwrap()), MAX_ENTRIES + 1);
    for key in keys {
        tree.remove(&key);
    }
    assert!(room(tree.root.as_ref().unwrap()) <= 2 * MAX_ENTRIES);
}
