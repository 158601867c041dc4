//! Properties of the queue, on generated loads.

use super::*;

const ROOMY: QueueBounds = QueueBounds {
    of_account: usize::MAX,
    total: usize::MAX,
    bytes_of_account: usize::MAX,
    bytes_total: usize::MAX,
};

/// A deterministic generator of numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    fn cost(&mut self) -> u32 {
        // Mostly small calls, and some as expensive as possible.
        let most = [8, 64, 512, u64::from(MAX_COST)][self.below(4) as usize];
        1 + self.below(most) as u32
    }
}

/// An entry that shows its account, its number there, and its cost.
type Entry = (u8, u32, u32);

fn push(queue: &mut FairQueue<u8, Entry>, account: u8, number: u32, cost: u32) {
    let refused = queue.push(
        &account,
        EntryKind::Call,
        (cost, 0),
        (account, number, cost),
    );
    assert_eq!(refused, []);
}

#[test]
fn calls_of_one_account_keep_their_order() {
    let mut numbers = Numbers(1);
    let mut queue = FairQueue::new(ROOMY);
    let mut sent = [0; 5];
    for _ in 0..2_000 {
        let account = numbers.below(5) as u8;
        let number = &mut sent[usize::from(account)];
        push(&mut queue, account, *number, numbers.cost());
        *number += 1;
    }
    let mut next = [0; 5];
    while let Some(((account, number, _), _)) = queue.take() {
        assert_eq!(number, next[usize::from(account)]);
        next[usize::from(account)] += 1;
    }
    assert_eq!(next, sent, "everything is served");
    assert_eq!(queue.waiting(), 0);
}

/// At each moment, accounts that have always waited have received nearly the same.
#[test]
fn accounts_that_wait_share_by_cost() {
    for seed in 0..20 {
        let mut numbers = Numbers(seed);
        let accounts = 2 + numbers.below(7) as u8;
        let mut queue = FairQueue::new(ROOMY);
        let mut sent = 0;
        let mut add = |queue: &mut FairQueue<u8, Entry>, account: u8| {
            // One account has small calls only, and must get the same share.
            let cost = if account == 0 { 1 } else { numbers.cost() };
            push(queue, account, sent, cost);
            sent += 1;
        };
        for account in 0..accounts {
            add(&mut queue, account);
            add(&mut queue, account);
        }
        let mut served = vec![0_u64; usize::from(accounts)];
        for _ in 0..20_000 {
            let ((account, _, cost), _) = queue.take().expect("all accounts have calls");
            served[usize::from(account)] += u64::from(cost);
            add(&mut queue, account);
            let (most, least) = (served.iter().max(), served.iter().min());
            let apart = most.unwrap() - least.unwrap();
            let bound = u64::from(QUANTUM + 2 * MAX_COST);
            assert!(apart <= bound, "seed {seed}: {served:?}");
        }
    }
}

/// A call of an account that was idle waits for one turn of each other account at most, however
/// many calls these have.
#[test]
fn a_single_call_is_served_within_one_round() {
    let mut queue = FairQueue::new(ROOMY);
    for number in 0..50_000 {
        push(&mut queue, (number % 10) as u8, number, 8);
    }
    for _ in 0..777 {
        queue.take().unwrap();
    }
    push(&mut queue, 99, 0, 8);
    let before = std::iter::from_fn(|| queue.take())
        .take_while(|((account, ..), _)| *account != 99)
        .map(|((.., cost), _)| cost)
        .sum::<u32>();
    assert!(before <= 11 * QUANTUM, "{before}");
}

/// No call waits while it can be served, and each call is served once.
#[test]
fn the_queue_is_work_conserving() {
    for seed in 0..20 {
        let mut numbers = Numbers(seed);
        let mut queue = FairQueue::new(ROOMY);
        let (mut sent, mut served) = (0, 0);
        let mut held = Vec::new();
        for _ in 0..20_000 {
            match numbers.below(3) {
                0 => {
                    let account = numbers.below(6) as u8;
                    push(&mut queue, account, sent, numbers.cost());
                    sent += 1;
                }
                1 => {
                    if let Some((_, place)) = queue.take() {
                        served += 1;
                        held.push(place);
                    }
                }
                _ => drop(held.pop()),
            }
            assert_eq!(queue.waiting(), (sent - served) as usize);
            if numbers.below(100) == 0 {
                queue.tick();
            }
        }
        // Some accounts may have no place left, but never all of them if all places are free.
        held.clear();
        while queue.waiting() > 0 {
            queue.take().expect("no place is taken");
        }
    }
}

#[test]
fn a_full_queue_refuses_the_calls_of_its_own_account_only() {
    let bounds = QueueBounds {
        of_account: 100,
        total: 150,
        ..ROOMY
    };
    let mut queue = FairQueue::new(bounds);
    for number in 0..100 {
        push(&mut queue, 1, number, 1);
    }
    let refused = queue.push(&1, EntryKind::Call, (1, 0), (1, 100, 1));
    assert_eq!(refused, [(1, 100, 1)]);
    // The whole queue is full: the account with the most calls loses its newest ones.
    for number in 0..50 {
        push(&mut queue, 2, number, 1);
    }
    for number in 0..20 {
        let refused = queue.push(&3, EntryKind::Call, (1, 0), (3, number, 1));
        assert_eq!(refused, [(1, 99 - number, 1)]);
    }
    assert_eq!(queue.waiting(), 150);
    // The end of a stream is added to a full queue, and takes the place of no call.
    assert_eq!(queue.push(&4, EntryKind::End, (1, 0), (4, 0, 1)), []);
    let refused = queue.push(&3, EntryKind::Call, (1, 0), (3, 20, 1));
    assert_eq!(refused, [(1, 79, 1)]);
    assert_eq!(queue.push(&1, EntryKind::End, (1, 0), (1, 0, 1)), []);
    assert_eq!(queue.waiting(), 152);
}

#[test]
fn the_end_of_a_stream_is_never_removed() {
    let mut queue = FairQueue::new(QueueBounds {
        of_account: 10,
        total: 3,
        ..ROOMY
    });
    for number in 0..3 {
        assert_eq!(queue.push(&1, EntryKind::End, (1, 0), (1, number, 1)), []);
    }
    let refused = queue.push(&2, EntryKind::Call, (1, 0), (2, 0, 1));
    assert_eq!(refused, [(2, 0, 1)], "nothing else can be removed");
    assert_eq!(queue.waiting(), 3);
}

#[test]
fn a_full_queue_from_which_no_call_can_be_removed_refuses_the_new_entry() {
    let mut queue = FairQueue::new(QueueBounds {
        of_account: 10,
        total: 2,
        ..ROOMY
    });
    let mut begin = |account: u8, number: u32| {
        let entry = (account, number, 1);
        queue.push(&account, EntryKind::Stream, (1, 0), entry)
    };
    assert_eq!(begin(1, 0), []);
    assert_eq!(begin(1, 1), []);
    assert_eq!(begin(1, 2), [(1, 2, 1)]);
    assert_eq!(begin(2, 3), [(2, 3, 1)]);
    assert_eq!(queue.waiting(), 2);
}

#[test]
fn waiting_calls_are_bounded_in_bytes() {
    const MIB: usize = 1 << 20;
    let mut queue = FairQueue::new(QueueBounds {
        bytes_of_account: 64 * MIB,
        bytes_total: 100 * MIB,
        ..ROOMY
    });
    let mut add = |account: u8, number: u32, bytes: usize| {
        let entry = (account, number, 1);
        queue.push(&account, EntryKind::Call, (1, bytes), entry)
    };
    for number in 0..64 {
        assert_eq!(add(1, number, MIB), []);
    }
    assert_eq!(add(1, 64, MIB), [(1, 64, 1)]);
    for number in 0..36 {
        assert_eq!(add(2, number, MIB), []);
    }
    // All of the room is taken: the account with the most bytes loses its newest calls.
    assert_eq!(add(3, 0, 2 * MIB), [(1, 63, 1), (1, 62, 1)]);
    // What is served leaves room.
    let served = std::iter::from_fn(|| queue.take());
    assert_eq!(served.count(), 62 + 36 + 1);
    let entry = (1, 65, 1);
    let refused = queue.push(&1, EntryKind::Call, (1, 64 * MIB), entry);
    assert_eq!(refused, []);
}

/// Returns the numbers of calls that each account has in the log when no more are taken.
fn filled(queue: &mut FairQueue<u8, Entry>, held: &mut Vec<CallPlace>) -> BTreeMap<u8, u32> {
    while let Some((_, place)) = queue.take() {
        held.extend(place);
    }
    let accounts = queue.accounts.iter();
    accounts.map(|(key, one)| (*key, one.places())).collect()
}

#[test]
fn an_account_alone_has_more_places_than_one_of_several() {
    let mut queue = FairQueue::new(ROOMY);
    let mut held = Vec::new();
    for number in 0..5_000 {
        push(&mut queue, 1, number, 1);
    }
    assert_eq!(filled(&mut queue, &mut held)[&1], PLACES_ALONE);
    // Another one calls. From the next tick on, the first one gets new places only below its share.
    for number in 0..32 {
        push(&mut queue, 2, number, 1);
    }
    let places = filled(&mut queue, &mut held);
    assert_eq!((places[&1], places[&2]), (PLACES_ALONE, 32));
    queue.tick();
    held.clear();
    for number in 0..32 {
        push(&mut queue, 2, number, 1);
    }
    let places = filled(&mut queue, &mut held);
    assert_eq!((places[&1], places[&2]), (PLACES_SHARED - 32, 32));
}

#[test]
fn places_are_shared_by_need() {
    assert_eq!(share(Vec::new()), PLACES_ALONE);
    assert_eq!(share(vec![PLACES_ALONE]), PLACES_ALONE);
    assert_eq!(share(vec![3, 5, 7]), PLACES_ALONE, "all fit");
    // Eight accounts of 32 calls, and a flood: equal shares.
    let mut demands = vec![32; 8];
    demands.push(PLACES_ALONE);
    assert_eq!(share(demands), 28);
    // Eight accounts of one call: the flood has the rest.
    let mut demands = vec![1; 8];
    demands.push(PLACES_ALONE);
    assert_eq!(share(demands), 248);
    assert_eq!(share(vec![PLACES_ALONE; 1_000]), MIN_PLACES);
}

#[test]
fn accounts_without_calls_are_forgotten() {
    let mut queue = FairQueue::new(ROOMY);
    for number in 0..100 {
        push(&mut queue, number as u8, number, 1);
    }
    let mut held = Vec::new();
    filled(&mut queue, &mut held);
    queue.tick();
    assert_eq!(queue.accounts(), 100);
    held.clear();
    for _ in 0..100 {
        queue.tick();
    }
    assert_eq!(queue.accounts(), 0);
}
