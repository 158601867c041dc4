//! The proposer under many schedules of its owner, its node and consensus.

use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;

use super::*;
use crate::concurrency::explore;
use crate::log_size::LogRetention;
use crate::settings::SnapshotPolicy;

/// Consensus that accepts the entries of the term in which it leads.
struct LogModel(Arc<Mutex<LogContents>>);

#[derive(Default)]
struct LogContents {
    term: u64,
    entries: Vec<(u64, Vec<u8>)>,
    /// The number of proposals that are refused, as by a leader whose voters have not answered.
    refusals: u32,
}

impl EntryWriter for LogModel {
    async fn write(&mut self, term: u64, batch: Batch, _queued_at: Instant) -> ProposalOutcome {
        // The command travels to consensus.
        shuttle::future::yield_now().await;
        let mut contents = self.0.lock().unwrap();
        if contents.refusals > 0 || contents.term != term {
            contents.refusals = contents.refusals.saturating_sub(1);
            return ProposalOutcome::Rejected;
        }
        let numbers = batch.commands.iter().map(|command| command[0]);
        contents.entries.push((term, numbers.collect()));
        ProposalOutcome::Done
    }
}

fn proposal(number: u8) -> Proposal {
    Proposal {
        at_ms: 1,
        command: vec![number].into(),
        work: 1,
    }
}

struct Fixture {
    queue: ProposalQueue,
    leading_term: Arc<AtomicU64>,
    contents: Arc<Mutex<LogContents>>,
    proposer: thread::JoinHandle<()>,
}

fn fixture(refusals: u32) -> Fixture {
    let leading_term = Arc::new(AtomicU64::new(1));
    let (queue, mut proposer) = ProposalQueue::new(leading_term.clone());
    let contents = Arc::new(Mutex::new(LogContents {
        term: 1,
        refusals,
        ..LogContents::default()
    }));
    let mut writer = LogModel(Arc::clone(&contents));
    let growth = LogGrowth::new(SnapshotPolicy::default(), LogRetention::default());
    let proposer = thread::spawn(move || block_on(proposer.propose_all(&mut writer, &growth)));
    Fixture {
        queue,
        leading_term,
        contents,
        proposer,
    }
}

impl Fixture {
    /// Waits until the proposer has ended, and returns the entries of the log.
    fn finish(self) -> Vec<(u64, Vec<u8>)> {
        let bytes = Arc::clone(&self.queue.bytes);
        drop(self.queue);
        self.proposer.join().unwrap();
        assert_eq!(bytes.available_permits(), QUEUE_BYTES, "bytes are lost");
        self.contents.lock().unwrap().entries.clone()
    }
}

#[test]
fn schedules_of_a_leader_lose_and_repeat_no_command() {
    explore(|| {
        let fixture = fixture(2);
        let callers = [10, 20].map(|first| {
            let queue = fixture.queue.clone();
            thread::spawn(move || {
                for number in first..first + 3 {
                    match number % 2 {
                        0 => queue.try_propose(proposal(number)).unwrap(),
                        _ => block_on(queue.propose(proposal(number))).unwrap(),
                    }
                }
            })
        });
        for caller in callers {
            caller.join().unwrap();
        }
        let entries = fixture.finish();
        let all: Vec<u8> = entries.into_iter().flat_map(|entry| entry.1).collect();
        for first in [10, 20] {
            let of_one = all
                .iter()
                .copied()
                .filter(|number| number / 10 * 10 == first);
            assert_eq!(of_one.collect::<Vec<u8>>(), [first, first + 1, first + 2]);
        }
        assert_eq!(all.len(), 6);
    });
}

/// An owner that stops leading clears the queue. What it proposed before may be committed only by
/// the entry that is in flight, and never in an entry of what it proposes later.
#[test]
fn schedules_of_a_cleared_queue_never_mix_terms_of_office() {
    explore(|| {
        let fixture = fixture(1);
        for number in [10, 11, 12] {
            fixture.queue.try_propose(proposal(number)).unwrap();
        }
        fixture.queue.clear();
        let before = fixture.contents.lock().unwrap().entries.len();
        for number in [20, 21] {
            fixture.queue.try_propose(proposal(number)).unwrap();
        }
        let entries = fixture.finish();
        let of = |former: bool| {
            let entries = entries.iter().enumerate();
            let of = entries.filter(move |(_, entry)| {
                entry.1.iter().any(|number| (number / 10 == 1) == former)
            });
            of.map(|(place, _)| place).collect::<Vec<usize>>()
        };
        assert!(
            of(true).iter().all(|place| !of(false).contains(place)),
            "{entries:?}"
        );
        let late = of(true)
            .into_iter()
            .filter(|place| *place >= before)
            .count();
        assert!(
            late <= 1,
            "{late} entries after the queue was cleared: {entries:?}"
        );
        let last: Vec<u8> = of(false)
            .iter()
            .flat_map(|place| entries[*place].1.clone())
            .collect();
        assert_eq!(last, [20, 21]);
    });
}

/// Commands are proposed only in the term in which they were queued.
#[test]
fn schedules_of_a_lost_term_never_move_a_command_to_another_one() {
    explore(|| {
        let fixture = fixture(1);
        let (leading_term, contents) = (fixture.leading_term.clone(), fixture.contents.clone());
        let node = thread::spawn(move || {
            for term in [0, 3] {
                contents.lock().unwrap().term = term;
                leading_term.store(term, Ordering::Relaxed);
            }
        });
        let mut queued = Vec::new();
        for number in 10..14 {
            let before = fixture.leading_term.load(Ordering::Relaxed);
            let result = fixture.queue.try_propose(proposal(number));
            let after = fixture.leading_term.load(Ordering::Relaxed);
            match result {
                Ok(()) => queued.push((number, before, after)),
                Err(ProposeError::NotLeader) => {
                    assert!(before == 0 || after != 1, "{before} {after}")
                }
                Err(other) => panic!("{other}"),
            }
        }
        node.join().unwrap();
        let entries = fixture.finish();
        for (term, numbers) in &entries {
            for number in numbers {
                let of = queued.iter().find(|queued| queued.0 == *number);
                let (_, before, after) = of.expect("only queued commands are proposed");
                assert!(
                    (*before..=*after).contains(term),
                    "{entries:?} of {queued:?}"
                );
            }
        }
        // What was queued in the last term is committed.
        for (number, ..) in queued.iter().filter(|queued| queued.1 == 3) {
            assert!(
                entries.iter().any(|entry| entry.1.contains(number)),
                "{entries:?} of {queued:?}"
            );
        }
    });
}
