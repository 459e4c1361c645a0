//! Work on very many things, while a guest stands still.

use ferryfs_state::processors;

/// What is not worth a thread.
const FEW: usize = 10_000;

/// Most threads that one piece of work takes.
const MOST_THREADS: usize = 4;

/// `work` on each of `pieces`, on as many threads as there are processors.
pub(crate) fn in_parallel<T: Sync, R: Send>(pieces: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = processors().min(MOST_THREADS);
    if threads < 2 || pieces.len() < 2 {
        return pieces.iter().map(work).collect();
    }
    let part = pieces.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let (first, rest) = pieces.split_at(part.min(pieces.len()));
        let work = &work;
        let others: Vec<_> = rest
            .chunks(part)
            .map(|pieces| {
                let run = move || pieces.iter().map(work).collect::<Vec<R>>();
                std::thread::Builder::new()
                    .name("crossing".into())
                    .spawn_scoped(scope, run)
                    .map_err(|_| pieces)
            })
            .collect();
        let mut all: Vec<R> = first.iter().map(work).collect();
        for other in others {
            match other {
                Ok(thread) => match thread.join() {
                    Ok(results) => all.extend(results),
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                // No more threads can be had.
                Err(pieces) => all.extend(pieces.iter().map(work)),
            }
        }
        all
    })
}

/// Frees `value`, which has some `count` allocations, without making the caller wait for
/// it: a million of them take as long as writing what was in them.
pub(crate) fn drop_later<T: Send + 'static>(count: usize, value: T) {
    if count < FEW {
        return drop(value);
    }
    let run = move || drop(value);
    // Where no thread can be had, the value has gone with the closure.
    if let Err(e) = std::thread::Builder::new().name("free".into()).spawn(run) {
        log::debug!("freed in place: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn results_are_in_the_order_of_the_pieces() {
        for count in [0, 1, 2, 3, 7, 100] {
            let pieces: Vec<u32> = (0..count).collect();
            let doubled: Vec<u32> = pieces.iter().map(|n| n * 2).collect();
            assert_eq!(in_parallel(&pieces, |n| n * 2), doubled);
        }
    }

    #[test]
    fn what_is_dropped_later_is_dropped() {
        struct Tell(std::sync::mpsc::Sender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (dropped, seen) = channel();
        drop_later(FEW - 1, Tell(dropped.clone()));
        assert!(seen.try_recv().is_ok(), "at once");
        drop_later(FEW, Tell(dropped));
        seen.recv().unwrap();
    }
}
