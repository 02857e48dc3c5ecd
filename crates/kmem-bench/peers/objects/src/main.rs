//! Objects of 64 bytes, made and dropped by kmem's typed caches, by crates of pools and arenas, and by allocators of Rust's that
//! are linked in; the size is known where each is called. `objects ROW SUBJECT` prints nanoseconds per object, `objects --list`
//! names the subjects. `Box` is a box on whatever malloc the process has.

#[path = "../../../src/clock.rs"]
mod clock;
mod subjects;

use std::hint::black_box;
use std::process::ExitCode;

use clock::{Random, per_operation, pin};

/// As large as the blocks of the rows of malloc. Not initialised, as malloc's blocks are not.
type Object = std::mem::MaybeUninit<[u64; 8]>;

const BATCH: usize = 1000;

/// A way to make and drop objects.
trait Subject {
    /// An object that is owned.
    type Owned;

    /// Makes one and writes a word of it.
    fn make(&mut self) -> Self::Owned;
    fn drop(&mut self, object: Self::Owned);
    /// What can only be dropped all at once is, here.
    fn end_of_batch(&mut self) {}
}

/// Takes turns on making and dropping one.
fn pair(mut subject: impl Subject) -> f64 {
    pin();
    let mut since = 0;
    per_operation(|n| {
        for _ in 0..n {
            let object = black_box(subject.make());
            subject.drop(object);
            since += 1;
            if since == BATCH {
                subject.end_of_batch();
                since = 0;
            }
        }
    })
}

fn batch<S: Subject>(mut subject: S, order: &[usize]) -> f64 {
    let mut objects: Vec<Option<S::Owned>> = (0..BATCH).map(|_| None).collect();
    let whole = per_operation(|n| {
        for _ in 0..n {
            objects.iter_mut().for_each(|slot| *slot = black_box(Some(subject.make())));
            for &at in order {
                if let Some(object) = objects[at].take() {
                    subject.drop(object);
                }
            }
            subject.end_of_batch();
        }
    });
    whole / BATCH as f64
}

fn shuffled() -> Vec<usize> {
    let mut random = Random(99);
    let mut order: Vec<usize> = (0..BATCH).collect();
    (1..BATCH).rev().for_each(|at| order.swap(at, random.below(at + 1)));
    order
}

/// One thread's rows.
fn alone(row: &str, subject: impl Subject) -> Option<f64> {
    match row {
        "object_pair" => Some(pair(subject)),
        "object_lifo" => {
            pin();
            Some(batch(subject, &(0..BATCH).rev().collect::<Vec<_>>()))
        }
        "object_rand" => {
            pin();
            Some(batch(subject, &shuffled()))
        }
        _ => None,
    }
}

/// And two threads', each on a handle to the same.
fn shared<S: Subject>(row: &str, subject: impl Fn() -> S + Sync) -> Option<f64> {
    if row != "object_mt2" {
        return alone(row, subject());
    }
    let order = shuffled();
    let times = std::thread::scope(|scope| {
        let other = scope.spawn(|| batch(subject(), &order));
        let mine = batch(subject(), &order);
        [mine, other.join().expect("it does not panic")]
    });
    Some((times[0] + times[1]) / 2.0)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = match &arguments[..] {
        [flag] if flag == "--list" => {
            subjects::NAMES.iter().for_each(|name| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        [row, subject] => subjects::run(row, subject),
        _ => None,
    };
    match number {
        Some(number) => {
            println!("{number}");
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}
