//! virtiofsd's own states, which have neither magic nor checksum.

use ferryfs_format_virtiofsd::{VirtiofsdV1, VirtiofsdV2};
use ferryfs_state::testing::large;
use ferryfs_state::validate::validate;
use ferryfs_state::{Dialect, Location, State};

use super::limits;
use crate::{mutate, Target};

pub(crate) const TARGET: Target = Target {
    name: "dialect",
    about: "a state of virtiofsd 1.11 to 1.14",
    run,
    seeds,
    mutate: mutate::bytes,
};

fn run(data: &[u8]) {
    let (first, all): (_, [&dyn Dialect; 2]) =
        (&data[..data.len().min(12)], [&VirtiofsdV1, &VirtiofsdV2]);
    for dialect in all {
        if first.is_empty() || !dialect.recognises(first) {
            continue;
        }
        let Ok(state) = dialect.read(&mut &*data, &limits()) else {
            continue;
        };
        if validate(&state, &limits()).is_err() {
            continue;
        }
        // A state that is good may still be beyond the dialect's words.
        let Ok((bytes, _)) = dialect.write(&state) else {
            continue;
        };
        let again = dialect
            .read(&mut &bytes[..], &limits())
            .expect("what was written");
        let kept = |state: &State| -> Vec<_> {
            let handles = state.fs.handles.iter();
            handles.map(|h| (h.id, h.inode, h.directory)).collect()
        };
        assert_eq!(again.fs.inodes.len(), state.fs.inodes.len());
        assert_eq!(kept(&again), kept(&state));
        // What the dialect has no words for is gone the first time. Directories that
        // it needs and the guest does not hold take new ids each time.
        let (bytes, _) = dialect.write(&again).expect("what was written before");
        let twice = dialect
            .read(&mut &bytes[..], &limits())
            .expect("what was written");
        assert_eq!(twice.session, again.session);
        assert_eq!(twice.fs.inodes, again.fs.inodes);
        assert_eq!(twice.fs.handles, again.fs.handles);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<_> = crate::files("formats/virtiofsd/goldens")
        .into_iter()
        .filter(|bytes| matches!(bytes.first(), Some(0 | 1)))
        .collect();
    let mut state = large(20);
    for inode in &mut state.fs.inodes {
        if let Location::Child { name, .. } = &mut inode.location {
            name.truncate(8);
        }
    }
    let dialects: [&dyn Dialect; 2] = [&VirtiofsdV1, &VirtiofsdV2];
    all.extend(
        dialects
            .iter()
            .filter_map(|d| Some(d.write(&state).ok()?.0)),
    );
    all
}
