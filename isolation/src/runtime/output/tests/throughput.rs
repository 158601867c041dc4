//! The cost of the record of times: how fast the output of a command is stored that writes as fast
//! as it can, with and without the record.
//!
//! Without `ARGOSY_LONG` only a few bytes are moved, which shows that the switch works. Measure
//! with `ARGOSY_LONG=1 cargo test --release -p argosy-isolation --lib -- throughput --nocapture`.
//! The side without the record still compares two times for each piece of output, as a byte within
//! a span does.

use std::os::fd::AsFd;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};

use super::*;

/// As by default, but without a limit of the rate, which would be all that is measured.
const LIMITS: OutputLimits = OutputLimits {
    bytes_per_second: u64::MAX,
    ..OutputLimits::DEFAULT
};

/// A command that writes one piece after the other.
struct Producer {
    name: &'static str,
    piece_bytes: usize,
    /// The number of pieces, in the gate and in a measurement.
    pieces: [usize; 2],
}

const PRODUCERS: [Producer; 3] = [
    Producer {
        name: "lines of 80 bytes, one write each",
        piece_bytes: 80,
        pieces: [2_000, 3_000_000],
    },
    Producer {
        name: "lines of 80 bytes, 4 KiB a write",
        piece_bytes: 4_080,
        pieces: [200, 500_000],
    },
    Producer {
        name: "lines of 80 bytes, 64 KiB a write",
        piece_bytes: 65_520,
        pieces: [20, 30_000],
    },
];
const ROUNDS: [usize; 2] = [1, 5];

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Throughput {
    mib_per_second: f64,
    /// Processor time of the thread that stores the output.
    us_per_mib: f64,
    spans: usize,
}

/// Stores the output of one command.
fn run(producer: &Producer, pieces: usize, has_times: bool) -> Throughput {
    let mut fixture = OutputFixture::new(LIMITS);
    if !has_times {
        fixture.outputs.store.times.disable();
    }
    let line = [&[b'x'; 79][..], b"\n"].concat();
    let piece = line.repeat(producer.piece_bytes / line.len());
    let bytes = piece.len() * pieces;
    let unused = [empty_file(), empty_file()];
    let [mut stdout, stderr] = std::mem::replace(&mut fixture.writers, unused);
    drop(stderr);
    let (began, used) = (Instant::now(), thread_seconds());
    let command = thread::spawn(move || {
        for _ in 0..pieces {
            stdout.write_all(&piece).unwrap();
        }
    });
    while fixture.outputs.pipes().iter().any(Option::is_some) {
        pump(&mut fixture);
    }
    let took = began.elapsed().as_secs_f64();
    let used = thread_seconds() - used;
    command.join().unwrap();
    fixture.finish();
    assert_eq!(fixture.outputs.lengths(), [bytes as u64, 0]);
    let mib = bytes as f64 / f64::from(1 << 20);
    Throughput {
        mib_per_second: mib / took,
        us_per_mib: used * 1e6 / mib,
        spans: match has_times {
            true => fixture.spans().len(),
            false => usize::from(times_of(&fixture).exists()),
        },
    }
}

fn times_of(fixture: &OutputFixture) -> PathBuf {
    times_path(&fixture.directory.path().join("output.json"))
}

fn empty_file() -> File {
    tempfile::tempfile().unwrap()
}

/// Waits for output and moves it, as a supervisor does.
fn pump(fixture: &mut OutputFixture) {
    let pipes = fixture.outputs.pipes();
    let mut polled: Vec<_> = pipes
        .iter()
        .flatten()
        .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut polled, PollTimeout::NONE).unwrap();
    let open = pipes.map(|pipe| pipe.is_some());
    (fixture.outputs).pump(open, &mut fixture.buffer, &mut |_, _| {});
}

fn thread_seconds() -> f64 {
    let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(used).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn the_record_of_times_is_measured_with_and_without_entries() {
    let long = usize::from(std::env::var_os("ARGOSY_LONG").is_some());
    for producer in PRODUCERS {
        let mut results: [Vec<Throughput>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS[long] {
            for (results, has_times) in results.iter_mut().zip([true, false]) {
                let result = run(&producer, producer.pieces[long], has_times);
                assert_eq!(result.spans > 0, has_times, "{}", producer.name);
                results.push(result);
            }
        }
        for (results, side) in results.iter().zip(["with times", "without times"]) {
            let of = |value: fn(&Throughput) -> f64| median(results.iter().map(value).collect());
            println!(
                "{}, {side}: {:.0} MiB/s, {:.0} us of a core for each MiB, {} spans",
                producer.name,
                of(|result| result.mib_per_second),
                of(|result| result.us_per_mib),
                results[0].spans,
            );
        }
    }
}
