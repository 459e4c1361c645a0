//! Where streams come from and go to, and the formats that this tool has.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use ferryfs_format_msgpack::MsgPack;
use ferryfs_format_postcard::Postcard;
use ferryfs_format_virtiofsd::{VirtiofsdV1, VirtiofsdV2};
use ferryfs_format_zstd::Zstd;
use ferryfs_state::{Registry, StateError, StateVersion};

use crate::qemu::{self, QemuError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be opened.
    #[error("failed to open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A stream cannot be read.
    #[error("{}", name(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: StateError,
    },
    /// A migration stream of QEMU's has no state to be had.
    #[error("{}", name(path))]
    Qemu {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: QemuError,
    },
    /// Paths cannot be mapped.
    #[error("{}: {why}", name(path))]
    Remap {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A state version without a schema.
    #[error("state version {0} is not known here; the newest is {newest}", newest = StateVersion::CURRENT)]
    Version(u32),
    /// A dialect has versions of its own, as names.
    #[error("--state-version is for ferryfs' own streams, not for {0}")]
    DialectVersion(String),
    /// A path on the command line.
    #[error("--path: {0}")]
    Path(String),
    /// A file cannot be written.
    #[error("failed to write {}", name(path))]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: StateError,
    },
    /// A format that this tool does not have.
    #[error(transparent)]
    Format(StateError),
    /// The output is gone.
    #[error("failed to print")]
    Print(#[source] io::Error),
}

impl Error {
    /// Whether somebody stopped reading the output, as `head` does: no failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Print(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn name(path: &Path) -> String {
    match is_standard(path) {
        true => "standard input or output".to_owned(),
        false => path.display().to_string(),
    }
}

/// All formats and dialects that this tool reads and writes.
pub fn registry() -> Registry {
    Registry::new()
        .with(Postcard)
        .with(MsgPack)
        .with(Zstd::new(Postcard))
        .with(Zstd::new(MsgPack))
        .with_dialect(VirtiofsdV1)
        .with_dialect(VirtiofsdV2)
}

/// Opens a stream: a file, or standard input as `-`. Of a whole migration stream of
/// QEMU's, the state of the virtio-fs back-end in it.
///
/// # Errors
/// [`Error::Open`], [`Error::Qemu`].
pub fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    let mut input: Box<dyn Read> = match is_standard(path) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?),
    };
    let failed = |source| Error::Qemu {
        path: path.to_owned(),
        source,
    };
    let mut first = Vec::new();
    let mut taken = (&mut input).take(qemu::MAGIC.len() as u64);
    taken
        .read_to_end(&mut first)
        .map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
    let is_qemu = first == qemu::MAGIC;
    let whole = Cursor::new(first).chain(input);
    let mut whole = BufReader::with_capacity(1 << 20, whole);
    match is_qemu {
        true => Ok(Box::new(Cursor::new(
            qemu::extract(&mut whole).map_err(failed)?,
        ))),
        false => Ok(Box::new(whole)),
    }
}

/// Writes a file, or standard output as `-`, by `write`. A file is made under
/// another name beside it and renamed when it is complete and on disk: nobody ever
/// finds half a stream under the name that was asked for.
///
/// # Errors
/// What `write` says, or [`Error::Write`].
pub fn create(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<u64, StateError>,
) -> Result<u64, Error> {
    let failed = |source: StateError| Error::Write {
        path: path.to_owned(),
        source,
    };
    if is_standard(path) {
        return write(&mut io::stdout().lock()).map_err(failed);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let written = File::create_new(&part)
        .map_err(StateError::from)
        .and_then(|mut file| {
            let result = write(&mut file).and_then(|bytes| {
                file.sync_all()?;
                std::fs::rename(&part, path)?;
                Ok(bytes)
            });
            if result.is_err() {
                // Best effort: the failure that led here is the one to tell.
                let _ = std::fs::remove_file(&part);
            }
            result
        });
    written.map_err(failed)
}
