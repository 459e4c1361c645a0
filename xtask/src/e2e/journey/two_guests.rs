//! Two guests, with a daemon each, on one share: what one has locked the other cannot
//! lock, also while one of them crosses.

use std::time::Duration;

use ferry_guest::fixture;

use super::super::wait;
use super::{Journeying, Living};
use crate::fail::{need, Context, Fail, Result};
use crate::progress::step;

/// From an unlock to whoever waits for it, in another guest.
const GRANT: Duration = Duration::from_secs(20);
/// How long they count together.
const TOGETHER: Duration = Duration::from_secs(1);

impl Living {
    fn lock(&mut self, command: &str) -> Result<String> {
        self.vm.agent.call(&format!("lock {command}"))
    }

    /// What comes of `command` must be `want`.
    fn expect(&mut self, who: &str, command: &str, want: &str) -> Result<()> {
        let got = self.lock(command).context(who)?;
        need(got == want, || {
            format!("{who}: {command}: {got} instead of {want}")
        })
    }

    fn granted(&mut self, who: &str) -> Result<()> {
        wait::until(&format!("{who} to get its lock"), GRANT, || {
            match self.lock("waited")?.as_str() {
                "waiting" => Ok(None),
                "ok" => Ok(Some(())),
                other => Err(Fail::new(format!("{who}: {other} instead of a lock"))),
            }
        })
    }
}

impl Journeying<'_> {
    pub(super) fn two_guests(&mut self) -> Result<()> {
        let mut a = self.boot()?;
        let mut b = self.boot()?;
        match self.with_both(&mut a, &mut b) {
            Ok(()) => {
                Self::end(a)?;
                Self::end(b)
            }
            Err(e) => {
                let states = format!("{}\n{}", a.state(), b.state());
                Err(Fail::new(format!("{e}\n{states}")))
            }
        }
    }

    fn part(&mut self, what: &str) {
        step(what);
        self.measured.checks += 1;
    }

    fn with_both(&mut self, a: &mut Living, b: &mut Living) -> Result<()> {
        self.part("locks of two guests");
        for guest in [&mut *a, &mut *b] {
            guest.lock("open")?;
        }
        Self::exclude(a, b)?;
        let mut total = Self::count(a, b, &["fcntl", "flock"])?;

        self.part("one crosses that holds locks");
        self.hop_with(a, Some(&mut || Self::kept_out(b)))?;
        Self::kept_out(b)?;
        // What it waits for is granted when the other lets go, at the destination.
        b.expect("B", "wait 0 10", "")?;
        b.expect("B", "waited", "waiting")?;
        a.expect("A", "fcntl unlock 0 10", "ok")?;
        b.granted("B")?;

        self.part("one crosses that waits for a lock");
        b.expect("B", "fcntl write 40 5", "ok")?;
        a.expect("A", "wait 40 5", "")?;
        a.expect("A", "waited", "waiting")?;
        self.hop(a)?;
        a.expect("A, at the destination", "waited", "waiting")?;
        b.expect("B", "fcntl unlock 40 5", "ok")?;
        a.granted("A")?;

        self.part("the other crosses, while this one works under locks");
        a.lock("count fcntl")?;
        self.hop(b)?;
        total += Self::counted(a)?;
        a.expect("A", "fcntl write 10 1", "EAGAIN")?;
        total += Self::count(a, b, &["flock", "fcntl"])?;

        self.part("a guest that closes lets go of all");
        a.expect("A", "close", "")?;
        b.expect("B", "fcntl write 0 0", "ok")?;
        wait::until("the lock of a file that was closed", GRANT, || {
            Ok((b.lock("flock write")? == "ok").then_some(()))
        })?;
        let path = self.run.share.path().join(fixture::CONTESTED_COUNT);
        let number = std::fs::read_to_string(&path).context(path.display())?;
        need(number == fixture::contested_number(total), || {
            format!(
                "the guests have counted to {}, and added {total}",
                number.trim()
            )
        })?;
        step(format_args!("counted to {total}, and none was lost"));
        a.vm.agent.call("unmount")?;
        b.vm.agent.call("unmount").map(drop)
    }

    /// Each takes what the other does not have, and is told of the rest.
    fn exclude(a: &mut Living, b: &mut Living) -> Result<()> {
        a.expect("A", "fcntl write 0 10", "ok")?;
        a.expect("A", "fcntl read 20 10", "ok")?;
        a.expect("A", "flock write", "ok")?;
        Self::kept_out(b)?;
        b.expect("B", "fcntl write 10 10", "ok")?;
        a.expect("A", "fcntl write 10 1", "EAGAIN")?;
        a.expect("A", "fcntl read 19 1", "EAGAIN")
    }

    /// B gets nothing of what A has, and all else.
    fn kept_out(b: &mut Living) -> Result<()> {
        for (command, want) in [
            ("fcntl write 9 1", "EAGAIN"),
            ("fcntl read 0 1", "EAGAIN"),
            ("fcntl write 0 0", "EAGAIN"),
            ("fcntl write 20 10", "EAGAIN"),
            ("fcntl read 20 10", "ok"),
            ("fcntl unlock 20 10", "ok"),
            ("fcntl write 30 10", "ok"),
            ("fcntl unlock 30 10", "ok"),
            ("flock write", "EAGAIN"),
            ("flock read", "EAGAIN"),
        ] {
            b.expect("B", command, want)?;
        }
        Ok(())
    }

    /// Both add to one number under a lock of each kind in its turn; how much in all.
    fn count(a: &mut Living, b: &mut Living, kinds: &[&str]) -> Result<u64> {
        let mut total = 0;
        for kind in kinds {
            for guest in [&mut *a, &mut *b] {
                guest.lock(&format!("count {kind}"))?;
            }
            std::thread::sleep(TOGETHER);
            let (by_a, by_b) = (Self::counted(a)?, Self::counted(b)?);
            step(format_args!("{kind}: {by_a} and {by_b}"));
            need(by_a > 1 && by_b > 1, || {
                format!("{kind}: one counted {by_a} and the other {by_b}")
            })?;
            total += by_a + by_b;
        }
        Ok(total)
    }

    fn counted(guest: &mut Living) -> Result<u64> {
        let count = guest.lock("counted")?;
        count.parse().context(count)
    }
}
