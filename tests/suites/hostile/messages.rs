//! vhost-user messages that make no sense.

use std::os::fd::AsFd;
use std::time::Duration;

use ferryfs_frontend::wire::{self, WireError};
use ferryfs_frontend::{Frontend, VmConfig};
use ferryfs_tests::hostile::messages::{messages, noise, small_file};

use crate::scene::Scene;

#[test]
fn messages_that_make_no_sense() {
    let scene = Scene::new(&[]);
    let connect = || {
        let mut frontend = Frontend::connect(scene.daemon.socket()).expect("connect");
        frontend.connection().set_timeout(Duration::from_secs(10));
        frontend
            .negotiate(VmConfig::default().protocol_features)
            .expect("negotiate");
        frontend
    };
    let small = small_file();
    for nonsense in messages() {
        let what = nonsense.name();
        let mut frontend = connect();
        let fds: Vec<_> = std::iter::repeat_n(small.as_fd(), nonsense.fds).collect();
        // Told so, ignored or hung up on.
        let connection = frontend.connection();
        let told = connection.request_acked(nonsense.code, &nonsense.payload, &fds);
        let stuck = matches!(told, Err(WireError::Timeout { .. }));
        assert!(!stuck, "{what}: no answer, no hang-up");
        drop(frontend);
        scene.serves(&scene.boot());
        let log = scene.daemon.stderr();
        assert!(!log.contains("panic"), "{what}:\n{log}");
    }
    for (what, noise) in noise() {
        let socket = std::os::unix::net::UnixStream::connect(scene.daemon.socket()).expect(what);
        let _ = wire::send_bytes(&socket, &noise, &[]);
        drop(socket);
        scene.serves(&scene.boot());
    }
    scene.ends_well(());
}
