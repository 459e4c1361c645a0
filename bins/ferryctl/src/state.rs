//! The `ferryctl state` commands.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ferryfs_state::schema::{Schema, SCHEMAS};
use ferryfs_state::{
    paths, read_state, Header, Limits, Remap, State, StateWriter, WriteOptions, WriterInfo,
};

use crate::stream::{create, open, registry, Error};
use crate::{diff, inspect, show};

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
    /// Write the same state in another format or dialect, or for older readers; what
    /// those have no place for is listed on standard error
    Convert {
        /// The format: postcard, msgpack, postcard+zstd, msgpack+zstd; or the dialect:
        /// virtiofsd-v1 (virtiofsd 1.11), virtiofsd-v2 (1.12 to 1.14) [default: that of
        /// the input]
        #[arg(long, value_name = "NAME")]
        format: Option<String>,
        /// For readers that know state versions up to N; refused where the guest would
        /// lose something [default: the lowest version that holds the state]
        #[arg(long, value_name = "N")]
        state_version: Option<u32>,
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
            state_version,
            input,
            output,
        } => convert(format.as_deref(), *state_version, input, output)?,
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
    let failed = |why| Error::Remap {
        path: input.to_owned(),
        why,
    };
    let mapping: Remap = mapping.parse().map_err(failed)?;
    if mapping.apply(&mut state.fs).map_err(failed)? == 0 {
        return Err(failed(
            "nothing in the state lies at or below the old place".to_owned(),
        ));
    }
    write(&state, &writer, &WriteOptions::default(), output)
}

fn convert(
    format: Option<&str>,
    version: Option<u32>,
    input: &Path,
    output: &Path,
) -> Result<(), Error> {
    let options = match version {
        Some(version) => WriteOptions::for_version(version).map_err(Error::Format)?,
        None => WriteOptions::default(),
    };
    let find = |name: &str| registry().writer(name).map_err(Error::Format);
    // What is asked for by name is known before anything is read.
    let asked = format.map(find).transpose()?;
    let (header, state) = read(input)?;
    let writer = match asked {
        Some(writer) => writer,
        None => find(&header.format)?,
    };
    if let (Some(_), StateWriter::Dialect(_)) = (version, &writer) {
        return Err(Error::DialectVersion(writer.name().to_owned()));
    }
    write(&state, &writer, &options, output)
}

/// Writes a state, and says what it leaves out.
fn write(
    state: &State,
    writer: &StateWriter,
    options: &WriteOptions,
    output: &Path,
) -> Result<(), Error> {
    let options = options.forced_by_environment();
    let info = WriterInfo::new("ferryctl", env!("CARGO_PKG_VERSION"));
    let mut lost = Default::default();
    create(output, |out| {
        let (bytes, losses) = writer.write_with(state, &info, &options, out)?;
        lost = losses;
        Ok(bytes)
    })?;
    for loss in ferryfs_state::Losses::iter(&lost) {
        eprintln!("ferryctl: left out of {}: {loss}", options.target(writer));
    }
    Ok(())
}
