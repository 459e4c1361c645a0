//! The `ferryctl state` commands.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ferryfs_state::{read_state, write_state, Header, Limits, State, WriterInfo};

use crate::stream::{create, open, registry, Error};
use crate::{inspect, json};

/// What to do with a stream.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the header and the table of sections; no payload is decoded
    Inspect {
        /// The stream; "-" is standard input
        file: PathBuf,
    },
    /// Validate all of it as a daemon would; exit status 1 if a daemon would refuse
    Check {
        /// The stream; "-" is standard input
        file: PathBuf,
    },
    /// Print everything as JSON lines: header, session, counters, mounts, inodes,
    /// handles
    Show {
        /// The stream; "-" is standard input
        file: PathBuf,
    },
    /// Write the same state in another format
    Convert {
        /// The format: postcard, msgpack, postcard+zstd or msgpack+zstd
        #[arg(long, value_name = "NAME")]
        format: String,
        /// The stream to read; "-" is standard input
        input: PathBuf,
        /// The file to write; "-" is standard output
        output: PathBuf,
    },
}

/// Runs a command.
///
/// # Errors
/// What is wrong, for one line on standard error.
pub fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Inspect { file } => inspect::run(file),
        Command::Check { file } => check(file),
        Command::Show { file } => show(file),
        Command::Convert {
            format,
            input,
            output,
        } => convert(format, input, output),
    }
}

fn read(path: &Path) -> Result<(Header, State), Error> {
    let mut input = open(path)?;
    read_state(&mut input, &registry(), &Limits::default()).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn check(path: &Path) -> Result<(), Error> {
    let (header, state) = read(path)?;
    writeln!(
        io::stdout(),
        "valid: state version {} as {}, {} inodes, {} handles, {} mounts, {}",
        header.state,
        header.format,
        state.fs.inodes.len(),
        state.fs.handles.len(),
        state.fs.mounts.len(),
        match state.session {
            Some(_) => "with a session",
            None => "no session",
        }
    )
    .map_err(Error::Print)
}

fn show(path: &Path) -> Result<(), Error> {
    let (header, state) = read(path)?;
    let mut out = BufWriter::new(io::stdout().lock());
    json::write(&header, &state, &mut out)
        .and_then(|()| out.flush())
        .map_err(Error::Print)
}

fn convert(format: &str, input: &Path, output: &Path) -> Result<(), Error> {
    let registry = registry();
    let format = registry.get(format).map_err(Error::Format)?;
    let (_, state) = read(input)?;
    let writer = WriterInfo::new("ferryctl", env!("CARGO_PKG_VERSION"));
    create(output, |out| {
        write_state(&state, format.as_ref(), &writer, out)
    })?;
    Ok(())
}
