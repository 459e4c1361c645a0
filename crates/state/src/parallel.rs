//! Work on frames in several threads, its results in the frames' order. Each frame
//! is complete in itself, so the bytes, and the errors, are those of one thread.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::Range;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::OnceLock;
use std::thread::{available_parallelism, Builder, Scope};

/// Most threads for one stream: beyond that, the one that reads or writes the
/// channel is what the others wait for.
const MAX_THREADS: usize = 4;

/// Frames for each thread that are under way at a time: one being worked on, one
/// waiting for its turn.
const DEPTH: usize = 2;

/// Weight in bytes of what is under way from which nothing is added.
const MAX_WEIGHT: usize = 32 << 20;

/// Frames that are not worth a thread.
pub(crate) const FEW_FRAMES: usize = 8;

/// How many processors this process may run on, as when it was first asked: to find out
/// takes a dozen system calls where there are control groups, and a guest may be standing
/// still.
pub fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| available_parallelism().map_or(1, NonZero::get))
}

/// How many threads share the work on many frames; none where one processor is all
/// there is.
pub(crate) fn threads() -> usize {
    match processors() {
        1 => 0,
        n => n.min(MAX_THREADS),
    }
}

/// What one worker is given, and what comes back.
struct Worker<T, R> {
    jobs: Sender<T>,
    results: Receiver<R>,
}

/// Gives what `next` answers to `work` on up to `threads` threads, and what becomes
/// of it to `done`, in the same order, until there is no next one. `next` and `done`
/// are called by this thread alone.
///
/// What is under way is at most [`DEPTH`] pieces a thread, and [`MAX_WEIGHT`] bytes
/// (as `weight` tells) and one piece more.
///
/// # Errors
/// The first of `next` or `done` in the order of the pieces, wherever the threads
/// were; the rest is dropped.
///
/// # Panics
/// When `work` did.
pub(crate) fn in_order<T: Send, R: Send, E>(
    threads: usize,
    mut next: impl FnMut() -> Result<Option<T>, E>,
    weight: impl Fn(&T) -> usize,
    work: impl Fn(T) -> R + Sync,
    mut done: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map_while(|_| start(scope, &work)).collect();
        if workers.is_empty() {
            while let Some(piece) = next()? {
                done(work(piece))?;
            }
            return Ok(());
        }
        // Piece n is for worker n modulo their number, and so is its result.
        let mut given = workers.iter().cycle();
        let mut awaited = workers.iter().cycle();
        let mut under_way = VecDeque::new();
        let mut weight_under_way = 0;
        let mut ended = None;
        loop {
            let room = under_way.len() < workers.len() * DEPTH && weight_under_way < MAX_WEIGHT;
            if ended.is_none() && room {
                match next() {
                    Ok(Some(piece)) => {
                        let weight = weight(&piece);
                        under_way.push_back(weight);
                        weight_under_way += weight;
                        if let Some(worker) = given.next() {
                            // Fails only where the worker has panicked: seen below.
                            let _ = worker.jobs.send(piece);
                        }
                        continue;
                    }
                    Ok(None) => ended = Some(Ok(())),
                    // What came before it may have an error of its own.
                    Err(e) => ended = Some(Err(e)),
                }
            }
            let Some(weight) = under_way.pop_front() else {
                return ended.unwrap_or(Ok(()));
            };
            weight_under_way -= weight;
            match awaited.next().map(|worker| worker.results.recv()) {
                Some(Ok(result)) => done(result)?,
                _ => panic!("a thread that worked on a frame panicked"),
            }
        }
    })
}

/// Starts a worker, or not, where no more threads can be had.
fn start<'scope, T: Send + 'scope, R: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: &'scope (impl Fn(T) -> R + Sync),
) -> Option<Worker<T, R>> {
    let (jobs, todo) = channel();
    let (out, results) = channel();
    let spawned = Builder::new()
        .name("state-frames".into())
        .spawn_scoped(scope, move || {
            for piece in todo {
                if out.send(work(piece)).is_err() {
                    break;
                }
            }
        });
    match spawned {
        Ok(_) => Some(Worker { jobs, results }),
        Err(e) => {
            log::debug!("one thread less for the state stream: {e}");
            None
        }
    }
}

/// Things that are not worth a thread.
const FEW_THINGS: usize = 32 << 10;

/// `work` on parts of `0..count` that come one behind the other, in as many threads as
/// there are processors where there is much to do; what becomes of them, in their order.
///
/// # Panics
/// When `work` did.
pub(crate) fn in_parts<R: Send>(count: usize, work: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    let parts = threads().min(count / FEW_THINGS).max(1);
    let length = count.div_ceil(parts);
    let part = |n: usize| (n * length).min(count)..((n + 1) * length).min(count);
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..parts)
            .map(|n| {
                Builder::new()
                    .name("state-check".into())
                    .spawn_scoped(scope, move || work(part(n)))
                    .map_err(|_| n)
            })
            .collect();
        let mut all = vec![work(part(0))];
        for other in others {
            all.push(match other {
                Ok(thread) => match thread.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                // No more threads can be had.
                Err(n) => work(part(n)),
            });
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Counts to `end`, then fails with it; the later pieces are ready first.
    fn run(threads: usize, end: usize, fails_at: usize) -> (Vec<usize>, Result<(), usize>) {
        let mut n = 0;
        let mut seen = Vec::new();
        let outcome = in_order(
            threads,
            || {
                n += 1;
                if n <= end {
                    Ok(Some(n))
                } else {
                    Err(end)
                }
            },
            |_| 1,
            |n| {
                std::thread::sleep(Duration::from_micros(if n % 3 == 1 { 900 } else { 10 }));
                n
            },
            |n| {
                seen.push(n);
                if n == fails_at {
                    Err(n)
                } else {
                    Ok(())
                }
            },
        );
        (seen, outcome)
    }

    #[test]
    fn results_and_errors_come_in_order_whatever_the_number_of_threads() {
        for threads in 0..5 {
            let (seen, outcome) = run(threads, 40, 0);
            assert_eq!(seen, (1..=40).collect::<Vec<_>>(), "{threads}");
            assert_eq!(outcome, Err(40));
            // What is wrong with a piece comes before what is wrong behind it.
            let (seen, outcome) = run(threads, 40, 39);
            assert_eq!((seen.len(), outcome), (39, Err(39)), "{threads}");
        }
    }

    #[test]
    fn no_more_is_under_way_than_was_said() {
        for (threads, weight, most) in [
            (0, 1, 1),
            (3, 1, 3 * DEPTH),
            (4, MAX_WEIGHT / 2, 2),
            (4, MAX_WEIGHT * 9, 1),
        ] {
            let (under_way, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut n = 0;
            let outcome = in_order(
                threads,
                || {
                    n += 1;
                    let now = under_way.fetch_add(1, Ordering::Relaxed) + 1;
                    peak.fetch_max(now, Ordering::Relaxed);
                    Ok::<_, ()>((n <= 50).then_some(n))
                },
                |_| weight,
                |n| n,
                |_| {
                    under_way.fetch_sub(1, Ordering::Relaxed);
                    Ok(())
                },
            );
            assert_eq!(outcome, Ok(()));
            // The end is asked for once, and is under way for ever.
            let peak = peak.into_inner();
            assert!(peak <= most + 1 && peak >= most, "{threads}: {peak}");
        }
    }

    #[test]
    fn parts_come_in_order_and_are_everything() {
        for count in [0, 1, FEW_THINGS, 2 * FEW_THINGS + 1, 9 * FEW_THINGS + 5] {
            let parts = in_parts(count, |range| range);
            assert!(parts.len() == 1 || parts.len() <= count / FEW_THINGS);
            let mut next = 0;
            for part in parts {
                assert_eq!(part.start, next);
                next = part.end;
            }
            assert_eq!(next, count);
        }
    }

    #[test]
    fn a_panic_in_a_thread_is_one_here() {
        let panicked = std::panic::catch_unwind(|| {
            let mut n = 0;
            in_order(
                2,
                || {
                    n += 1;
                    Ok::<_, ()>(Some(n))
                },
                |_| 1,
                |n| assert!(n < 10, "as it is meant to"),
                |()| Ok(()),
            )
        });
        assert!(panicked.is_err());
    }
}
