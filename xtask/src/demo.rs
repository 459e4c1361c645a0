//! `cargo xtask demo`: the main job, shown without a VM. Two daemon processes, the
//! built-in front-end as VMM and guest, real files, a crossing in each format; then
//! everything the guest holds is checked on the other side and on disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::{Daemon, FsClient, Vm};

use crate::fail::{need, Context, Fail, Result};
use crate::{binaries, progress, workspace};

const FORMATS: [&str; 4] = ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files that the guest has looked up when it crosses
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    files: u32,

    /// Files among them that it holds open
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    open: u32,

    /// Cargo profile to build the daemon with
    #[arg(long, default_value = "release")]
    profile: String,
}

/// What one crossing showed.
struct Row {
    format: &'static str,
    bytes: usize,
    save: Duration,
    load: Duration,
    checks: usize,
}

/// Runs the demo.
pub fn run(args: &Args) -> Result<()> {
    let daemon = binaries::build("ferryfsd", &args.profile)?;
    let place = Place::new()?;
    let mut rows = Vec::new();
    for format in FORMATS {
        progress::step(format_args!("cross in {format}"));
        let share = place.0.join(format);
        rows.push(cross(&daemon, &share, format, args).context(format)?);
        fs::remove_dir_all(&share).context("cleaning up")?;
    }
    println!(
        "\n{:<15} {:>10} {:>8} {:>10} {:>10}  verified",
        "format", "bytes", "B/inode", "save", "load"
    );
    for row in &rows {
        println!(
            "{:<15} {:>10} {:>8.1} {:>10} {:>10}  {} checks",
            row.format,
            row.bytes,
            row.bytes as f64 / f64::from(args.files),
            millis(row.save),
            millis(row.load),
            row.checks
        );
    }
    println!(
        "\nEach line: {} files looked up, {} of them open, one for appending, one half-read\n\
         directory; daemon A saved its state to daemon B, and the guest went on there with\n\
         the same inode numbers, contents, offsets and listing.",
        args.files, args.open
    );
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// A directory for the demo's shares and sockets, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Place> {
        let path = workspace::target()?.join(format!("demo-{}", std::process::id()));
        fs::create_dir_all(&path).context(path.display())?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Socket paths are at most 107 bytes, and a target directory can lie deep; a short
/// link to the share's directory would not do for a chroot. So sockets live in the
/// system's temporary directory.
fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ferryfs-demo-{}-{name}.sock", std::process::id()))
}

fn start(daemon: &Path, share: &Path, format: &str, name: &str) -> Result<Daemon> {
    let socket = socket(name);
    let args = [
        "--socket-path".as_ref(),
        socket.as_os_str(),
        "--shared-dir".as_ref(),
        share.as_os_str(),
        "--state-format".as_ref(),
        format.as_ref(),
        // In a container namespaces are often not to be had, and they are not what is
        // shown.
        "--sandbox".as_ref(),
        "none".as_ref(),
    ];
    Daemon::start(daemon, args, &socket).context("starting a daemon")
}

/// The files of the share: directories of a hundred.
fn name_of(index: u32) -> (String, String) {
    (
        format!("dir-{:05}", index / 100),
        format!("file-{index:07}"),
    )
}

fn content_of(index: u32) -> Vec<u8> {
    format!("content of file {index}\n").into_bytes()
}

/// An open file of the guest.
struct Open {
    index: u32,
    nodeid: u64,
    fh: u64,
    ino: u64,
    expected: Vec<u8>,
}

fn cross(program: &Path, share: &Path, format: &'static str, args: &Args) -> Result<Row> {
    for index in 0..args.files {
        let (dir, file) = name_of(index);
        let dir = share.join(dir);
        if index % 100 == 0 {
            fs::create_dir_all(&dir).context("making the share")?;
        }
        fs::write(dir.join(file), content_of(index)).context("making the share")?;
    }

    let mut source = start(program, share, format, "a")?;
    let mut vm = Vm::boot(source.socket()).context("booting on daemon A")?;
    let client = vm.client();

    // The guest looks around, opens files and writes.
    let mut dir = 0;
    let mut open = Vec::new();
    for index in 0..args.files {
        let (dir_name, file_name) = name_of(index);
        if index % 100 == 0 {
            dir = client.lookup(ROOT_ID, dir_name).context("LOOKUP")?.nodeid;
        }
        let entry = client.lookup(dir, file_name).context("LOOKUP")?;
        if index < args.open {
            let opened = client
                .open(entry.nodeid, libc::O_RDWR as u32)
                .context("OPEN")?;
            let mut expected = content_of(index);
            write(
                &client,
                entry.nodeid,
                opened.fh,
                expected.len(),
                b"from A\n",
            )?;
            expected.extend_from_slice(b"from A\n");
            open.push(Open {
                index,
                nodeid: entry.nodeid,
                fh: opened.fh,
                ino: entry.attr.ino,
                expected,
            });
        }
    }
    let (log, log_file) = client
        .create(
            ROOT_ID,
            "log",
            (libc::O_WRONLY | libc::O_APPEND) as u32,
            0o644,
        )
        .context("CREATE")?;
    append(&client, log.nodeid, log_file.fh, b"one\n")?;
    let first_dir = client.lookup(ROOT_ID, name_of(0).0).context("LOOKUP")?;
    let listing = client.opendir(first_dir.nodeid).context("OPENDIR")?;
    let mut names = BTreeSet::new();
    let offset = list(&client, first_dir.nodeid, listing.fh, 0, 1, &mut names)?;

    // Precopy: the guest goes on. Then the switch.
    vm.start_precopy().context("starting precopy")?;
    append(&client, log.nodeid, log_file.fh, b"two\n")?;
    vm.stop().context("stopping the queues")?;
    let began = Instant::now();
    let state = vm.save_state().context("saving on daemon A")?;
    let save = began.elapsed();
    let target = start(program, share, format, "b")?;
    let began = Instant::now();
    let left = vm.resume_on(target.socket(), Some(&state)).map_err(|e| {
        Fail::new(format!(
            "loading on daemon B: {e}; it said:\n{}",
            target.stderr()
        ))
    })?;
    let load = began.elapsed();
    drop(left);
    let status = source
        .wait(Duration::from_secs(10))
        .context("waiting for daemon A's end")?;
    need(status.success(), || {
        format!("daemon A ended with {status}:\n{}", source.stderr())
    })?;

    // The guest goes on where it was.
    let mut checks = 0;
    let mut check = |holds: bool, what: &dyn Fn() -> String| {
        checks += 1;
        need(holds, || format!("not so after the crossing: {}", what()))
    };
    for file in &mut open {
        let (dir, name) = name_of(file.index);
        let path = share.join(dir).join(name);
        let attr = client
            .getattr(file.nodeid, Some(file.fh))
            .context("GETATTR")?
            .attr;
        let on_disk = fs::metadata(&path).context(path.display())?.ino();
        check(attr.ino == file.ino && on_disk == file.ino, &|| {
            format!("inode number of {}", path.display())
        })?;
        let read = client.read(file.nodeid, file.fh, 0, 4096).context("READ")?;
        check(read == file.expected, &|| {
            format!("contents of {}", path.display())
        })?;
        write(
            &client,
            file.nodeid,
            file.fh,
            file.expected.len(),
            b"from B\n",
        )?;
        file.expected.extend_from_slice(b"from B\n");
        let written = fs::read(&path).context(path.display())?;
        check(written == file.expected, &|| {
            format!("contents of {} on disk", path.display())
        })?;
    }
    append(&client, log.nodeid, log_file.fh, b"three\n")?;
    let written = fs::read(share.join("log")).context("log")?;
    check(written == b"one\ntwo\nthree\n", &|| {
        format!("the log is {:?}", String::from_utf8_lossy(&written))
    })?;
    list(
        &client,
        first_dir.nodeid,
        listing.fh,
        offset,
        usize::MAX,
        &mut names,
    )?;
    let all: BTreeSet<Vec<u8>> = (0..args.files.min(100))
        .map(|index| name_of(index).1.into_bytes())
        .collect();
    check(names == all, &|| {
        format!("the listing has {} names of {}", names.len(), all.len())
    })?;
    Ok(Row {
        format,
        bytes: state.len(),
        save,
        load,
        checks,
    })
}

fn write(client: &FsClient, nodeid: u64, fh: u64, offset: usize, bytes: &[u8]) -> Result<()> {
    let n = client
        .write(nodeid, fh, offset as u64, bytes)
        .context("WRITE")?;
    need(n as usize == bytes.len(), || {
        format!("WRITE took {n} bytes")
    })
}

fn append(client: &FsClient, nodeid: u64, fh: u64, bytes: &[u8]) -> Result<()> {
    let flags = (libc::O_WRONLY | libc::O_APPEND) as u32;
    let payload = ferryfs_frontend::call::Payload::Bytes(bytes.to_vec());
    let n = client
        .write_with(nodeid, fh, 0, payload, 0, flags)
        .context("WRITE")?;
    need(n as usize == bytes.len(), || {
        format!("WRITE took {n} bytes")
    })
}

/// Reads a directory on from `offset`, `replies` replies long or to its end, each
/// name once; answers where it is then.
fn list(
    client: &FsClient,
    nodeid: u64,
    fh: u64,
    mut offset: u64,
    replies: usize,
    names: &mut BTreeSet<Vec<u8>>,
) -> Result<u64> {
    for _ in 0..replies {
        let entries = client
            .readdir(nodeid, fh, offset, 1024)
            .context("READDIR")?;
        let Some(last) = entries.last() else { break };
        offset = last.off;
        for entry in entries {
            if entry.name != b"." && entry.name != b".." {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                need(names.insert(entry.name), || {
                    format!("{name} is listed twice")
                })?;
            }
        }
    }
    Ok(offset)
}
