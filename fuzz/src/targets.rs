//! The targets.

pub(crate) mod dialect;
pub(crate) mod dispatcher;
pub(crate) mod envelope;
pub(crate) mod format;
pub(crate) mod loader;
pub(crate) mod xattrmap;

use ferryfs_format_msgpack::MsgPack;
use ferryfs_format_postcard::Postcard;
use ferryfs_format_virtiofsd::{VirtiofsdV1, VirtiofsdV2};
use ferryfs_format_zstd::Zstd;
use ferryfs_state::testing::{large, sample};
use ferryfs_state::{write_state, Limits, Registry, WriterInfo};

/// Everything that a stock daemon reads.
fn registry() -> Registry {
    Registry::new()
        .with(Postcard)
        .with(MsgPack)
        .with(Zstd::new(Postcard))
        .with(Zstd::new(MsgPack))
        .with_dialect(VirtiofsdV1)
        .with_dialect(VirtiofsdV2)
}

fn writer() -> WriterInfo {
    WriterInfo::new("fuzz", "0")
}

/// Small enough that no input takes long, or more memory than a machine has.
fn limits() -> Limits {
    Limits {
        frame_bytes: 4 << 20,
        memory_bytes: 256 << 20,
        ghosts: 64,
        ghost_bytes: 4 << 20,
        ..Limits::default()
    }
}

/// Streams of all released versions and formats, and some written now.
fn streams() -> Vec<Vec<u8>> {
    let mut all: Vec<_> = crate::files("crates/state/goldens")
        .into_iter()
        .filter(|bytes| bytes.starts_with(b"\x89FERRY"))
        .collect();
    let registry = registry();
    for name in ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"] {
        for state in [sample(), large(50)] {
            let mut bytes = Vec::new();
            let written = registry
                .get(name)
                .and_then(|format| write_state(&state, format.as_ref(), &writer(), &mut bytes));
            if written.is_ok() {
                all.push(bytes);
            }
        }
    }
    all
}
