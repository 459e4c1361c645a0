//! `ferryctl state`, through the program itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ferryfs_format_postcard::Postcard;
use ferryfs_state::testing::{large, sample, sample_v2, sample_v3};
use ferryfs_state::{write_state, State, WriterInfo};

const FORMATS: [&str; 4] = ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

fn ferryctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferryctl"))
        .args(args)
        .output()
        .unwrap()
}

fn bytes_of(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    let writer = WriterInfo::new("ferryfsd", "0.1.0");
    write_state(state, &Postcard, &writer, &mut bytes).unwrap();
    bytes
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The standard output of a success, with nothing on standard error.
fn ok(output: Output) -> String {
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a failure with exit status 1.
fn fails(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn inspect_shows_header_and_sections() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&large(10_000));
    let file = put(dir.path(), "state", &bytes);
    let text = ok(ferryctl(&["state", "inspect", &file]));
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["container", "version", "1"]);
    assert_eq!(
        lines[1].join(" "),
        "state version 1 (ferryfs 0.1.0 and later)"
    );
    assert_eq!(lines[2], ["format", "postcard"]);
    assert_eq!(lines[3], ["written", "by", "ferryfsd", "0.1.0"]);
    let row = |name: &str| lines.iter().find(|l| l.first() == Some(&name)).unwrap();
    assert_eq!(row("session")[1..5], ["1", "yes", "1", "1"]);
    assert_eq!(row("inodes")[1..5], ["1", "yes", "3", "10000"]);
    assert_eq!(row("handles")[1..5], ["1", "yes", "1", "100"]);
    assert!(!text.contains("mounts"), "there are none");
    let last = format!("{} bytes, all checksums match", bytes.len());
    assert_eq!(text.lines().last().unwrap(), last);
}

#[test]
fn inspect_needs_no_format_and_takes_a_newer_state() {
    let dir = tempfile::tempdir().unwrap();
    // Another format's name and a state version of the future, checksums made good.
    let good = bytes_of(&sample());
    let mut bytes = good[..45].to_vec();
    bytes[16] = 9;
    bytes[24..32].copy_from_slice(b"cap-n-pr");
    let crc = crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(&good[49..good.len() - 8]);
    let stream = crc32c(&bytes);
    bytes.extend(stream.to_le_bytes());
    let end = bytes.len() - 44;
    let frame = crc32c(&bytes[end..]);
    bytes.extend(frame.to_le_bytes());
    assert_eq!(bytes.len(), good.len());

    let file = put(dir.path(), "state", &bytes);
    let text = ok(ferryctl(&["state", "inspect", &file]));
    assert!(text.contains("state version      9\n"), "{text}");
    assert!(text.contains("format             cap-n-pr\n"), "{text}");
    assert!(text.ends_with("all checksums match\n"), "{text}");
    assert_eq!(
        fails(ferryctl(&["state", "check", &file])),
        format!(
            "ferryctl: {file}: written as state version 9 by ferryfsd 0.1.0; this reader knows \
             up to 3: use ferryfsd 0.1.0 or newer here, or write with --state-version 3 there\n"
        )
    );
}

/// CRC-32C bit by bit, to owe nothing to the library under test.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn inspect_shows_what_is_sound_before_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = bytes_of(&large(10_000));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    let file = put(dir.path(), "state", &bytes);
    let output = ferryctl(&["state", "inspect", &file]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains("session"), "{text}");
    assert!(!text.contains("all checksums match"));
    let error = fails(output);
    assert!(
        error.starts_with(&format!(
            "ferryctl: {file}: damaged section inodes at byte "
        )),
        "{error}"
    );
}

#[test]
fn check_answers_by_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let good = bytes_of(&sample());
    let file = put(dir.path(), "good", &good);
    assert_eq!(
        ok(ferryctl(&["state", "check", &file])),
        "valid: state version 1 as postcard, 6 inodes, 2 handles, 2 mounts, with a session\n"
    );

    let file = put(dir.path(), "short", &good[..good.len() - 1]);
    assert_eq!(
        fails(ferryctl(&["state", "check", &file])),
        format!(
            "ferryctl: {file}: truncated in section end at byte {}: 1 more byte(s) must follow \
             there\n",
            good.len() - 1
        )
    );

    let file = put(dir.path(), "empty", b"");
    let error = fails(ferryctl(&["state", "check", &file]));
    assert!(
        error.starts_with(&format!("ferryctl: {file}: the stream is empty (0 bytes)")),
        "{error}"
    );

    let file = dir.path().join("absent");
    let file = file.to_str().unwrap();
    assert_eq!(
        fails(ferryctl(&["state", "check", file])),
        format!("ferryctl: failed to open {file}: No such file or directory (os error 2)\n")
    );
}

#[test]
fn show_prints_every_record_as_a_json_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&sample()));
    let text = ok(ferryctl(&["state", "show", &file]));
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let of = |record: &str| -> Vec<&serde_json::Value> {
        lines.iter().filter(|l| l["record"] == record).collect()
    };
    assert_eq!(lines[0]["record"], "header");
    assert_eq!(lines[0]["format"], "postcard");
    assert_eq!(of("session")[0]["max_write"], 1 << 20);
    assert_eq!(of("session")[0]["flags"], "0x000000047069c079");
    assert_eq!(of("counters")[0]["next_inode"], 9);
    assert_eq!(of("mount")[1]["path"], "srv/data");
    let inodes = of("inode");
    assert_eq!(inodes.len(), 6);
    assert_eq!(inodes[2]["location"]["name"], "caf\\xe9");
    assert_eq!(inodes[2]["kind"], "file");
    assert_eq!(inodes[3]["location"]["path"], "x/link");
    assert_eq!(inodes[4]["location"]["bytes"], "0001027f80ff");
    assert_eq!(inodes[5]["location"]["errno"], 116);
    let handles = of("handle");
    assert_eq!(handles.len(), 2);
    assert_eq!(handles[0]["guest_flags"], "0o102001");
    assert_eq!(handles[1]["kind"], "directory");
    assert_eq!(lines.len(), 1 + 1 + 1 + 2 + 6 + 2);
}

#[test]
fn show_ends_quietly_when_nobody_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&large(50_000)));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferryctl"))
        .args(["state", "show", &file])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn convert_goes_through_every_format_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = put(dir.path(), "start", &bytes_of(&sample()));
    let shown = |file: &str| {
        let text = ok(ferryctl(&["state", "show", file]));
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let start = shown(&file);
    let mut first = Vec::new();
    for format in FORMATS.iter().chain(&["postcard"]) {
        let out = dir.path().join(format!("as-{format}"));
        let out = out.to_str().unwrap().to_owned();
        ok(ferryctl(&[
            "state", "convert", "--format", format, &file, &out,
        ]));
        assert_eq!(shown(&out), start, "{format}");
        let text = ok(ferryctl(&["state", "inspect", &out]));
        assert!(
            text.contains(&format!("format             {format}\n")),
            "{text}"
        );
        assert!(text.contains("written by         ferryctl "), "{text}");
        if *format == "postcard" {
            first.push(std::fs::read(&out).unwrap());
        }
        file = out;
    }
    assert_eq!(first[0], first[1], "the same state makes the same bytes");
}

#[test]
fn convert_leaves_no_half_written_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = bytes_of(&sample());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let bad = put(dir.path(), "bad", &bytes);
    let out = put(dir.path(), "out", b"as it was");
    fails(ferryctl(&[
        "state", "convert", "--format", "msgpack", &bad, &out,
    ]));
    assert_eq!(std::fs::read(&out).unwrap(), b"as it was");

    let good = put(dir.path(), "good", &bytes_of(&sample()));
    assert_eq!(
        fails(ferryctl(&[
            "state", "convert", "--format", "cbor", &good, &out
        ])),
        "ferryctl: the state format \"cbor\" is not built in here; built in: postcard, msgpack, \
         postcard+zstd, msgpack+zstd, virtiofsd-v1, virtiofsd-v2\n"
    );
    let nowhere = dir.path().join("no/such/directory");
    let nowhere = nowhere.to_str().unwrap();
    assert_eq!(
        fails(ferryctl(&[
            "state", "convert", "--format", "msgpack", &good, nowhere
        ])),
        format!(
            "ferryctl: failed to write {nowhere}: the state channel failed: No such file or \
             directory (os error 2)\n"
        )
    );
    let mut left: Vec<PathBuf> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into())
        .collect();
    left.sort();
    assert_eq!(left, ["bad", "good", "out"].map(PathBuf::from));
}

#[test]
fn streams_come_and_go_through_pipes() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferryctl"))
        .args(["state", "convert", "--format", "postcard+zstd", "-", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&bytes_of(&sample())).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());

    let mut child = Command::new(env!("CARGO_BIN_EXE_ferryctl"))
        .args(["state", "check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&output.stdout).unwrap();
    drop(stdin);
    let text = ok(child.wait_with_output().unwrap());
    assert!(
        text.starts_with("valid: state version 1 as postcard+zstd, 6 inodes"),
        "{text}"
    );
}

#[test]
fn show_picks_records_by_id_and_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&sample()));
    let shown = |options: &[&str]| {
        let args = [&["state", "show", &file], options].concat();
        let text = ok(ferryctl(&args));
        text.lines()
            .map(|l| {
                let value: serde_json::Value = serde_json::from_str(l).unwrap();
                format!("{} {}", value["record"].as_str().unwrap(), value["id"])
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&["--inode", "3"]), ["inode 3", "handle 0"]);
    assert_eq!(shown(&["--handle", "4"]), ["inode 2", "handle 4"]);
    assert_eq!(
        shown(&["--path", "/sub/caf\\xe9", "--inode", "8"]),
        ["inode 3", "inode 8", "handle 0"]
    );
    assert_eq!(
        shown(&["--path", "sub"]),
        ["inode 2", "inode 3", "inode 5", "handle 0", "handle 4"]
    );
    assert_eq!(shown(&["--path", "su"]), [""; 0]);
    let error = fails(ferryctl(&["state", "show", &file, "--path", "a/.."]));
    assert_eq!(
        error,
        "ferryctl: --path: \"..\" is no name: it is a dot entry\n"
    );

    let text = ok(ferryctl(&["state", "show", "--table", &file]));
    for line in [
        "written by ferryfsd 0.1.0 as postcard, state version 1",
        "session: guest speaks FUSE 7.41, INIT flags 0x47069c079, writes up to 1.0 MiB",
        "mount 1: /srv/data",
        "         3        1  file              /sub/caf\\xe9",
        "         7      200  file              file handle on mount 1",
        "         8        1  fifo              lost, errno 116",
        "         0          3        0o102001       0o100002",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn diff_answers_by_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let a = put(dir.path(), "a", &bytes_of(&sample()));
    let b = dir.path().join("b");
    let b = b.to_str().unwrap();
    ok(ferryctl(&[
        "state",
        "convert",
        "--format",
        "msgpack+zstd",
        &a,
        b,
    ]));
    assert_eq!(ok(ferryctl(&["state", "diff", &a, b])), "");

    let mut other = sample();
    other.fs.inodes[1].lookups = 4;
    let c = put(dir.path(), "c", &bytes_of(&other));
    let output = ferryctl(&["state", "diff", &a, &c]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let signs: Vec<_> = text.lines().map(|l| &l[..2]).collect();
    assert_eq!(signs, ["- ", "+ "]);
    assert!(
        text.contains("\"lookups\":3") && text.contains("\"lookups\":4"),
        "{text}"
    );

    let output = ferryctl(&["state", "diff", &a, "/nonexistent/state"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn remap_moves_a_directory_and_keeps_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = sample();
    state.fs.inodes.remove(4);
    let file = put(dir.path(), "state", &bytes_of(&state));
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    ok(ferryctl(&["state", "remap", "sub=moved/here", &file, out]));
    let text = ok(ferryctl(&[
        "state",
        "show",
        "--path",
        "moved/here",
        "--table",
        out,
    ]));
    assert!(text.contains("/moved/here/caf\\xe9\n"), "{text}");
    ok(ferryctl(&["state", "remap", "moved/here=sub", out, out]));
    let bytes = std::fs::read(out).unwrap();
    assert_eq!(bytes.len(), bytes_of(&state).len());
    assert_eq!(ok(ferryctl(&["state", "diff", &file, out])), "");
    assert_eq!(
        fails(ferryctl(&["state", "remap", "not/there=x", &file, out])),
        format!("ferryctl: {file}: nothing in the state lies at or below the old place\n")
    );
    assert_eq!(std::fs::read(out).unwrap(), bytes);
}

/// A state that virtiofsd can say.
fn sayable() -> State {
    let mut state = sample();
    let session = state.session.as_mut().unwrap();
    session.flags = 1 << 34;
    session.guest_minor = 38;
    state.fs.inodes.truncate(2);
    state.fs.inodes[0].lookups = 2;
    state.fs.handles.remove(0);
    state.fs.mounts.clear();
    state
}

#[test]
fn convert_speaks_virtiofsd_and_lists_what_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&sayable()));
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let output = ferryctl(&["state", "convert", "--format", "virtiofsd-v2", &file, out]);
    assert!(output.status.success());
    let losses = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = losses.lines().collect();
    assert_eq!(lines.len(), 2, "{losses}");
    assert!(lines[0].starts_with("ferryctl: left out of virtiofsd-v2: supplementary groups: "));
    assert!(lines[1].starts_with("ferryctl: left out of virtiofsd-v2: INIT's numbers"));
    let expected = b"\x01\x02\x01\x03\x00\x00\x02\x03\x01\x01\x03sub\x00\x09\x01\x04\x02\x00\
        \x80\x80\x08\x05\x00\x00\x00\x01\x00";
    assert_eq!(std::fs::read(out).unwrap(), expected);
    assert_eq!(
        ok(ferryctl(&["state", "check", out])),
        "valid: state version 1 as virtiofsd-v2, 2 inodes, 1 handles, 0 mounts, with a session\n"
    );
    // And back.
    let back = dir.path().join("back");
    let back = back.to_str().unwrap();
    ok(ferryctl(&[
        "state", "convert", "--format", "msgpack", out, back,
    ]));
    assert_eq!(ok(ferryctl(&["state", "diff", out, back])), "");

    let bad = put(dir.path(), "bad", &bytes_of(&sample()));
    let error = fails(ferryctl(&[
        "state",
        "convert",
        "--format",
        "virtiofsd-v1",
        &bad,
        out,
    ]));
    assert!(
        error.contains("failed to write it as virtiofsd-v1: the guest's session uses"),
        "{error}"
    );
    assert_eq!(std::fs::read(out).unwrap(), expected);
}

#[test]
fn convert_writes_for_older_readers_and_lists_or_refuses_what_they_miss() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let file = put(dir.path(), "locks", &bytes_of(&sample_v2()));
    let args = ["state", "convert", "--state-version", "1", &file, out];
    assert_eq!(
        fails(ferryctl(&args)),
        format!(
            "ferryctl: failed to write {out}: the state cannot be written as state version 1: the \
             guest holds 4 file lock(s), the first on inode 3; that takes version 2, which \
             ferryfs 0.2.0 and later read: write it without --state-version, or wait until there \
             is nothing of it left\n"
        )
    );
    assert!(!Path::new(out).exists());

    let mut lockless = sample_v2();
    lockless.fs.locks.clear();
    let file = put(dir.path(), "lockless", &bytes_of(&lockless));
    let args = ["state", "convert", "--state-version", "1", &file, out];
    let output = ferryctl(&args);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "ferryctl: left out of state version 1: the identities of 4 inode(s): the destination cannot \
         tell a file that took a name meanwhile from the guest's own\n"
    );
    let plain = put(dir.path(), "plain", &bytes_of(&sample()));
    assert_eq!(ok(ferryctl(&["state", "diff", out, &plain])), "");
    let text = ok(ferryctl(&["state", "inspect", out]));
    assert!(!text.contains("identities"), "{text}");

    let (version, format) = ("--state-version", "--format");
    for (args, text) in [
        (
            [version, "4", format, "postcard"],
            "ferryctl: state version 4 is not known here; this release writes 1 to 3\n",
        ),
        (
            [version, "1", format, "virtiofsd-v2"],
            "ferryctl: --state-version is for ferryfs' own streams, not for virtiofsd-v2\n",
        ),
    ] {
        let args = [&["state", "convert"][..], &args, &[&file, out]].concat();
        assert_eq!(fails(ferryctl(&args)), text);
    }
}

#[test]
fn a_version_can_be_forced_to_make_streams_of_the_future() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&sample()));
    let forced = Command::new(env!("CARGO_BIN_EXE_ferryctl"))
        .args(["state", "convert", "--format", "msgpack", &file, out])
        .env(ferryfs_state::FORCE_VARIABLE, "7")
        .output()
        .unwrap();
    assert!(forced.status.success());
    let text = ok(ferryctl(&["state", "inspect", out]));
    assert!(text.contains("state version      7\n"), "{text}");
    let error = fails(ferryctl(&["state", "check", out]));
    assert!(
        error.contains("written as state version 7 by ferryctl "),
        "{error}"
    );
}

#[test]
fn what_version_2_added_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&sample_v2()));
    let text = ok(ferryctl(&["state", "inspect", &file]));
    assert!(
        text.contains("state version      2 (ferryfs 0.2.0 and later)\n"),
        "{text}"
    );
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let row = |name: &str| rows.iter().find(|l| l.first() == Some(&name)).unwrap();
    assert_eq!(row("file-systems")[1..5], ["1", "no", "1", "2"]);
    assert_eq!(row("identities")[1..5], ["1", "no", "1", "4"]);
    assert_eq!(row("locks")[1..5], ["1", "yes", "1", "4"]);

    let text = ok(ferryctl(&["state", "show", &file]));
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let of = |record: &str| -> Vec<&serde_json::Value> {
        lines.iter().filter(|l| l["record"] == record).collect()
    };
    assert_eq!(of("file-system")[0]["magic"], "0xef53");
    assert_eq!(of("identity")[0]["mark"]["bytes"], "0200000000000000");
    assert_eq!(
        of("identity")[2]["mark"]["born"],
        1_764_110_702_123_456_789i64
    );
    assert!(of("identity")[3]["mark"]["born"].is_null());
    let locks = of("lock");
    assert_eq!(locks.len(), 4);
    assert_eq!(
        (&locks[1]["start"], &locks[1]["write"]),
        (&10.into(), &true.into())
    );
    assert!(locks[2]["handle"].is_null());
    assert_eq!(locks[3]["kind"], "flock");

    // Of one inode.
    let shown = |options: &[&str]| {
        let args = [&["state", "show", &file], options].concat();
        ok(ferryctl(&args))
    };
    let text = shown(&["--inode", "3"]);
    let records: Vec<String> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .map(|v| v["record"].as_str().unwrap().to_owned())
        .collect();
    let expected = [
        "inode", "handle", "identity", "lock", "lock", "lock", "lock",
    ];
    assert_eq!(records, expected);
    let table = shown(&["--table"]);
    assert!(table.contains("posix  write"), "{table}");
    assert!(
        table.contains("flock  write  0x0000000000000007  0 to the end\n"),
        "{table}"
    );
}

#[test]
fn what_version_3_added_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), "state", &bytes_of(&sample_v3()));
    let text = ok(ferryctl(&["state", "inspect", &file]));
    assert!(
        text.contains("state version      3 (ferryfs 0.3.0 and later)\n"),
        "{text}"
    );
    let text = ok(ferryctl(&["state", "show", "--inode", "9", &file]));
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let records: Vec<_> = lines
        .iter()
        .map(|l| l["record"].as_str().unwrap())
        .collect();
    let data = "ghost-data";
    assert_eq!(records, ["inode", "handle", "ghost", data, data, data]);
    let ghost = &lines[2];
    assert_eq!(
        (&ghost["mode"], &ghost["uid"]),
        (&"0o640".into(), &1000.into())
    );
    assert_eq!(ghost["modified"], "-1.000000005");
    assert_eq!(ghost["xattrs"]["user.tag"], "00ff");
    assert_eq!(
        (&lines[4]["offset"], &lines[4]["length"]),
        (&12.into(), &8.into())
    );
    let table = ok(ferryctl(&["state", "show", "--table", &file]));
    assert!(
        table.contains("never linked, 8.0 GiB with 24 B of contents\n"),
        "{table}"
    );
    assert!(table.contains("directory         unlinked\n"), "{table}");
    let out = dir.path().join("out");
    let args = [
        "state",
        "convert",
        "--state-version",
        "2",
        &file,
        out.to_str().unwrap(),
    ];
    let error = fails(ferryctl(&args));
    assert!(
        error.contains("the guest has 1 unlinked file(s) or directories open"),
        "{error}"
    );
}

#[test]
fn a_whole_migration_file_of_qemus_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut dialect = Vec::new();
    let writer = ferryfs_state::Registry::new()
        .with_dialect(ferryfs_format_virtiofsd::VirtiofsdV2)
        .writer("virtiofsd-v2")
        .unwrap();
    let info = WriterInfo::new("x", "1");
    writer.write(&sayable(), &info, &mut dialect).unwrap();
    let large = bytes_of(&large(100_000));
    for (state, text) in [
        (&large, "100000 inodes, 1000 handles"),
        (&dialect, "as virtiofsd-v2, 2 inodes"),
    ] {
        let mut file = b"QEVM\x00\x00\x00\x03".to_vec();
        file.extend(vec![0xa5; 3 << 20]);
        file.extend(b"\x05\x15vhost-user-fs-backend\x00\x00\x00\x00");
        for block in state.chunks(1 << 20) {
            file.extend((block.len() as u32).to_be_bytes());
            file.extend(block);
        }
        file.extend([0; 4]);
        file.extend(b"\x7e and what else comes: {\"name\": \"vhost-user-fs-backend\"}");
        let file = put(dir.path(), "vm", &file);
        let shown = ok(ferryctl(&["state", "check", &file]));
        assert!(shown.contains(text), "{shown}");
    }
    let file = put(dir.path(), "other", b"QEVM\x00\x00\x00\x03 no such device");
    let error = fails(ferryctl(&["state", "check", &file]));
    assert!(
        error.starts_with(&format!(
            "ferryctl: {file}: a migration stream of QEMU's without the state of a virtio-fs back-end"
        )),
        "{error}"
    );
}

#[test]
fn schema_prints_the_records_of_a_version() {
    let text = ok(ferryctl(&["state", "schema"]));
    assert!(
        text.starts_with("state version 1\n\nSession (section 1, session)\n"),
        "{text}"
    );
    let of = |version: &str| ok(ferryctl(&["state", "schema", "--state-version", version]));
    assert_eq!(format!("{}\n{}\n{}", of("1"), of("2"), of("3")), text);
    assert!(of("2").contains("\nLock (section 8, locks)\n"));
    assert!(of("3").contains("\nGhostData (section 11, ghost-data)\n"));
    assert_eq!(
        fails(ferryctl(&["state", "schema", "--state-version", "7"])),
        "ferryctl: state version 7 is not known here; the newest is 3\n"
    );
}
