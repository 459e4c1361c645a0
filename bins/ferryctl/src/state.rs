//! The `ferryctl state` commands.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ferryfs_state::schema::{Schema, SCHEMAS};
use ferryfs_state::{read_state, Header, Limits, State, StateWriter, WriterInfo};

use crate::stream::{create, open, registry, Error};
use crate::{diff, inspect, paths, remap, show};

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
    /// Print records as JSON lines: header, session, counters, mounts, inodes,
    /// handles, file systems, identities, locks
    Show {
        /// The stream; "-" is standard input
        file: PathBuf,
        #[command(flatten)]
        choice: show::Choice,
    },
    /// Print the records that differ; exit status 0 if none does, 1 if some do, 2 on
    /// trouble
    Diff {
        /// One stream; "-" is standard input
        a: PathBuf,
        /// The other
        b: PathBuf,
    },
    /// Write the same state for a share where a directory or file is elsewhere
    Remap {
        /// The path before and the path now, both from the share's root
        #[arg(value_name = "OLD=NEW")]
        mapping: String,
        /// The stream to read; "-" is standard input
        input: PathBuf,
        /// The file to write, in the same format; "-" is standard output
        output: PathBuf,
    },
    /// Print the structure of the records of each state version
    Schema {
        /// Only this version
        #[arg(long, value_name = "N")]
        state_version: Option<u32>,
    },
    /// Write the same state in another format or dialect; what a dialect has no words
    /// for is listed on standard error
    Convert {
        /// The format: postcard, msgpack, postcard+zstd, msgpack+zstd; or the dialect:
        /// virtiofsd-v1 (virtiofsd 1.11), virtiofsd-v2 (1.12 to 1.14)
        #[arg(long, value_name = "NAME")]
        format: String,
        /// The stream to read; "-" is standard input
        input: PathBuf,
        /// The file to write; "-" is standard output
        output: PathBuf,
    },
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it is for.
    Done,
    /// Two states differ.
    Different,
}

/// Runs a command.
///
/// # Errors
/// What is wrong, for one line on standard error.
pub fn run(command: &Command) -> Result<Outcome, Error> {
    match command {
        Command::Inspect { file } => inspect::run(file)?,
        Command::Check { file } => check(file)?,
        Command::Show { file, choice } => show(file, choice)?,
        Command::Schema { state_version } => schema(*state_version)?,
        Command::Diff { a, b } => return differ(a, b),
        Command::Remap {
            mapping,
            input,
            output,
        } => remap(mapping, input, output)?,
        Command::Convert {
            format,
            input,
            output,
        } => convert(format, input, output)?,
    }
    Ok(Outcome::Done)
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

fn show(path: &Path, choice: &show::Choice) -> Result<(), Error> {
    let prefix = choice.prefix().map(paths::parse).transpose();
    let prefix = prefix.map_err(Error::Path)?;
    let state = read(path)?;
    let mut out = BufWriter::new(io::stdout().lock());
    show::run(choice, prefix.as_ref(), &state, &mut out)
        .and_then(|()| out.flush())
        .map_err(Error::Print)
}

fn schema(version: Option<u32>) -> Result<(), Error> {
    let wanted = |s: &&Schema| version.is_none_or(|v| s.version.0 == v);
    let schemas: Vec<String> = SCHEMAS
        .iter()
        .filter(wanted)
        .map(Schema::to_string)
        .collect();
    match (version, schemas.is_empty()) {
        (Some(version), true) => Err(Error::Version(version)),
        _ => write!(io::stdout(), "{}", schemas.join("\n")).map_err(Error::Print),
    }
}

fn differ(a: &Path, b: &Path) -> Result<Outcome, Error> {
    let (_, a) = read(a)?;
    let (_, b) = read(b)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let different = diff::run(&a, &b, &mut out)
        .and_then(|n| out.flush().map(|()| n))
        .map_err(Error::Print)?;
    Ok(match different {
        0 => Outcome::Done,
        _ => Outcome::Different,
    })
}

fn remap(mapping: &str, input: &Path, output: &Path) -> Result<(), Error> {
    let (header, mut state) = read(input)?;
    let writer = registry().writer(&header.format).map_err(Error::Format)?;
    remap::remap(&mut state.fs, mapping).map_err(|why| Error::Remap {
        path: input.to_owned(),
        why,
    })?;
    write(&state, &writer, output)
}

fn convert(format: &str, input: &Path, output: &Path) -> Result<(), Error> {
    let writer = registry().writer(format).map_err(Error::Format)?;
    let (_, state) = read(input)?;
    write(&state, &writer, output)
}

/// Writes a state, and says what it leaves out.
fn write(state: &State, writer: &StateWriter, output: &Path) -> Result<(), Error> {
    let info = WriterInfo::new("ferryctl", env!("CARGO_PKG_VERSION"));
    let mut lost = Default::default();
    create(output, |out| {
        let (bytes, losses) = writer.write(state, &info, out)?;
        lost = losses;
        Ok(bytes)
    })?;
    for loss in ferryfs_state::Losses::iter(&lost) {
        eprintln!("ferryctl: left out of {}: {loss}", writer.name());
    }
    Ok(())
}
