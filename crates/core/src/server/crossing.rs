//! The server's state leaving and arriving: session and file system as one
//! stream.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ferryfs_state::packed::{PackedFs, PackedState};
use ferryfs_state::pieces::{write_pieces, Piece};
use ferryfs_state::{
    error_line, read_packed, Format, FsState, Limits, Registry, Remap, Request, Session, State,
    StateError, StateWriter, WriteOptions, WriterInfo,
};

use super::{init, Server};
use crate::abi::init_flag_names;
use crate::migrate::{Collected, MigrateFs};
use crate::parallel::drop_later;
use crate::service::{Crossing, CrossingError, LoadReport, SaveReport, StandingRequest};

/// How a server's state is written, and what it can read.
#[derive(Clone)]
pub struct CrossingConfig {
    registry: Registry,
    format: StateWriter,
    writer: WriterInfo,
    limits: Limits,
    options: WriteOptions,
    remaps: Vec<Remap>,
}

impl CrossingConfig {
    /// Reads any format and dialect of `registry` within `limits`, and writes
    /// `format`, which is one of them, as `writer`.
    ///
    /// # Errors
    /// [`StateError::UnknownFormat`].
    pub fn new(
        registry: Registry,
        format: &str,
        writer: WriterInfo,
        limits: Limits,
    ) -> Result<CrossingConfig, StateError> {
        Ok(CrossingConfig {
            format: registry.writer(format)?,
            registry,
            writer,
            limits,
            options: WriteOptions::default(),
            remaps: Vec::new(),
        })
    }

    /// Writes for readers that `options` describe.
    #[must_use]
    pub fn with_options(mut self, options: WriteOptions) -> CrossingConfig {
        self.options = options;
        self
    }
}

impl CrossingConfig {
    /// The format in which states can be encoded before they are written.
    fn ahead(&self) -> Option<&Arc<dyn Format>> {
        self.format.ahead(&self.options)
    }

    /// Looks for what a state has at the old paths at the new ones, one mapping after the
    /// other.
    #[must_use]
    pub fn with_remaps(mut self, remaps: Vec<Remap>) -> CrossingConfig {
        self.remaps = remaps;
        self
    }

    /// # Errors
    /// In words: a mapping makes no sense of this state.
    fn remap(&self, packed: PackedFs) -> Result<PackedFs, String> {
        if self.remaps.is_empty() {
            return Ok(packed);
        }
        let mut fs = FsState::from(packed);
        for remap in &self.remaps {
            match remap.apply(&mut fs) {
                Ok(0) => log::info!("nothing in the state lies at the old path of {remap}"),
                Ok(n) => log::info!("{n} records of the state are looked for as {remap} says"),
                Err(why) => return Err(format!("--remap-path {remap}: {why}")),
            }
        }
        Ok(fs.into())
    }
}

impl fmt::Debug for CrossingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossingConfig")
            .field("registry", &self.registry)
            .field("format", &self.format.name())
            .field("writer", &self.writer)
            .field("limits", &self.limits)
            .field("options", &self.options)
            .field("remaps", &self.remaps)
            .finish()
    }
}

impl<F: MigrateFs> Server<F> {
    fn save_state(
        &self,
        standing: &[StandingRequest],
        out: &mut dyn Write,
    ) -> Result<SaveReport, CrossingError> {
        let config = self.config.crossing.as_ref().ok_or_else(|| {
            CrossingError::Collect("this server was built with no state format".into())
        })?;
        let session = self.session();
        let collected = match config.ahead() {
            Some(format) => self.fs.collect_in(format),
            None => self.fs.collect().map(Collected::Whole),
        };
        let (mut fs, mut pieces) = match collected.map_err(CrossingError::Collect)? {
            Collected::Whole(fs) => (fs, None),
            Collected::Pieces { rest, pieces } => (rest, Some(pieces)),
        };
        if session.is_none() {
            // Nobody holds the root either; the counters are all there is to say.
            pieces = None;
            fs = FsState {
                next_inode: fs.next_inode,
                next_handle: fs.next_handle,
                ..FsState::default()
            };
        }
        fs.requests = standing
            .iter()
            .map(|&StandingRequest { queue, head }| Request { queue, head })
            .collect();
        let inodes = match &pieces {
            Some(pieces) => pieces.iter().map(Piece::inodes).sum(),
            None => fs.inodes.len() as u64,
        };
        let handles = fs.handles.len() as u64;
        let state = State { session, fs };
        // Before whoever reads the stream can have all of it.
        self.fs.let_go();
        let bytes = match (pieces, config.ahead()) {
            (Some(pieces), Some(format)) => {
                let forced = config.options.forced;
                let written = write_pieces(state, &pieces, &**format, &config.writer, forced, out);
                drop_later(inodes as usize, pieces);
                written
            }
            _ => self.write_whole(config, state, out),
        }
        .map_err(CrossingError::Write)
        .inspect_err(|_| self.fs.take_back())?;
        Ok(SaveReport {
            inodes,
            handles,
            bytes,
        })
    }

    /// Writes a state that is there as a whole. Answers the stream's length in bytes.
    fn write_whole(
        &self,
        config: &CrossingConfig,
        state: State,
        out: &mut dyn Write,
    ) -> Result<u64, StateError> {
        let CrossingConfig {
            format,
            writer,
            options,
            ..
        } = config;
        let (bytes, losses) = format.write_with(&state, writer, options, out)?;
        for loss in losses.iter() {
            log::warn!("left out of {}: {loss}", options.target(format));
        }
        drop_later(state.fs.inodes.len(), state);
        Ok(bytes)
    }

    /// Takes over a state that comes from elsewhere than the device's channel, as
    /// from a file: like [`Crossing::load`], but neither is anything logged nor is a
    /// stream of 0 bytes a state.
    ///
    /// # Errors
    /// As [`Crossing::load`]: the server is as it was.
    pub fn restore(&self, input: &mut dyn Read) -> Result<LoadReport, CrossingError> {
        let config = self.config.crossing.as_ref().ok_or_else(|| {
            CrossingError::Restore("this server was built with no state format".into())
        })?;
        let (_, PackedState { session: new, fs }) =
            read_packed(input, &config.registry, &config.limits).map_err(CrossingError::Read)?;
        let fs = config.remap(fs).map_err(CrossingError::Restore)?;

        // From here on nobody else changes the session; up to `apply`, nothing
        // that is live is touched.
        let mut session = self.session.lock();
        let Some(new) = new else {
            // The source had no guest: neither have we.
            self.drop_session(&mut session);
            return Ok(LoadReport::default());
        };
        self.check_session(&new).map_err(CrossingError::Restore)?;
        let mut report = LoadReport {
            inodes: fs.inodes.len() as u64,
            handles: fs.rest.handles.len() as u64,
            faulted: 0,
            standing: fs
                .rest
                .requests
                .iter()
                .map(|&Request { queue, head }| StandingRequest { queue, head })
                .collect(),
        };
        let plan = self
            .fs
            .plan_packed(fs, new.flags)
            .map_err(CrossingError::Restore)?;
        session.set(None);
        self.fs.adopt_session(new.flags);
        report.faulted = self.fs.apply(plan);
        session.set(Some(new));
        Ok(report)
    }

    /// Whether a session that began elsewhere can go on here.
    fn check_session(&self, session: &Session) -> Result<(), String> {
        let unknown = session.flags & !init::POSSIBLE;
        if unknown != 0 {
            return Err(format!(
                "the guest's session uses {}, which is not served here; \
                 use the release that wrote the state, or a newer one",
                init_flag_names(unknown)
            ));
        }
        self.fs.check_session(session.flags)
    }
}

impl<F: MigrateFs> Crossing for Server<F> {
    fn begin_precopy(&self) {
        let config = self.config.crossing.as_ref();
        match config.and_then(CrossingConfig::ahead) {
            Some(format) => self.fs.begin_precopy_in(format),
            None => self.fs.begin_precopy(),
        }
    }

    fn cancel_precopy(&self) {
        self.fs.cancel_precopy();
    }

    fn may_save(&self) -> Result<(), CrossingError> {
        self.fs.may_save().map_err(CrossingError::Collect)
    }

    fn save(
        &self,
        standing: &[StandingRequest],
        out: &mut dyn Write,
    ) -> Result<SaveReport, CrossingError> {
        match self.save_state(standing, out) {
            Ok(report) => {
                log::info!(
                    "state saved: {} bytes, {} inodes, {} handles",
                    report.bytes,
                    report.inodes,
                    report.handles
                );
                Ok(report)
            }
            Err(e) => {
                log::error!("state not saved, the guest stays here: {}", error_line(&e));
                Err(e)
            }
        }
    }

    fn load(&self, input: &mut dyn Read) -> Result<LoadReport, CrossingError> {
        let mut input = Counted { input, bytes: 0 };
        match self.restore(&mut input) {
            // Migration type external: the front-end knows that it brings nothing.
            Err(CrossingError::Read(StateError::Empty)) if self.session().is_some() => {
                log::info!("state of 0 bytes: the guest goes on with the state that is here");
                Ok(LoadReport::default())
            }
            Ok(report) => {
                log::info!(
                    "state loaded: {} bytes, {} inodes, {} handles, {} not found",
                    input.bytes,
                    report.inodes,
                    report.handles,
                    report.faulted
                );
                Ok(report)
            }
            Err(e) => {
                log::error!(
                    "state not loaded after {} bytes, this daemon is as it was: {}",
                    input.bytes,
                    error_line(&e)
                );
                Err(e)
            }
        }
    }
}

/// Counts what is read.
struct Counted<'a> {
    input: &'a mut dyn Read,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }
}
