//! Device-state transfer against a back-end that misbehaves in a chosen way.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use ferryfs_frontend::frontend::{feature, protocol, Frontend};
use ferryfs_frontend::state::{Direction, StateError};
use ferryfs_frontend::wire::{request, Connection, REPLY, VERSION};

/// Answers negotiation, then SET_DEVICE_STATE_FD with what `on_fd` returns and
/// CHECK_DEVICE_STATE with `check`, until the front-end hangs up.
fn back_end(
    check: u64,
    mut on_fd: impl FnMut(OwnedFd) -> (u64, Option<OwnedFd>) + Send + 'static,
) -> (Frontend, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    let thread = std::thread::spawn(move || {
        let mut connection = Connection::new(theirs);
        while let Ok(mut message) = connection.recv(0) {
            let (value, fd) = match message.code {
                request::GET_FEATURES => (feature::PROTOCOL_FEATURES, None),
                request::GET_PROTOCOL_FEATURES => (protocol::DEVICE_STATE, None),
                request::SET_DEVICE_STATE_FD => on_fd(message.fds.pop().expect("descriptor")),
                request::CHECK_DEVICE_STATE => (check, None),
                _ => continue,
            };
            let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
            let reply = value.to_ne_bytes();
            connection
                .send(message.code, VERSION | REPLY, &reply, &fds)
                .expect("reply");
        }
    });
    let mut frontend = Frontend::from_stream(ours);
    frontend.connection().set_timeout(Duration::from_secs(5));
    frontend.negotiate(u64::MAX).expect("negotiate");
    (frontend, thread)
}

fn writer(fd: OwnedFd, bytes: usize) {
    std::thread::spawn(move || {
        let mut file = std::fs::File::from(fd);
        file.write_all(&vec![9; bytes]).expect("write");
    });
}

#[test]
fn state_of_any_size_comes_whole() {
    for size in [0, 1, 65_536, (3 << 20) + 1] {
        let (mut frontend, thread) = back_end(0, move |fd| {
            writer(fd, size);
            (0x100, None)
        });
        let mut state = Vec::new();
        assert_eq!(frontend.save_state(&mut state).expect("save"), size);
        assert!(state.len() == size && state.iter().all(|b| *b == 9));
        drop(frontend);
        thread.join().expect("back-end");
    }
}

#[test]
fn a_channel_of_the_back_ends_own_is_used() {
    let (mut frontend, _thread) = back_end(0, |_ours| {
        let (r, w) = rustix::pipe::pipe().expect("pipe");
        writer(w, 1000);
        (0, Some(r))
    });
    let mut state = Vec::new();
    assert_eq!(frontend.save_state(&mut state).expect("save"), 1000);
}

#[test]
fn what_is_loaded_arrives() {
    let (sender, received) = std::sync::mpsc::channel();
    let (mut frontend, _thread) = back_end(0, move |fd| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::fs::File::from(fd)
                .read_to_end(&mut bytes)
                .expect("read");
            sender.send(bytes).expect("send");
        });
        (0x100, None)
    });
    let state = vec![5; 2_000_000];
    assert_eq!(
        frontend.load_state(&mut state.as_slice()).expect("load"),
        state.len()
    );
    assert!(received.recv().expect("received") == state);
}

#[test]
fn refusals_and_failures_say_what_came_back() {
    let (mut frontend, _thread) = back_end(0, |_| (0x101, None));
    let error = frontend.save_state(&mut Vec::new()).expect_err("refused");
    assert!(matches!(
        error,
        StateError::Refused {
            direction: Direction::Save,
            value: 0x101
        }
    ));
    assert_eq!(
        error.to_string(),
        "the back-end refused to Save its state: SET_DEVICE_STATE_FD answered 0x101"
    );

    // The back-end closes the pipe after nothing: its own verdict counts.
    let (mut frontend, _thread) = back_end(1, |_| (0x100, None));
    let error = frontend
        .load_state(&mut vec![1; 1 << 20].as_slice())
        .expect_err("failed");
    assert!(
        matches!(error, StateError::Failed { value: 1, .. }),
        "{error}"
    );

    // No invalid-FD bit and no descriptor.
    let (mut frontend, _thread) = back_end(0, |_| (0, None));
    let error = frontend
        .save_state(&mut Vec::new())
        .expect_err("contradiction");
    assert!(
        error.to_string().contains("contradict each other"),
        "{error}"
    );
}

#[test]
fn a_back_end_that_neither_writes_nor_closes_is_not_waited_for() {
    let mut kept = Vec::new();
    let (mut frontend, _thread) = back_end(0, move |fd| {
        kept.push(fd);
        (0x100, None)
    });
    frontend.connection().set_timeout(Duration::from_millis(50));
    let error = frontend.save_state(&mut Vec::new()).expect_err("stalled");
    assert!(
        matches!(error, StateError::Stalled { done: 0, .. }),
        "{error}"
    );
    let error = frontend
        .load_state(&mut vec![1; 1 << 20].as_slice())
        .expect_err("stalled");
    let StateError::Stalled { done, .. } = error else {
        panic!("{error}")
    };
    assert!(done > 0);
}
