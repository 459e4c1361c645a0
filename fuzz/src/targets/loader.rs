//! A whole load: read, validate, plan against a real (small) share, take over. What
//! is refused leaves a server that can take another; what is taken can be saved.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use ferryfs_core::passthrough::config::{Config, MigrationMode, MigrationOnError};
use ferryfs_core::passthrough::Passthrough;
use ferryfs_core::server::{CrossingConfig, Server, ServerConfig};
use ferryfs_core::service::{Crossing, Service};
use ferryfs_state::{error_line, read_packed, read_state, Limits, State};
use tempfile::TempDir;

use super::{limits, registry, streams, writer};
use crate::random::Random;
use crate::{mutate, seal, Target};

pub(crate) const TARGET: Target = Target {
    name: "loader",
    about: "a state, of ours or of virtiofsd, loaded on a share",
    run,
    seeds,
    mutate: change,
};

/// A share with what the seeds speak of, and servers of it, one for each policy.
struct Scene {
    share: TempDir,
    servers: [Server<Passthrough>; 2],
}

static SCENE: OnceLock<Scene> = OnceLock::new();

const NAMES: [&str; 3] = ["file", "link", "sub"];

fn scene() -> Scene {
    let share = tempfile::tempdir().expect("a temporary directory");
    let at = |path: &str| share.path().join(path);
    std::fs::create_dir_all(at("sub/x")).expect("a directory");
    std::fs::write(at("file"), "contents").expect("a file");
    std::fs::write(at("sub/x/link"), "not a link").expect("a file");
    std::os::unix::fs::symlink("..", at("link")).expect("a link");
    let server = |on_error, mode| {
        let mut config = Config::new(OwnedFd::from(File::open(share.path()).expect("the share")));
        config.migration_on_error = on_error;
        config.migration_mode = mode;
        let fs = Passthrough::new(config).expect("a file system");
        let crossing = CrossingConfig::new(registry(), "postcard", writer(), limits());
        Server::new(
            fs,
            ServerConfig {
                crossing: Some(crossing.expect("a format that is built in")),
                ..ServerConfig::default()
            },
        )
    };
    Scene {
        servers: [
            server(MigrationOnError::Abort, MigrationMode::FindPaths),
            server(MigrationOnError::GuestError, MigrationMode::FindPaths),
        ],
        share,
    }
}

fn run(data: &[u8]) {
    let Scene { share, servers } = SCENE.get_or_init(scene);
    let state = read_state(&mut &*data, &registry(), &limits());
    // Packed, as servers read it, it is the same, or refused in the same words.
    match (&state, read_packed(&mut &*data, &registry(), &limits())) {
        (Ok((_, state)), Ok((_, packed))) => {
            assert!(State::from(packed) == *state, "another state when packed");
        }
        (Err(e), Err(packed)) => assert_eq!(error_line(&packed), error_line(e)),
        (state, packed) => panic!(
            "taken {}, and {} when packed",
            state.is_ok(),
            packed.is_ok()
        ),
    }
    for server in servers {
        match server.load(&mut &*data) {
            Err(_) => assert_eq!(server.session(), None, "refused, but a session is there"),
            Ok(report) => {
                let (_, state) = state.as_ref().expect("what was loaded can be read");
                assert_eq!(server.session(), state.session);
                assert!(report.faulted <= report.inodes + report.handles);
                let mut saved = Vec::new();
                // Of what was lost on the way, the second server says so again.
                if server.save(&[], &mut saved).is_ok() {
                    read_state(&mut &saved[..], &registry(), &Limits::default())
                        .expect("what was saved can be read");
                }
            }
        }
        server.reset();
    }
    let mut names: Vec<_> = std::fs::read_dir(share.path())
        .expect("the share")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    assert_eq!(names, NAMES, "a load changes nothing on disk");
    let file = std::fs::read(share.path().join("file")).expect("the file");
    assert_eq!(file, b"contents");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all = streams();
    all.extend((super::dialect::TARGET.seeds)());
    all
}

fn change(input: &mut Vec<u8>, random: &mut Random) {
    match input.first() {
        Some(0x89) => seal::stream(input, random),
        _ => mutate::bytes(input, random),
    }
}
