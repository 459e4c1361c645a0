//! The cases.

mod acls;
mod data;
mod directories;
mod ioctls;
mod locks;
mod mapping;
mod names;
mod nodes;
mod opens;
mod owners;
mod random;
mod times;
mod unlinked;
mod xattrs;

use crate::world::{Case, World};

type Plain = (&'static str, fn(&mut World));

/// Random journeys, each from its own seed.
const JOURNEYS: u64 = 24;
const JOURNEYS_IN_A_HURRY: u64 = 6;

/// Every case with its name. `quick`: fewer of the long ones.
pub fn all(quick: bool) -> Vec<(String, Case)> {
    let plain: [&[Plain]; 13] = [
        acls::ALL,
        data::ALL,
        directories::ALL,
        ioctls::ALL,
        locks::ALL,
        mapping::ALL,
        names::ALL,
        nodes::ALL,
        opens::ALL,
        owners::ALL,
        times::ALL,
        unlinked::ALL,
        xattrs::ALL,
    ];
    let mut all: Vec<(String, Case)> = plain
        .into_iter()
        .flatten()
        .map(|(name, case)| ((*name).to_owned(), Box::new(case) as Case))
        .collect();
    let journeys = if quick { JOURNEYS_IN_A_HURRY } else { JOURNEYS };
    for seed in 1..=journeys {
        let case = move |w: &mut World| random::journey(w, seed);
        all.push((format!("journey-{seed:02}"), Box::new(case)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_outcomes_are_the_same_each_time() {
        let names: Vec<_> = all(false).into_iter().map(|(name, _)| name).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len());
        assert!(all(true).len() < names.len());
        // A suite that says something else each time compares nothing.
        let dir = std::env::temp_dir().join(format!("ferry-posix-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let run = |turn: &str| {
            let dir = dir.join(turn);
            std::fs::create_dir(&dir).unwrap();
            let journey = |w: &mut World| random::journey(w, 7);
            World::new(&dir, "journey").unwrap().run(Box::new(journey))
        };
        let (one, two) = (run("one"), run("two"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(one.lines().count() > 100, "{one}");
        assert_eq!(one, two);
    }
}
