//! Waiting with an end: nothing here may hang.

use std::time::{Duration, Instant};

use crate::fail::{Fail, Result};
use crate::progress;

const STEP: Duration = Duration::from_millis(20);
/// A wait that has taken so long is announced.
const SILENCE: Duration = Duration::from_secs(2);

/// Asks `done` until it answers something.
///
/// # Errors
/// `done` fails, or `limit` is over.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut announced = false;
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(Fail::new(format!(
                "waited {} s for {what} in vain",
                limit.as_secs()
            )));
        }
        if !announced && start.elapsed() > SILENCE {
            announced = true;
            progress::step(format_args!("waiting for {what}"));
        }
        std::thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_an_error_that_names_the_wait() {
        let e = until::<()>("Godot", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(e.to_string().contains("for Godot"), "{e}");
        let mut left = 3;
        let value = until("three", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        });
        assert_eq!(value.unwrap(), "there");
    }
}
