//! One cell of the table in docs/state-bench.md: writes or reads a state once or a
//! few times, and prints what it took as one line of JSON. `cargo xtask bench state`
//! runs a process for each, so that each has its own peak of memory.
//!
//!     state-bench write FORMAT INODES THREADS REPEAT FILE
//!     state-bench read FORMAT INODES THREADS REPEAT FILE
//!
//! `FORMAT` is one of the four, or `bare`: postcard on the same records with nothing
//! around it. Writing leaves the stream in `FILE`, which reading reads.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::time::Instant;

use ferryfs_format_msgpack::MsgPack;
use ferryfs_format_postcard::Postcard;
use ferryfs_format_zstd::Zstd;
use ferryfs_state::testing::large;
use ferryfs_state::{
    read_state_on_threads, write_state_on_threads, Counters, FileSystem, FsState, Handle, Identity,
    Inode, Limits, Lock, Mount, Registry, Session, State, WriteOptions, WriterInfo,
};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// What a state is without an envelope.
type Bare = (
    Option<Session>,
    Counters,
    Vec<Mount>,
    Vec<Inode>,
    Vec<Handle>,
    Vec<FileSystem>,
    Vec<Identity>,
    Vec<Lock>,
);

fn registry() -> Registry {
    Registry::new()
        .with(Postcard)
        .with(MsgPack)
        .with(Zstd::new(Postcard))
        .with(Zstd::new(MsgPack))
}

/// A field of /proc/self/status in bytes.
fn status(field: &str) -> Fallible<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .ok_or("no such field in /proc/self/status")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Makes `VmHWM` begin anew at what is resident now.
fn forget_peak() -> Fallible<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// Takes what is written, as a channel with no end of room.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(format: &str, state: &State, threads: usize, out: &mut dyn Write) -> Fallible<()> {
    if format == "bare" {
        let fs = &state.fs;
        let records = (
            &state.session,
            fs.counters(),
            &fs.mounts,
            &fs.inodes,
            &fs.handles,
            &fs.file_systems,
            &fs.identities,
            &fs.locks,
        );
        out.write_all(&postcard::to_stdvec(&records)?)?;
        return Ok(());
    }
    let registry = registry();
    let format = registry.get(format)?;
    let writer = WriterInfo::new("state-bench", env!("CARGO_PKG_VERSION"));
    write_state_on_threads(
        threads,
        state,
        format.as_ref(),
        &writer,
        &WriteOptions::default(),
        out,
    )?;
    Ok(())
}

fn read(format: &str, threads: usize, file: &str) -> Fallible<State> {
    let mut file = File::open(file)?;
    if format == "bare" {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (session, counters, mounts, inodes, handles, file_systems, identities, locks): Bare =
            postcard::from_bytes(&bytes)?;
        return Ok(State {
            session,
            fs: FsState {
                next_inode: counters.next_inode,
                next_handle: counters.next_handle,
                mounts,
                inodes,
                handles,
                file_systems,
                identities,
                locks,
                // None of the states that are measured has any.
                requests: Vec::new(),
                ghosts: Vec::new(),
                ghost_data: Vec::new(),
            },
        });
    }
    let limits = Limits::default();
    Ok(read_state_on_threads(threads, &mut file, &registry(), &limits)?.1)
}

/// The shortest of `repeat` runs in nanoseconds, and the most memory that the first
/// one needed beyond what was there, in bytes. What a run answers is dropped outside
/// of its time.
fn measured<T>(repeat: u32, mut run: impl FnMut() -> Fallible<T>) -> Fallible<(u128, u64)> {
    forget_peak()?;
    let before = status("VmRSS")?;
    let mut shortest = u128::MAX;
    let mut memory = 0;
    for n in 0..repeat {
        let start = Instant::now();
        let answer = run()?;
        shortest = shortest.min(start.elapsed().as_nanos());
        if n == 0 {
            memory = status("VmHWM")?.saturating_sub(before);
        }
        drop(answer);
    }
    Ok((shortest, memory))
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [job, format, inodes, threads, repeat, file] = &arguments[..] else {
        return Err("usage: state-bench write|read FORMAT INODES THREADS REPEAT FILE".into());
    };
    let (inodes, threads, repeat) = (inodes.parse()?, threads.parse()?, repeat.parse()?);
    let (nanoseconds, memory) = match job.as_str() {
        "write" => {
            let state = large(inodes);
            let measured = measured(repeat, || write(format, &state, threads, &mut Sink(0)))?;
            let mut file = BufWriter::new(File::create(file)?);
            write(format, &state, threads, &mut file)?;
            file.flush()?;
            measured
        }
        "read" => {
            let measured = measured(repeat, || read(format, threads, file))?;
            if read(format, threads, file)? != large(inodes) {
                return Err("what was read is not what was written".into());
            }
            measured
        }
        _ => return Err(format!("{job}: neither write nor read").into()),
    };
    let bytes = std::fs::metadata(file)?.len();
    println!("{{\"bytes\":{bytes},\"nanoseconds\":{nanoseconds},\"memory\":{memory}}}");
    Ok(())
}
