//! Fuzz targets: everything that reads what a guest, a front-end or another daemon
//! wrote. Each is a plain function of bytes that panics where something is wrong, so
//! that libFuzzer (`fuzz_targets/`) and the bounded run on stable Rust (`cargo xtask
//! fuzz`) call the same.

pub mod mutate;
pub mod random;
pub mod seal;
mod targets;

use std::path::{Path, PathBuf};

use random::Random;

/// A function of bytes, and what is known about the bytes it likes.
#[derive(Clone, Copy)]
pub struct Target {
    /// On the command line, and of the directory of its own corpus.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Takes any bytes; panics where something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Changes an input with its structure in mind.
    pub mutate: fn(&mut Vec<u8>, &mut Random),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    targets::envelope::TARGET,
    targets::format::TARGET,
    targets::loader::TARGET,
    targets::dialect::TARGET,
    targets::dispatcher::TARGET,
    targets::xattrmap::TARGET,
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// This crate's directory.
fn home() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Contents of all files below a directory of the project, by name; nothing where
/// there is none.
fn files(below: &str) -> Vec<Vec<u8>> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(&home().join("..").join(below), &mut found);
    found.sort();
    found
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

impl Target {
    /// Inputs that once failed, and must not again.
    pub fn regressions(&self) -> Vec<Vec<u8>> {
        files(&format!("fuzz/regressions/{}", self.name))
    }

    /// What mutation begins with.
    pub fn corpus(&self) -> Vec<Vec<u8>> {
        let mut corpus = (self.seeds)();
        corpus.extend(self.regressions());
        corpus.push(Vec::new());
        corpus
    }

    /// Input number `n` of the series that `seed` begins: always the same one.
    pub fn input(&self, corpus: &[Vec<u8>], seed: u64, n: u64) -> Vec<u8> {
        // What is known comes first, as it is.
        if let Some(known) = usize::try_from(n).ok().and_then(|n| corpus.get(n)) {
            return known.clone();
        }
        let mut random = Random::new(seed, n);
        let mut input = random.pick(corpus).cloned().unwrap_or_default();
        for _ in 0..1 + random.below(4) {
            match random.below(8) {
                0 => {
                    let other = random.pick(corpus).cloned().unwrap_or_default();
                    mutate::splice(&mut input, &other, &mut random);
                }
                1 => mutate::bytes(&mut input, &mut random),
                _ => (self.mutate)(&mut input, &mut random),
            }
        }
        input
    }
}

/// Puts a target into libFuzzer's hands, with its own mutations after libFuzzer's.
#[cfg(feature = "libfuzzer")]
#[macro_export]
macro_rules! libfuzzer_target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            ($crate::target($name).expect("a target's name").run)(data);
        });

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let target = $crate::target($name).expect("a target's name");
            if seed % 2 == 0 {
                let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
                $crate::seal::in_place(&mut data[..size]);
                return size;
            }
            let mut input = data[..size].to_vec();
            let mut random = $crate::random::Random::new(seed.into(), 0);
            (target.mutate)(&mut input, &mut random);
            input.truncate(max_size);
            data[..input.len()].copy_from_slice(&input);
            input.len()
        });
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_corpus_and_the_first_mutations() {
        for target in TARGETS {
            let corpus = target.corpus();
            assert!(corpus.len() > 3, "{} has no seeds", target.name);
            for n in 0..corpus.len() as u64 + 300 {
                let input = target.input(&corpus, 1, n);
                assert_eq!(input, target.input(&corpus, 1, n), "{} {n}", target.name);
                (target.run)(&input);
            }
        }
    }

    #[test]
    fn every_target_has_an_entry_for_libfuzzer() {
        let manifest = std::fs::read_to_string(home().join("Cargo.toml")).unwrap();
        for target in TARGETS {
            let path = format!("fuzz_targets/{}.rs", target.name);
            let entry = std::fs::read_to_string(home().join(&path)).unwrap();
            assert!(entry.contains(&format!("(\"{}\")", target.name)), "{path}");
            assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        }
    }
}
