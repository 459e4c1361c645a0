//! Random guests, random neighbours on the host, and crossings at random points, against
//! a model of what the guest must see.
//!
//! The model is a file system of a few objects. What the guest does is done to both, and
//! must have the same outcome; what others do on the host is done to the host and told to
//! the model. After each crossing everything that the guest holds is compared: an object
//! that is another one, or lacks anything, is a failure. Each file says in its contents
//! which one it is.
//!
//! `FERRYFS_MODEL_CASES` is the number of cases for each way of running a daemon, and
//! `FERRYFS_MODEL_SEED` chooses other ones: they are the same in each run otherwise, so
//! that a change is judged by what it does and not by its luck.

mod reference;
mod run;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{
    Config as Cases, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use super::super::super::config::{InodeFileHandles, MigrationMode};
use run::Machine;

/// Cases for each way, unless the environment says otherwise.
const CASES: u32 = 500;

/// What happens in a guest's life. What it is done to is chosen from what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Guest(Deed),
    Host(Prank),
    /// To another daemon: with what happens beside precopy, what others do behind the
    /// guest's back once it is stopped, and in blocks of how many ids inodes are encoded
    /// while the guest goes on, if at all.
    Cross(Vec<Step>, Vec<Prank>, Option<u32>),
    /// Nearly.
    Cancel(Vec<Step>),
}

/// What the guest does.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Lookup(Index, Index),
    Create(Index, Index),
    Mkdir(Index, Index),
    Symlink(Index, Index),
    Tmpfile(Index, bool),
    Open(Index),
    Read(Index),
    Write(Index, u16, u8),
    Truncate(Index, u16),
    Unlink(Index, Index),
    Rename(Index, Index, Index, Index),
    Exchange(Index, Index, Index, Index),
    Link(Index, Index, Index),
    Release(Index),
    Forget(Index),
}

/// What others do on the host, to anything that there is.
#[derive(Clone, Debug)]
pub(super) enum Prank {
    /// Also into another directory.
    Rename(Index, Index, Index),
    /// Another file takes the name.
    Replace(Index),
    /// With everything below.
    Remove(Index),
    Create(Index, Index),
    Mkdir(Index, Index),
    Write(Index, u8),
}

fn index() -> impl Strategy<Value = Index> {
    any::<Index>()
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (index(), index()).prop_map(|(d, n)| Deed::Lookup(d, n)),
        4 => (index(), index()).prop_map(|(d, n)| Deed::Create(d, n)),
        3 => (index(), index()).prop_map(|(d, n)| Deed::Mkdir(d, n)),
        1 => (index(), index()).prop_map(|(d, n)| Deed::Symlink(d, n)),
        1 => (index(), any::<bool>()).prop_map(|(d, b)| Deed::Tmpfile(d, b)),
        3 => index().prop_map(Deed::Open),
        1 => index().prop_map(Deed::Read),
        3 => (index(), any::<u16>(), any::<u8>()).prop_map(|(h, at, b)| Deed::Write(h, at, b)),
        1 => (index(), any::<u16>()).prop_map(|(n, size)| Deed::Truncate(n, size)),
        4 => (index(), index()).prop_map(|(d, n)| Deed::Unlink(d, n)),
        4 => (index(), index(), index(), index())
            .prop_map(|(a, b, c, d)| Deed::Rename(a, b, c, d)),
        1 => (index(), index(), index(), index())
            .prop_map(|(a, b, c, d)| Deed::Exchange(a, b, c, d)),
        2 => (index(), index(), index()).prop_map(|(n, d, m)| Deed::Link(n, d, m)),
        1 => index().prop_map(Deed::Release),
        1 => index().prop_map(Deed::Forget),
    ]
}

fn prank() -> impl Strategy<Value = Prank> {
    prop_oneof![
        4 => (index(), index(), index()).prop_map(|(o, d, n)| Prank::Rename(o, d, n)),
        2 => index().prop_map(Prank::Replace),
        2 => index().prop_map(Prank::Remove),
        1 => (index(), index()).prop_map(|(d, n)| Prank::Create(d, n)),
        1 => (index(), index()).prop_map(|(d, n)| Prank::Mkdir(d, n)),
        1 => (index(), any::<u8>()).prop_map(|(o, b)| Prank::Write(o, b)),
    ]
}

fn beside() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => deed().prop_map(Step::Guest),
        1 => prank().prop_map(Step::Host),
    ];
    vec(step, 0..6)
}

/// The smaller the blocks, the less is encoded again for the sake of a neighbour.
fn blocks() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![
        1 => Just(None),
        2 => prop_oneof![Just(0), Just(2), Just(12)].prop_map(Some),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => deed().prop_map(Step::Guest),
        3 => prank().prop_map(Step::Host),
        2 => (beside(), vec(prank(), 0..2), blocks())
            .prop_map(|(b, p, a)| Step::Cross(b, p, a)),
        1 => beside().prop_map(Step::Cancel),
    ]
}

/// How a daemon is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) mode: MigrationMode,
    pub(super) held: InodeFileHandles,
}

/// What the environment says, if anything.
fn said(variable: &str) -> Option<u32> {
    let said = std::env::var(variable).ok()?;
    Some(
        said.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number")),
    )
}

/// Lives as many lives as there are cases; the shortest that fails is shown.
fn live(way: Way) {
    let config = Cases {
        cases: said("FERRYFS_MODEL_CASES").unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Cases::default()
    };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&said("FERRYFS_MODEL_SEED").unwrap_or(0).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&vec(step(), 1..50), |steps| {
        let mut machine = Machine::new(way);
        machine.live(&steps).map_err(TestCaseError::fail)?;
        machine.end().map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        // The story is easier to read than the steps.
        Err(TestError::Fail(why, steps)) => panic!("{way:?}, {} steps: {why}", steps.len()),
        Err(e) => panic!("{way:?}: {e}"),
    }
}

#[test]
fn lives_by_path_with_a_descriptor_for_each_inode() {
    live(Way {
        mode: MigrationMode::FindPaths,
        held: InodeFileHandles::Never,
    });
}

#[test]
fn lives_by_path_with_a_handle_for_each_inode() {
    live(Way {
        mode: MigrationMode::FindPaths,
        held: InodeFileHandles::Prefer,
    });
}

#[test]
fn lives_by_file_handle() {
    live(Way {
        mode: MigrationMode::FileHandles,
        held: InodeFileHandles::Prefer,
    });
}

#[test]
fn lives_by_file_handle_with_a_descriptor_for_each_inode() {
    live(Way {
        mode: MigrationMode::FileHandles,
        held: InodeFileHandles::Never,
    });
}

/// In a thread without the capabilities by which file handles are opened and permissions
/// passed over.
#[test]
fn lives_without_privileges() {
    let unprivileged = std::thread::spawn(|| {
        run::drop_privileges();
        live(Way {
            mode: MigrationMode::FindPaths,
            held: InodeFileHandles::Prefer,
        });
    });
    if let Err(panic) = unprivileged.join() {
        std::panic::resume_unwind(panic);
    }
}
