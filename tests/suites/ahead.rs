//! What a source does of its state before the device is stopped.

use std::fs;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_tests::{eventually, host, programs, text, Guest, Host, FORMATS, MODES};

/// Files that the guest knows: inodes of a few ranges.
const FILES: usize = 10_000;

/// How many ranges of inodes the last state had, and how many of them were encoded with
/// the device stopped.
fn ranges(source: &Daemon) -> Option<(usize, usize)> {
    let lines = host::lines(source, "DEBUG");
    let line = lines.iter().rfind(|l| l.contains("ranges of inodes in"))?;
    let numbers: Vec<usize> = line
        .split("] ")
        .last()?
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    Some((*numbers.first()?, *numbers.get(1)?))
}

#[test]
fn inodes_are_encoded_before_the_stop_in_every_format() {
    let modes = match programs::is_root("--migration-mode file-handles") {
        true => &MODES[..],
        false => &MODES[..1],
    };
    for (format, mode) in FORMATS
        .iter()
        .flat_map(|format| modes.iter().map(move |mode| (format, mode)))
    {
        let host = Host::new();
        for i in 0..FILES {
            fs::write(host.at(i.to_string()), "").expect("write");
        }
        fs::write(host.at("7"), "seven").expect("write");
        let options = ["--migration-mode", mode, "--state-format", format];
        let source = host.daemon(&[&options[..], &["--log-level", "debug"]].concat());
        let destination = host.daemon(&options);
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let guest = Guest::of(&vm);
        let nodes: Vec<u64> = (0..FILES)
            .map(|i| guest.lookup(ROOT_ID, i.to_string()).expect("LOOKUP").nodeid)
            .collect();
        vm.start_precopy().expect("precopy");
        eventually("precopy encodes", || {
            host::lines(&source, "DEBUG")
                .iter()
                .any(|line| line.contains("precopy: encoded"))
        });
        // One range is another one now.
        guest.lookup(ROOT_ID, "7").expect("LOOKUP");
        if let Err(error) = vm.migrate_to(destination.socket()) {
            panic!("{}\ndestination:\n{}", text(&error), destination.stderr());
        }
        eventually("the source tells of it", || ranges(&source).is_some());
        let (all, late) = ranges(&source).expect("just seen");
        assert!(all >= 3, "{format}, {mode}: {all} ranges");
        assert!(late <= 1, "{format}, {mode}: {late} of {all} ranges");
        let open = guest.open(nodes[7], libc::O_RDONLY as u32).expect("OPEN");
        let read = guest.read(nodes[7], open.fh, 0, 9).expect("READ");
        assert_eq!(read, b"seven", "{format}, {mode}");
    }
}
