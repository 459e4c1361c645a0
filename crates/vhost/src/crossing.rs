//! Who may have the state cross, when, and which state.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferryfs_core::service::{Crossing, Service, StandingRequest};

use crate::device::Device;
use crate::precopy::Precopy;
use crate::rings::Rings;
use crate::transfer::{Channel, Direction};

/// Buffer between the state stream's writer and the front-end's pipe, in bytes: serializers
/// write a few bytes at a time.
const CHANNEL_BUFFER: usize = 64 << 10;

/// Buffer between the pipe and the stream's reader, in bytes: for what stands between the
/// payloads, which are larger and go past it.
const LOAD_BUFFER: usize = 4 << 10;

/// How a guest's state crosses when its VM migrates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MigrationType {
    /// Not at all: front-ends are offered neither `DEVICE_STATE` nor a dirty log, and
    /// refuse to migrate.
    None,
    /// By other means than the front-end, to which a state of 0 bytes is given, and
    /// from which nothing else is taken.
    External,
    /// Through the front-end.
    #[default]
    Internal,
}

/// Who asks for a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The front-end.
    FrontEnd,
    /// An operator, on the control socket.
    Operator,
}

impl<S: Service + Crossing> Device<S> {
    /// Starts to save to, or to load from, `file`.
    ///
    /// # Errors
    /// The state does not cross now, or not this way; the text says what to do.
    pub(crate) fn start_transfer(
        &self,
        asker: Asker,
        direction: Direction,
        file: File,
    ) -> io::Result<()> {
        // No front-end comes or goes meanwhile.
        let _gate = self.gate();
        let way = Way::of(self.config().migration, asker);
        if way == Way::Closed {
            return Err(io::Error::other(
                "migration is switched off on this daemon (--migration-type none)",
            ));
        }
        if way == Way::Token && !self.config().control_socket {
            return Err(io::Error::other(
                "this daemon's state does not go through the front-end (--migration-type \
                 external), and there is no way to fetch it: start the daemon with \
                 --control-socket",
            ));
        }
        let rings = self.rings();
        if rings.is_none() && asker == Asker::FrontEnd {
            return Err(io::Error::other("no front-end is connected"));
        }
        if let Some(queue) = rings.as_ref().and_then(|rings| rings.first_running()) {
            return Err(io::Error::other(format!(
                "queue {queue} is running: {}",
                match asker {
                    Asker::FrontEnd => "the front-end must stop all rings first",
                    Asker::Operator => "the VM must be stopped first, or its VMM be gone",
                }
            )));
        }
        let ran = rings.as_ref().is_some_and(|rings| rings.have_run());
        if ran && way == Way::Whole && (asker, direction) == (Asker::Operator, Direction::Load) {
            return Err(io::Error::other(
                "the guest that is served here has a state: load into a daemon whose VMM has not \
                 resumed its guest yet",
            ));
        }
        if direction == Direction::Save {
            // What is known by now is told by now.
            self.precopy.wait();
            self.service().may_save().map_err(io::Error::other)?;
        }
        let job = Job {
            service: Arc::clone(self.service()),
            precopy: Arc::clone(&self.precopy),
            expected: Arc::clone(&self.expected),
            way,
            direction,
            asker,
            given: self.expects_guest() && !ran,
            held: Held::new(rings),
        };
        self.transfers
            .start(asker, direction, file, move |channel| job.run(channel))
    }
}

/// A transfer, in a thread of its own.
struct Job<S> {
    service: Arc<S>,
    precopy: Arc<Precopy<S>>,
    expected: Arc<Expected>,
    way: Way,
    direction: Direction,
    asker: Asker,
    /// The guest is still to come, and its state is here already.
    given: bool,
    held: Held,
}

impl<S: Service + Crossing> Job<S> {
    fn run(self, channel: Channel) -> io::Result<()> {
        let service = &*self.service;
        match (self.direction, self.way) {
            (_, Way::Closed) => Err(io::Error::other("migration is switched off")),
            (Direction::Save, Way::Token) => {
                // Dropping the channel is the end of a stream of 0 bytes.
                log::info!(
                    "state of 0 bytes given to the front-end (--migration-type external): fetch \
                     the guest's with `ferryctl save` from the control socket"
                );
                Ok(())
            }
            (Direction::Save, Way::Whole) => {
                // What precopy was told is done in the background.
                self.precopy.wait();
                let standing = match &self.held.0 {
                    Some(rings) => rings.standing(),
                    None => self.expected.standing(),
                };
                save(service, &standing, channel)
            }
            (Direction::Load, Way::Token) => load_nothing(
                service,
                channel,
                "--migration-type external takes none through the front-end; let the source have \
                 the same type, or this daemon be of type internal",
            ),
            (Direction::Load, Way::Whole) if self.asker == Asker::FrontEnd && self.given => {
                load_nothing(
                    service,
                    channel,
                    "it was given its guest's state before, and the front-end sends another; \
                     start the daemon without a state file where the front-end brings the state",
                )
            }
            (Direction::Load, Way::Whole) => {
                let standing = load(service, channel)?;
                if let Some(rings) = &self.held.0 {
                    rings.adopt(&standing);
                }
                if self.asker == Asker::Operator {
                    self.expected.expect(standing);
                }
                Ok(())
            }
        }
    }
}

/// The guest whose state is here, and which has still to come itself.
#[derive(Default)]
pub(crate) struct Expected {
    waits: AtomicBool,
    /// What stands over of it.
    standing: Mutex<Vec<StandingRequest>>,
}

impl Expected {
    /// A guest is expected from now on.
    pub(crate) fn expect(&self, standing: Vec<StandingRequest>) {
        *self.lock() = standing;
        self.waits.store(true, Ordering::SeqCst);
    }

    /// It has come, or will not.
    pub(crate) fn is_over(&self) {
        self.waits.store(false, Ordering::SeqCst);
    }

    /// Whether it has still to come.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Ordering::SeqCst)
    }

    /// What stands over of it; nothing where none is expected.
    pub(crate) fn standing(&self) -> Vec<StandingRequest> {
        match self.waits() {
            true => self.lock().clone(),
            false => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StandingRequest>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may come and go, on the way that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing.
    Closed,
    /// A stream of 0 bytes.
    Token,
    /// The guest's state.
    Whole,
}

impl Way {
    fn of(migration: MigrationType, asker: Asker) -> Way {
        match (migration, asker) {
            (MigrationType::None, _) => Way::Closed,
            (MigrationType::External, Asker::FrontEnd) => Way::Token,
            (MigrationType::External, Asker::Operator) | (MigrationType::Internal, _) => Way::Whole,
        }
    }
}

/// Holds all requests back for as long as it lives: a front-end that starts its
/// rings during a transfer is served after it.
struct Held(Option<Arc<Rings>>);

impl Held {
    fn new(rings: Option<Arc<Rings>>) -> Held {
        if let Some(rings) = &rings {
            rings.hold();
        }
        Held(rings)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(rings) = &self.0 {
            rings.release();
        }
    }
}

fn save<S: Crossing>(
    service: &S,
    standing: &[StandingRequest],
    channel: Channel,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(CHANNEL_BUFFER, channel);
    match service.save(standing, &mut out) {
        Ok(report) => out.flush().inspect_err(|e| {
            log::error!(
                "device state not saved: {e} before the last of its {} bytes",
                report.bytes
            );
        }),
        Err(e) => {
            // What is in the buffer is of no use to anyone.
            let _ = out.into_parts();
            Err(io::Error::other(e))
        }
    }
}

/// Loads what comes through `channel`. Answers what stands over.
fn load<S: Crossing>(service: &S, channel: Channel) -> io::Result<Vec<StandingRequest>> {
    let mut input = BufReader::with_capacity(LOAD_BUFFER, channel);
    service
        .load(&mut input)
        .map(|report| report.standing)
        .map_err(io::Error::other)
}

/// Sees that nothing comes through `channel`, and that a state is here without.
fn load_nothing<S: Crossing>(service: &S, channel: Channel, otherwise: &str) -> io::Result<()> {
    let mut input = BufReader::with_capacity(LOAD_BUFFER, channel);
    if !input.fill_buf()?.is_empty() {
        let why = format!("state not loaded, this daemon is as it was: {otherwise}");
        log::error!("{why}");
        return Err(io::Error::other(why));
    }
    // Whoever has no state says so.
    service
        .load(&mut input)
        .map(drop)
        .inspect_err(|_| {
            log::error!(
                "a state of 0 bytes says that the guest's came by other means, and none did: give \
                 it to this daemon by --state-file, or by `ferryctl load` on its control socket \
                 before the VMM asks"
            );
        })
        .map_err(io::Error::other)
}
