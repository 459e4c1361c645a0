//! Keeps a queue filled: so many operations in flight, each a sequence of requests.
//!
//! The buffers of every place in flight are allocated once, so that the generator
//! costs a fraction of what a daemon does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferryfs_frontend::call::{self, Call, Payload};
use ferryfs_frontend::fuse;
use ferryfs_frontend::memory::{GuestBuffer, GuestMemory};
use ferryfs_frontend::queue::{Keep, Queue, QueueError, Segment, Token};
use ferryfs_frontend::raw::InHeader;
use ferryfs_frontend::shared::SharedQueue;
use ferryfs_frontend::FuseError;
use hdrhistogram::Histogram;

use crate::error::BenchError;

/// A request whatever its answer is.
#[derive(Debug)]
pub struct Request {
    opcode: u32,
    nodeid: u64,
    args: Vec<u8>,
    payload: Option<(Arc<GuestBuffer>, usize)>,
    room: usize,
    in_data: bool,
}

impl<R> From<Call<R>> for Request {
    fn from(call: Call<R>) -> Self {
        Request {
            opcode: call.opcode,
            nodeid: call.nodeid,
            args: call.args,
            payload: match call.payload {
                Payload::Guest(buffer, len) => Some((buffer, len)),
                Payload::None | Payload::Bytes(_) => None,
            },
            room: call.room,
            in_data: call.sink.is_some() || call.room > INLINE,
        }
    }
}

/// What comes next in an operation.
#[derive(Debug)]
pub enum Step {
    /// A request.
    Send(Request),
    /// Nothing: it is complete.
    Done,
}

impl Step {
    /// Sends `call` next.
    pub fn send<R>(call: Call<R>) -> Step {
        Step::Send(call.into())
    }
}

/// One operation in flight, as its program sees it.
#[derive(Debug)]
pub struct Place {
    /// Which of the queue's places, from 0.
    pub slot: usize,
    /// Number of this place's operation, from 0, over all runs.
    pub op: u64,
    /// Zero at the start of each operation; the program's otherwise.
    pub stage: u32,
    /// The program's.
    pub node: u64,
    /// The program's.
    pub fh: u64,
    /// The program's.
    pub offset: u64,
    /// The program's.
    pub count: u64,
    /// File data and large answers; this place's alone.
    pub data: Arc<GuestBuffer>,
    /// Lookups to be given back: (node id, count).
    pub forgets: Vec<(u64, u64)>,
}

/// An answer. Bodies of more than [`INLINE`] bytes are in the place's data.
#[derive(Debug)]
pub struct Answer {
    opcode: u32,
    nodeid: u64,
    /// The errno, positive; 0 for success.
    pub errno: i32,
    /// Bytes of the body.
    pub len: usize,
    head: [u8; INLINE],
}

impl Answer {
    /// An error if the daemon answered with one.
    pub fn ok(&self) -> Result<&Self, BenchError> {
        match self.errno {
            0 => Ok(self),
            errno => Err(FuseError {
                opcode: self.opcode,
                nodeid: self.nodeid,
                errno,
            }
            .into()),
        }
    }

    /// The little-endian u64 at `at` of a small body.
    pub fn u64(&self, at: usize) -> u64 {
        let bytes = self.head[at..at + 8].try_into();
        u64::from_le_bytes(bytes.unwrap_or_default())
    }

    /// The little-endian u32 at `at` of a small body.
    pub fn u32(&self, at: usize) -> u32 {
        let bytes = self.head[at..at + 4].try_into();
        u32::from_le_bytes(bytes.unwrap_or_default())
    }
}

/// What is done over and over.
pub trait Program: Send {
    /// The next step of the operation at `place`; `answer` is none at its start.
    ///
    /// # Errors
    /// When the answer is not what it should be.
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError>;

    /// Fills a place's data before the first operation.
    ///
    /// # Errors
    /// [`BenchError::Memory`].
    fn fill(&mut self, _slot: usize, _data: &GuestBuffer) -> Result<(), BenchError> {
        Ok(())
    }

    /// Bytes of file data moved by an operation.
    fn bytes(&self) -> u64 {
        0
    }

    /// From now on operations leave their traces on the disk.
    fn keep(&mut self) {}

    /// Looks on the host's disk whether all is as it should be; things compared.
    ///
    /// # Errors
    /// [`BenchError::Wrong`].
    fn verify(&mut self) -> Result<u64, BenchError>;
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// After so many operations.
    Ops(u64),
    /// After so long.
    Time(Duration),
}

/// What a run was.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Complete operations.
    pub ops: u64,
    /// When it began.
    pub start: Instant,
    /// When the last operation was complete.
    pub end: Instant,
}

/// How a lane sends.
#[derive(Debug, Clone, Copy)]
pub struct LaneConfig {
    /// Operations in flight.
    pub depth: usize,
    /// Bytes of data per place.
    pub data: usize,
    /// Caller.
    pub uid: u32,
    /// Look at the used ring instead of sleeping on the call eventfd.
    pub polling: bool,
    /// Most bytes of file data per descriptor.
    pub segment: usize,
    /// How long an answer may take.
    pub timeout: Duration,
}

struct Slot {
    place: Place,
    request: Arc<GuestBuffer>,
    out_at: usize,
    in_data: bool,
    room: usize,
    unique: u64,
    opcode: u32,
    nodeid: u64,
    token: Option<Token>,
    started: Instant,
}

/// Small bodies lie beside their request up to this many bytes.
pub const INLINE: usize = 256;
/// Bytes of a place's request buffer.
const REQUEST: usize = 2048;
/// Forgets are sent when so many have come together.
const FORGETS: usize = 64;
/// Most forgets in one request.
const MOST_FORGETS: usize = 1000;

/// One queue with its places.
pub struct Lane {
    config: LaneConfig,
    memory: Arc<GuestMemory>,
    queue: Arc<SharedQueue>,
    hiprio: Arc<SharedQueue>,
    slots: Vec<Slot>,
    forgets: Vec<(u64, u64)>,
    chain: Vec<Segment>,
    unique: u64,
    answer: Answer,
}

impl Lane {
    /// A lane on `queue`, which nobody else may use meanwhile.
    ///
    /// # Errors
    /// [`BenchError::Memory`].
    pub fn new(
        memory: &Arc<GuestMemory>,
        hiprio: &Arc<SharedQueue>,
        queue: &Arc<SharedQueue>,
        config: LaneConfig,
    ) -> Result<Self, BenchError> {
        let mut slots = Vec::new();
        for slot in 0..config.depth {
            let data = Arc::new(memory.alloc(config.data.max(4096))?);
            slots.push(Slot {
                place: Place {
                    slot,
                    op: 0,
                    stage: 0,
                    node: 0,
                    fh: 0,
                    offset: 0,
                    count: 0,
                    data,
                    forgets: Vec::new(),
                },
                request: Arc::new(memory.alloc(REQUEST)?),
                out_at: 0,
                in_data: false,
                room: 0,
                unique: 0,
                opcode: 0,
                nodeid: 0,
                token: None,
                started: Instant::now(),
            });
        }
        Ok(Lane {
            config,
            memory: Arc::clone(memory),
            queue: Arc::clone(queue),
            hiprio: Arc::clone(hiprio),
            slots,
            forgets: Vec::new(),
            chain: Vec::new(),
            // Away from the numbers the session has given out.
            unique: 1 << 40,
            answer: Answer {
                opcode: 0,
                nodeid: 0,
                errno: 0,
                len: 0,
                head: [0; INLINE],
            },
        })
    }

    /// Operations in flight.
    pub fn depth(&self) -> usize {
        self.config.depth
    }

    /// Lets the program fill each place's data.
    ///
    /// # Errors
    /// [`BenchError::Memory`].
    pub fn fill(&mut self, program: &mut dyn Program) -> Result<(), BenchError> {
        for slot in &self.slots {
            program.fill(slot.place.slot, &slot.place.data)?;
        }
        Ok(())
    }

    /// Runs operations until the goal; returns when all are complete. Their latencies
    /// in ns go to `latencies`.
    ///
    /// # Errors
    /// Any [`BenchError`]; the lane is of no more use then.
    pub fn run(
        &mut self,
        program: &mut dyn Program,
        goal: Goal,
        latencies: &mut Histogram<u64>,
    ) -> Result<Run, BenchError> {
        let queue = Arc::clone(&self.queue);
        let run = queue.with(|queue| self.run_on(queue, program, goal, latencies))?;
        self.send_forgets(1)?;
        self.drain_forgets()?;
        Ok(run)
    }

    fn run_on(
        &mut self,
        queue: &mut Queue,
        program: &mut dyn Program,
        goal: Goal,
        latencies: &mut Histogram<u64>,
    ) -> Result<Run, BenchError> {
        queue.set_polling(self.config.polling);
        let start = Instant::now();
        let (most, until) = match goal {
            Goal::Ops(n) => (n, None),
            Goal::Time(time) => (u64::MAX, Some(start + time)),
        };
        let (mut begun, mut ops, mut in_flight) = (0, 0, 0);
        let mut end = start;
        for slot in 0..self.slots.len() {
            if begun < most {
                begun += 1;
                in_flight += 1;
                self.begin(queue, program, slot)?;
            }
        }
        queue.kick()?;
        while in_flight > 0 {
            let mut any = false;
            while let Some(done) = queue.pop()? {
                any = true;
                let token = Some(done.token);
                let Some(slot) = self.slots.iter().position(|slot| slot.token == token) else {
                    continue;
                };
                if self.advance(queue, program, slot, done.written)? {
                    continue;
                }
                end = Instant::now();
                let took = (end - self.slots[slot].started).as_nanos() as u64;
                latencies.saturating_record(took);
                ops += 1;
                if begun < most && until.is_none_or(|until| end < until) {
                    begun += 1;
                    self.begin(queue, program, slot)?;
                } else {
                    in_flight -= 1;
                }
            }
            if any {
                queue.kick()?;
                self.send_forgets(FORGETS)?;
            } else {
                self.wait(queue)?;
            }
        }
        Ok(Run { ops, start, end })
    }

    /// Returns when something may have come back.
    fn wait(&self, queue: &mut Queue) -> Result<(), BenchError> {
        let deadline = Instant::now() + self.config.timeout;
        if self.config.polling {
            let seen = queue.used_idx();
            for spins in 0u32.. {
                if queue.ring().used_idx() != seen {
                    return Ok(());
                }
                std::hint::spin_loop();
                if spins % 4096 == 4095 && Instant::now() >= deadline {
                    break;
                }
            }
            return Err(queue.timed_out(self.config.timeout).into());
        }
        if !queue.arm()? {
            return Ok(());
        }
        let waited = queue.call_fd().wait(deadline);
        match waited.map_err(|source| QueueError::Event {
            what: "poll",
            source,
        })? {
            true => Ok(()),
            false => Err(queue.timed_out(self.config.timeout).into()),
        }
    }

    fn begin(
        &mut self,
        queue: &mut Queue,
        program: &mut dyn Program,
        slot: usize,
    ) -> Result<(), BenchError> {
        let place = &mut self.slots[slot].place;
        place.stage = 0;
        let step = program.step(place, None)?;
        self.slots[slot].started = Instant::now();
        match step {
            Step::Send(request) => self.send(queue, slot, request),
            Step::Done => Err(BenchError::Wrong(
                "an operation without a request".to_owned(),
            )),
        }
    }

    /// Takes an answer to the program; false when the operation is complete.
    fn advance(
        &mut self,
        queue: &mut Queue,
        program: &mut dyn Program,
        slot: usize,
        written: u32,
    ) -> Result<bool, BenchError> {
        let at = &mut self.slots[slot];
        at.token = None;
        let mut head = [0; fuse::OUT_HEADER];
        at.request.read_at(at.out_at, &mut head)?;
        let word = |at| head[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let (len, error) = (word(0), word(4) as i32);
        let unique = u64::from(word(8)) | u64::from(word(12)) << 32;
        let most = fuse::OUT_HEADER + at.room;
        let well_formed = len == written
            && (fuse::OUT_HEADER..=most).contains(&(len as usize))
            && unique == at.unique
            && error <= 0;
        if !well_formed {
            let name = fuse::opcode_name(at.opcode);
            return Err(BenchError::Wrong(format!(
                "answer to {name} {}: {len} bytes, error {error}, unique {unique}; {written} bytes written",
                at.unique
            )));
        }
        let answer = &mut self.answer;
        answer.opcode = at.opcode;
        answer.nodeid = at.nodeid;
        answer.errno = -error;
        answer.len = len as usize - fuse::OUT_HEADER;
        if !at.in_data {
            let body = at.out_at + fuse::OUT_HEADER;
            at.request
                .read_at(body, &mut answer.head[..answer.len.min(INLINE)])?;
        }
        let step = program.step(&mut at.place, Some(answer))?;
        if !at.place.forgets.is_empty() {
            self.forgets.append(&mut at.place.forgets);
        }
        match step {
            Step::Send(request) => {
                self.send(queue, slot, request)?;
                Ok(true)
            }
            Step::Done => {
                at.place.op += 1;
                Ok(false)
            }
        }
    }

    fn send(&mut self, queue: &mut Queue, slot: usize, request: Request) -> Result<(), BenchError> {
        self.unique += 2;
        let slot = &mut self.slots[slot];
        let payload = request.payload.as_ref().map_or(0, |(_, len)| *len);
        let args = request.args.len();
        let header = InHeader {
            len: (fuse::IN_HEADER + args + payload) as u32,
            opcode: request.opcode,
            unique: self.unique,
            nodeid: request.nodeid,
            uid: self.config.uid,
            gid: self.config.uid,
            pid: 1,
            total_extlen: 0,
        };
        slot.out_at = (fuse::IN_HEADER + args).next_multiple_of(8);
        slot.in_data = request.in_data;
        slot.room = request.room;
        slot.unique = self.unique;
        slot.opcode = request.opcode;
        slot.nodeid = request.nodeid;
        slot.request.write_at(0, &header.to_bytes())?;
        slot.request.write_at(fuse::IN_HEADER, &request.args)?;
        slot.request.write_at(slot.out_at, &[0; fuse::OUT_HEADER])?;

        let chain = &mut self.chain;
        chain.clear();
        let gpa = slot.request.gpa();
        let mut push = |gpa: u64, len: usize, writable: bool| {
            let mut done = 0;
            while done < len {
                let n = self.config.segment.min(len - done);
                chain.push(Segment {
                    gpa: gpa + done as u64,
                    len: n as u32,
                    writable,
                });
                done += n;
            }
        };
        push(gpa, fuse::IN_HEADER, false);
        push(gpa + fuse::IN_HEADER as u64, args, false);
        if let Some((data, len)) = &request.payload {
            push(data.gpa(), *len, false);
        }
        push(gpa + slot.out_at as u64, fuse::OUT_HEADER, true);
        if request.in_data {
            push(slot.place.data.gpa(), request.room, true);
        } else {
            let body = slot.out_at + fuse::OUT_HEADER;
            push(gpa + body as u64, request.room, true);
        }
        // The places keep their buffers as long as the lane lives.
        slot.token = Some(queue.submit(chain, Keep::default())?);
        Ok(())
    }

    /// Sends the forgets that have come together, if there are `least`.
    fn send_forgets(&mut self, least: usize) -> Result<(), BenchError> {
        while self.forgets.len() >= least.max(1) {
            let n = self.forgets.len().min(MOST_FORGETS);
            let call = call::batch_forget(&self.forgets[..n]);
            self.forgets.drain(..n);
            self.unique += 2;
            let header = InHeader {
                len: (fuse::IN_HEADER + call.args.len()) as u32,
                opcode: call.opcode,
                unique: self.unique,
                nodeid: 0,
                uid: 0,
                gid: 0,
                pid: 0,
                total_extlen: 0,
            };
            let len = header.len;
            let buffer = Arc::new(self.memory.alloc(len as usize)?);
            buffer.write_at(0, &header.to_bytes())?;
            buffer.write_at(fuse::IN_HEADER, &call.args)?;
            let segment = Segment {
                gpa: buffer.gpa(),
                len,
                writable: false,
            };
            let deadline = Instant::now() + self.config.timeout;
            loop {
                let sent = self.hiprio.with(|queue| -> Result<bool, QueueError> {
                    while queue.pop()?.is_some() {}
                    if !queue.has_room(1) {
                        return Ok(false);
                    }
                    let keep: Keep = [Some(Arc::clone(&buffer)), None, None];
                    queue.submit(&[segment], keep)?;
                    queue.kick()?;
                    Ok(true)
                })?;
                if sent {
                    break;
                }
                self.not_past(deadline)?;
            }
        }
        Ok(())
    }

    fn not_past(&self, deadline: Instant) -> Result<(), BenchError> {
        if Instant::now() >= deadline {
            let timeout = self.config.timeout;
            return Err(self.hiprio.with(|queue| queue.timed_out(timeout)).into());
        }
        std::thread::sleep(Duration::from_micros(50));
        Ok(())
    }

    fn drain_forgets(&self) -> Result<(), BenchError> {
        let deadline = Instant::now() + self.config.timeout;
        loop {
            let left = self.hiprio.with(|queue| -> Result<usize, QueueError> {
                while queue.pop()?.is_some() {}
                Ok(queue.in_flight())
            })?;
            if left == 0 {
                return Ok(());
            }
            self.not_past(deadline)?;
        }
    }
}
