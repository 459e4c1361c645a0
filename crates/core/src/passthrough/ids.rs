//! User and group ids that are others on the host (`--translate-uid`,
//! `--translate-gid`).
//!
//! A table has one list of ranges for each direction, and in each direction an id
//! that no range has stays as it is. No two ranges of a direction overlap, so that
//! their order does not matter, and no range reaches `u32::MAX`, which means "no
//! id" to the kernel.

use std::str::FromStr;

use crate::errno::{Errno, FsResult};

/// A user or group id as the guest has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestId(pub u32);

/// A user or group id as the host has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostId(pub u32);

/// `TYPE:...`, as the command line has it: one translation of a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// `guest:FROM:TO:COUNT`: guest ids become host ids, one by one.
    Guest(Range),
    /// `host:FROM:TO:COUNT`: host ids become guest ids, one by one.
    Host(Range),
    /// `squash-guest:FROM:TO:COUNT`: guest ids all become the host id TO.
    SquashGuest(Range),
    /// `squash-host:FROM:TO:COUNT`: host ids all become the guest id TO.
    SquashHost(Range),
    /// `forbid-guest:FROM:COUNT`: what needs a guest id of these fails with
    /// `EACCES`.
    ForbidGuest(Range),
    /// `map:GUEST:HOST:COUNT`: `guest` and `host` at once.
    Map(Range),
}

/// Consecutive ids, and where they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    from: u32,
    to: u32,
    count: u32,
}

/// Why translations make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslationError {
    /// Not one of the kinds.
    #[error(
        "{0:?} is no kind of translation; use guest, host, squash-guest, squash-host, forbid-guest \
         or map"
    )]
    Kind(String),
    /// The wrong number of fields.
    #[error("{kind} takes {wanted}, each behind a colon")]
    Fields {
        /// The kind.
        kind: &'static str,
        /// What it takes.
        wanted: &'static str,
    },
    /// Not a number.
    #[error("{0:?} is no number from 0 to 4294967295")]
    Number(String),
    /// A range with nothing in it.
    #[error("a range has at least one id")]
    Empty,
    /// A range that goes beyond the highest id.
    #[error("{count} ids from {from} on go beyond 4294967294, the highest one")]
    Beyond {
        /// The first.
        from: u32,
        /// How many.
        count: u32,
    },
    /// An id that would become two others.
    #[error("{side} id {id} is translated twice")]
    Twice {
        /// `guest` or `host`.
        side: &'static str,
        /// The first such id.
        id: u32,
    },
}

/// Checks that `count` ids from `from` on are ids.
fn check_span(from: u32, count: u32) -> Result<(), TranslationError> {
    if count == 0 {
        return Err(TranslationError::Empty);
    }
    match from.checked_add(count) {
        Some(_) => Ok(()),
        None => Err(TranslationError::Beyond { from, count }),
    }
}

impl FromStr for Translation {
    type Err = TranslationError;

    fn from_str(text: &str) -> Result<Translation, TranslationError> {
        let (kind, numbers) = text.split_once(':').unwrap_or((text, ""));
        let (kind, make): (&'static str, fn(Range) -> Translation) = match kind {
            "guest" => ("guest", Translation::Guest),
            "host" => ("host", Translation::Host),
            "squash-guest" => ("squash-guest", Translation::SquashGuest),
            "squash-host" => ("squash-host", Translation::SquashHost),
            "forbid-guest" => ("forbid-guest", Translation::ForbidGuest),
            "map" => ("map", Translation::Map),
            other => return Err(TranslationError::Kind(other.to_owned())),
        };
        let forbids = kind == "forbid-guest";
        let numbers: Vec<&str> = numbers.split(':').collect();
        if numbers.len() != if forbids { 2 } else { 3 } {
            return Err(TranslationError::Fields {
                kind,
                wanted: match forbids {
                    true => "two numbers, the first id and how many",
                    false => "three numbers, the first id, what it becomes, and how many",
                },
            });
        }
        let numbers = numbers
            .into_iter()
            .map(|n| {
                n.parse()
                    .map_err(|_| TranslationError::Number(n.to_owned()))
            })
            .collect::<Result<Vec<u32>, _>>()?;
        let range = match numbers[..] {
            [from, to, count] => Range { from, to, count },
            // Those of `forbid-guest`.
            _ => Range {
                from: numbers[0],
                to: 0,
                count: numbers[1],
            },
        };
        check_span(range.from, range.count)?;
        // What squashing leads to is one id.
        let targets = match kind {
            "squash-guest" | "squash-host" => 1,
            "forbid-guest" => 0,
            _ => range.count,
        };
        if targets > 0 {
            check_span(range.to, targets)?;
        }
        Ok(make(range))
    }
}

/// What becomes of the ids of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    /// `n` places from the range's beginning becomes this id and `n`.
    From(u32),
    /// This id.
    One(u32),
    /// It is refused.
    Nothing,
}

/// One direction: disjoint ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Direction(Vec<(u32, u32, Becomes)>);

impl Direction {
    fn add(&mut self, range: Range, becomes: Becomes) {
        self.0.push((range.from, range.count, becomes));
    }

    fn check(&mut self, side: &'static str) -> Result<(), TranslationError> {
        self.0.sort_unstable_by_key(|(from, ..)| *from);
        for pair in self.0.windows(2) {
            let ((first, count, _), (second, ..)) = (pair[0], pair[1]);
            if second - first < count {
                return Err(TranslationError::Twice { side, id: second });
            }
        }
        Ok(())
    }

    /// `None`: refused.
    fn translate(&self, id: u32) -> Option<u32> {
        let behind = self.0.partition_point(|(from, ..)| *from <= id);
        let Some(&(from, count, becomes)) = behind.checked_sub(1).and_then(|i| self.0.get(i))
        else {
            return Some(id);
        };
        if id - from >= count {
            return Some(id);
        }
        match becomes {
            // Checked to be within bounds.
            Becomes::From(to) => Some(to + (id - from)),
            Becomes::One(to) => Some(to),
            Becomes::Nothing => None,
        }
    }
}

/// The translation of user ids, or of group ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdTable {
    to_host: Direction,
    to_guest: Direction,
}

impl IdTable {
    /// The table of all `translations`.
    ///
    /// # Errors
    /// [`TranslationError::Twice`].
    pub fn new(translations: &[Translation]) -> Result<IdTable, TranslationError> {
        let mut table = IdTable::default();
        for translation in translations {
            let (to_host, to_guest) = (&mut table.to_host, &mut table.to_guest);
            match *translation {
                Translation::Guest(r) => to_host.add(r, Becomes::From(r.to)),
                Translation::Host(r) => to_guest.add(r, Becomes::From(r.to)),
                Translation::SquashGuest(r) => to_host.add(r, Becomes::One(r.to)),
                Translation::SquashHost(r) => to_guest.add(r, Becomes::One(r.to)),
                Translation::ForbidGuest(r) => to_host.add(r, Becomes::Nothing),
                Translation::Map(r) => {
                    to_host.add(r, Becomes::From(r.to));
                    let back = Range {
                        from: r.to,
                        to: r.from,
                        ..r
                    };
                    to_guest.add(back, Becomes::From(back.to));
                }
            }
        }
        table.to_host.check("guest")?;
        table.to_guest.check("host")?;
        Ok(table)
    }

    /// Whether every id stays as it is.
    pub fn is_empty(&self) -> bool {
        self.to_host.0.is_empty() && self.to_guest.0.is_empty()
    }

    /// What an id of the guest's is on the host.
    ///
    /// # Errors
    /// `EACCES` for one that is forbidden.
    pub fn to_host(&self, id: GuestId) -> FsResult<HostId> {
        self.to_host
            .translate(id.0)
            .map(HostId)
            .ok_or(Errno::EACCES)
    }

    /// What an id of the host's is in the guest.
    pub fn to_guest(&self, id: HostId) -> GuestId {
        // Nothing is forbidden in this direction.
        GuestId(self.to_guest.translate(id.0).unwrap_or(id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(translations: &[&str]) -> Result<IdTable, TranslationError> {
        let all: Vec<Translation> = translations.iter().map(|t| t.parse().unwrap()).collect();
        IdTable::new(&all)
    }

    #[test]
    fn each_kind_does_what_it_says() {
        let t = table(&[
            "guest:10:1010:5",
            "host:10:2010:5",
            "squash-guest:100:7:50",
            "squash-host:100:8:50",
            "forbid-guest:200:2",
            "map:300:3000:10",
        ])
        .unwrap();
        let to_host = |id| t.to_host(GuestId(id)).map(|id| id.0);
        let to_guest = |id| t.to_guest(HostId(id)).0;
        for (guest, host) in [
            (9, 9),
            (10, 1010),
            (14, 1014),
            (15, 15),
            (99, 99),
            (100, 7),
            (149, 7),
            (150, 150),
            (199, 199),
            (202, 202),
            (300, 3000),
            (309, 3009),
            (310, 310),
            (0, 0),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(to_host(guest), Ok(host), "guest id {guest}");
        }
        assert_eq!(to_host(200), Err(Errno::EACCES));
        assert_eq!(to_host(201), Err(Errno::EACCES));
        for (host, guest) in [
            (10, 2010),
            (14, 2014),
            (15, 15),
            (100, 8),
            (149, 8),
            (150, 150),
            (200, 200),
            (3000, 300),
            (3009, 309),
            (3010, 3010),
            (1010, 1010),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(to_guest(host), guest, "host id {host}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, want) in [
            ("", "no kind"),
            ("guests:1:2:3", "\"guests\" is no kind"),
            ("guest", "three numbers"),
            ("guest:1:2", "three numbers"),
            ("guest:1:2:3:4", "three numbers"),
            ("forbid-guest:1:2:3", "two numbers"),
            ("map:1:2:x", "\"x\" is no number"),
            ("map:-1:2:3", "\"-1\" is no number"),
            ("map:4294967296:2:3", "no number"),
            ("map:1:2:0", "at least one"),
            ("forbid-guest:4294967295:10", "go beyond"),
            ("forbid-guest:4294967295:1", "go beyond"),
            ("guest:0:4294967290:100", "go beyond"),
            ("host:4294967290:0:6", "go beyond"),
            ("squash-host:0:4294967295:1", "go beyond"),
        ] {
            let error = text.parse::<Translation>().unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
        "guest:4294967290:0:5".parse::<Translation>().unwrap();
        "squash-guest:0:4294967294:4294967295"
            .parse::<Translation>()
            .unwrap();
        for (pair, side, id) in [
            (["guest:0:100:10", "squash-guest:9:5:1"], "guest", 9),
            (["map:0:100:10", "forbid-guest:0:1"], "guest", 0),
            (["map:0:100:10", "host:105:3:1"], "host", 105),
            (["map:50:100:10", "map:0:109:1"], "host", 109),
        ] {
            assert_eq!(
                table(&pair).unwrap_err(),
                TranslationError::Twice { side, id }
            );
        }
        // From different sides there is nothing to overlap.
        table(&["guest:0:100:10", "host:0:50:10"]).unwrap();
    }

    proptest! {
        #[test]
        fn any_ids_go_through_any_table_that_is_accepted(
            kinds in proptest::collection::vec(
                (0..6usize, any::<u32>(), any::<u32>(), any::<u32>()), 0..6),
            near in any::<u32>(),
        ) {
            let names = ["guest", "host", "squash-guest", "squash-host", "forbid-guest", "map"];
            let mut all = Vec::new();
            for (kind, from, to, count) in kinds {
                let text = match names[kind] {
                    "forbid-guest" => format!("forbid-guest:{from}:{count}"),
                    kind => format!("{kind}:{from}:{to}:{count}"),
                };
                if let Ok(translation) = text.parse() {
                    all.push(translation);
                    if IdTable::new(&all).is_err() {
                        all.pop();
                    }
                }
            }
            let table = IdTable::new(&all).unwrap();
            for id in [0, 1, near, u32::MAX - 1, u32::MAX] {
                let _ = table.to_host(GuestId(id));
                let _ = table.to_guest(HostId(id));
            }
            prop_assert_eq!(table.to_host(GuestId(u32::MAX)), Ok(HostId(u32::MAX)));
        }

        #[test]
        fn a_map_leads_there_and_back(from in 0..1000u32, to in 0..1000u32, count in 1..500u32) {
            let table = table(&[&format!("map:{from}:{to}:{count}")]).unwrap();
            for id in from..from + count {
                prop_assert_eq!(table.to_guest(table.to_host(GuestId(id)).unwrap()), GuestId(id));
            }
        }
    }
}
