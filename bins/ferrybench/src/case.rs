//! What is measured: a workload, and how it is sent.

use std::str::FromStr;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::BenchError;
use crate::workload::Workload;

/// Operations in flight where nothing else is said.
const DEPTH: usize = 8;
/// Who asks where suites ask as a user.
const USER: u32 = 1000;

/// One thing to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What is done.
    pub workload: Workload,
    /// Operations in flight per queue.
    pub depth: usize,
    /// As whom.
    pub uid: u32,
    /// Request queues, each with a thread of its own.
    pub queues: usize,
    /// Which processors the two sides run on.
    pub place: Place,
}

/// Which processors this program and a daemon run on. With one request at a time, both
/// sides wake each other for each, which costs ten times as much on another processor that
/// has halted as on the same one: where they run is more than half of such a figure, and
/// luck where the scheduler chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Where the scheduler puts them, or --pin and --pin-daemon do
    #[default]
    Free,
    /// On one processor each
    Apart,
    /// Both on one
    Together,
}

impl Place {
    /// Its word in labels; none for [`Place::Free`].
    fn word(self) -> Option<&'static str> {
        match self {
            Place::Free => None,
            Place::Apart => Some("apart"),
            Place::Together => Some("together"),
        }
    }

    /// The processors for this program and for daemons, of those in `cpus`; none where
    /// nothing is to be changed.
    ///
    /// # Errors
    /// [`BenchError::Usage`] if there are too few.
    pub fn choose(self, cpus: &[usize]) -> Result<Option<(usize, usize)>, BenchError> {
        match (self, cpus) {
            (Place::Free, _) => Ok(None),
            (Place::Apart, [own, daemon, ..]) => Ok(Some((*own, *daemon))),
            (Place::Together, [own, ..]) => Ok(Some((*own, *own))),
            _ => Err(BenchError::Usage(
                "two processors are needed for both sides to run apart".into(),
            )),
        }
    }
}

impl Case {
    fn of(workload: Workload) -> Case {
        Case {
            workload,
            depth: DEPTH,
            uid: 0,
            queues: 1,
            place: Place::Free,
        }
    }

    /// In a few words, which `--case` understands.
    pub fn label(&self) -> String {
        let mut label = format!("{} depth {}", self.workload.name(), self.depth);
        if self.uid != 0 {
            label.push_str(&format!(" uid {}", self.uid));
        }
        if self.queues > 1 {
            label.push_str(&format!(" queues {}", self.queues));
        }
        if let Some(word) = self.place.word() {
            label.push_str(&format!(" {word}"));
        }
        label
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let workload = Workload::from_str(name, false)
            .map_err(|_| format!("no workload is called '{name}'; see ferrybench workloads"))?;
        let mut case = Case::of(workload);
        let places = [Place::Apart, Place::Together];
        while let Some(word) = words.next() {
            if let Some(place) = places.into_iter().find(|place| place.word() == Some(word)) {
                case.place = place;
                continue;
            }
            let number: u32 = words
                .next()
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| format!("'{word}' wants a number behind it"))?;
            match (word, number) {
                ("depth", 1..=256) => case.depth = number as usize,
                ("queues", 1..=63) => case.queues = number as usize,
                ("uid", _) => case.uid = number,
                ("depth", _) => return Err("a depth is 1 to 256".into()),
                ("queues", _) => return Err("1 to 63 queues are possible".into()),
                _ => {
                    return Err(format!(
                        "'{word}' is none of depth, uid, queues, apart, together"
                    ))
                }
            }
        }
        Ok(case)
    }
}

/// A choice of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// A dozen cases that tell most
    Quick,
    /// Everything once: all workloads, file data at depths 1, 8 and 32, as root and as a
    /// user, one queue and several; at depth 1 both sides on one processor each, and both on one
    Full,
}

impl Suite {
    /// Its cases, in the order of reports.
    pub fn cases(self) -> Vec<Case> {
        use Workload::{
            Create, Getattr, Lookup, LookupNew, Mkdir, Open, Read128k, Read1m, Read4k, Readdirplus,
            SmallFiles, Write128k, Write1m, Write4k,
        };
        let at = |workload, depth| Case {
            depth,
            ..Case::of(workload)
        };
        let user = |workload| Case {
            uid: USER,
            ..Case::of(workload)
        };
        let queues = |workload, queues| Case {
            queues,
            ..Case::of(workload)
        };
        // One by one, where both run is not left to luck.
        let single = |workload| {
            [Place::Apart, Place::Together].map(|place| Case {
                place,
                ..at(workload, 1)
            })
        };
        let data = [Read4k, Read128k, Read1m, Write4k, Write128k, Write1m];
        let mut cases: Vec<Case> = Vec::new();
        match self {
            Suite::Quick => {
                let most = [
                    Getattr,
                    Lookup,
                    LookupNew,
                    Open,
                    Readdirplus,
                    Create,
                    SmallFiles,
                    Read4k,
                    Read1m,
                    Write4k,
                    Write1m,
                ];
                cases.extend(most.map(Case::of));
                cases.extend(single(Getattr));
                cases.push(user(Create));
                cases.push(queues(Read4k, 2));
            }
            Suite::Full => {
                let all = Workload::value_variants().iter().copied();
                cases.extend(all.filter(|one| !data.contains(one)).map(Case::of));
                let one_by_one = [Getattr, Lookup, Open, Create, SmallFiles];
                cases.extend(one_by_one.into_iter().flat_map(single));
                for workload in data {
                    cases.extend(single(workload));
                    cases.extend([8, 32].map(|depth| at(workload, depth)));
                }
                let as_user = [Open, Create, Mkdir, SmallFiles, Read4k, Write4k];
                cases.extend(as_user.map(user));
                cases.extend([Getattr, SmallFiles, Read4k, Write4k].map(|one| queues(one, 2)));
            }
        }
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_understood_again() {
        for case in Suite::Full.cases().into_iter().chain(Suite::Quick.cases()) {
            assert_eq!(case.label().parse(), Ok(case), "{}", case.label());
        }
        assert_eq!("open".parse(), Ok(Case::of(Workload::Open)));
        for (text, why) in [
            ("", "no workload"),
            ("opened", "no workload"),
            ("open depth", "wants a number"),
            ("open depth x", "wants a number"),
            ("open depth 0", "1 to 256"),
            ("open queues 64", "1 to 63"),
            ("open width 2", "none of"),
            ("open apart 2", "wants a number"),
        ] {
            let error = text.parse::<Case>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn both_sides_get_their_processors() {
        let of = |place: Place, cpus: &[usize]| place.choose(cpus).ok();
        assert_eq!(of(Place::Free, &[3]), Some(None));
        assert_eq!(of(Place::Apart, &[3, 5, 7]), Some(Some((3, 5))));
        assert_eq!(of(Place::Together, &[3, 5]), Some(Some((3, 3))));
        assert_eq!(of(Place::Together, &[3]), Some(Some((3, 3))));
        assert_eq!(of(Place::Apart, &[3]), None);
    }

    #[test]
    fn the_full_suite_has_everything_once() {
        let cases = Suite::Full.cases();
        for workload in Workload::value_variants() {
            let name = workload.name();
            assert!(
                cases.iter().any(|case| case.workload == *workload),
                "{name}"
            );
        }
        for (n, case) in cases.iter().enumerate() {
            assert!(!cases[..n].contains(case), "{} twice", case.label());
        }
        let depths = |workload| {
            let own = cases.iter().filter(move |case| case.workload == workload);
            let plain = own.filter(|case| (case.uid, case.queues) == (0, 1));
            plain.map(|case| case.depth).collect::<Vec<_>>()
        };
        for workload in [Workload::Read4k, Workload::Write128k, Workload::Read1m] {
            assert_eq!(depths(workload), [1, 1, 8, 32]);
        }
        for case in &cases {
            assert_eq!(
                case.place == Place::Free,
                case.depth > 1,
                "{}",
                case.label()
            );
        }
        assert!(cases.iter().any(|case| case.uid != 0));
        assert!(cases.iter().any(|case| case.queues > 1));
    }
}
