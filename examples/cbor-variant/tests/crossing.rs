//! The variant as a process: guests cross between two of it, and a stock daemon
//! says what it cannot read.

use std::process::Command;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_state::{read_header, Limits, Registry};
use ferryfs_tests::{eventually, text, Guest, Host};

fn variant(host: &Host, options: &[&str]) -> Daemon {
    let socket = host.socket();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cborfsd"));
    command
        .arg(format!("--socket-path={}", socket.display()))
        .arg(format!("--shared-dir={}", host.share().display()))
        .args(options);
    Daemon::start_command(command, &socket).expect("cborfsd starts")
}

/// A machine with an open file, stopped, and its state.
fn stopped(host: &Host, on: &Daemon) -> (Vm, Guest, (u64, u64), Vec<u8>) {
    std::fs::write(host.at("file"), "contents").expect("write");
    let mut vm = Vm::boot(on.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let file = guest.open_path("file", libc::O_RDWR);
    vm.stop().expect("stop");
    let state = vm.save_state().expect("save");
    (vm, guest, file, state)
}

#[test]
fn a_guest_crosses_in_cbor_and_a_stock_daemon_names_it() {
    for format in ["cbor", "cbor+zstd"] {
        let host = Host::new();
        let options = ["--keep-listening", "--state-format", format];
        let source = variant(&host, &options);
        let target = variant(&host, &options);
        let stock = host.daemon(&["--keep-listening"]);
        let (mut vm, guest, (node, handle), state) = stopped(&host, &source);

        let header = read_header(&mut &state[..]).expect("header");
        assert_eq!(header.format, format);
        assert_eq!(header.writer.vendor(), "cborfsd");
        let nothing =
            ferryfs_state::read_state(&mut &state[..], &Registry::new(), &Limits::default());
        let said = nothing.expect_err("no format at all").to_string();
        assert!(said.contains(format), "{said}");

        vm.resume_on(stock.socket(), Some(&state))
            .map(drop)
            .expect_err("a stock daemon has no cbor");
        let why = format!("the state format \"{format}\" is not built in here; built in: ");
        eventually("the stock daemon says so", || stock.stderr().contains(&why));

        let moved = vm.resume_on(target.socket(), Some(&state));
        if let Err(error) = moved {
            panic!("{}\ndestination:\n{}", text(&error), target.stderr());
        }
        assert_eq!(guest.read(node, handle, 0, 100).expect("READ"), b"contents");
        guest.lookup_path(ROOT_ID, "file").expect("LOOKUP");
    }
}

#[test]
fn what_was_left_out_is_not_there() {
    let host = Host::new();
    let refused = Command::new(env!("CARGO_BIN_EXE_cborfsd"))
        .args(["--shared-dir=/", "--fd=3", "--state-format=msgpack"])
        .output()
        .expect("cborfsd runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("\"msgpack\"") && said.contains("postcard, cbor, postcard+zstd"),
        "{said}"
    );

    let stock = host.daemon(&["--keep-listening", "--state-format", "msgpack"]);
    let variant = variant(&host, &["--keep-listening"]);
    let (mut vm, _, _, state) = stopped(&host, &stock);
    vm.resume_on(variant.socket(), Some(&state))
        .map(drop)
        .expect_err("the variant has no msgpack");
    eventually("the variant says so", || {
        let why = "the state format \"msgpack\" is not built in here";
        variant.stderr().contains(why)
    });
}
