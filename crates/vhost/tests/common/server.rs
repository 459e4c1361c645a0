//! A server whose requests say what it does.

use std::io::{Read, Write};
use std::sync::{Condvar, Mutex};

use ferryfs_core::io::{ReplyWriter, RequestIo, RequestReader};
use ferryfs_core::service::{
    Answer, Crossing, CrossingError, Later, LoadReport, SaveReport, Service, StandingRequest,
};

/// A request.
#[derive(Clone, Debug)]
pub enum Op {
    /// Answers these bytes.
    Echo(Vec<u8>),
    /// Answers so many bytes.
    Fill(u32),
    /// Waits to be released; answers EINTR when interrupted.
    Wait,
    /// Waits to be released, whatever happens.
    Insist,
    /// Stands over, or answers ENOLCK where it cannot.
    Defer,
    /// Stands over, and panics.
    DeferAndPanic,
    /// Panics.
    Panic,
}

impl Op {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Op::Echo(bytes) => [b"e", &bytes[..]].concat(),
            Op::Fill(len) => [b"f", &len.to_ne_bytes()[..]].concat(),
            Op::Wait => b"w".to_vec(),
            Op::Insist => b"i".to_vec(),
            Op::Defer => b"d".to_vec(),
            Op::DeferAndPanic => b"D".to_vec(),
            Op::Panic => b"p".to_vec(),
        }
    }
}

#[derive(Default)]
pub struct State {
    /// What was called, in order; requests are not in it.
    pub calls: Vec<&'static str>,
    pub requests: usize,
    pub waiting: usize,
    pub released: usize,
    interrupted: bool,
    /// Answers to what stands over.
    pub deferred: Vec<Box<dyn Answer>>,
    pub suspended: bool,
    /// What stood over when the state was saved, or does on the one that is loaded.
    pub standing: Vec<StandingRequest>,
    /// What save writes, and where load puts what it reads.
    pub stream: Vec<u8>,
    pub saving_fails: bool,
    /// Cancelling precopy takes until this is cleared.
    pub cancel_is_slow: bool,
    /// So does beginning it.
    pub begin_is_slow: bool,
    /// Saving takes until this is cleared.
    pub save_is_slow: bool,
}

#[derive(Default)]
pub struct Scripted {
    state: Mutex<State>,
    changed: Condvar,
}

impl Scripted {
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let answer = f(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        answer
    }

    pub fn calls(&self) -> Vec<&'static str> {
        self.with(|s| s.calls.clone())
    }

    fn block(&self, heed: bool) -> i32 {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        while state.released == 0 && !(heed && state.interrupted) {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        if state.released == 0 {
            return -libc::EINTR;
        }
        state.released -= 1;
        0
    }

    fn block_while(&self, is: impl Fn(&State) -> bool) {
        let mut state = self.state.lock().unwrap();
        while is(&state) {
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl Service for Scripted {
    fn handle_or_defer<I: RequestIo>(&self, mut io: I, later: &dyn Later) -> Option<usize> {
        let mut first = [0];
        let peeked = io.reader().remaining() == 1 && io.reader().read_exact(&mut first).is_ok();
        if !peeked || !matches!(first[0], b'd' | b'D') {
            return Some(self.serve(io, if peeked { first.to_vec() } else { Vec::new() }));
        }
        self.with(|s| s.requests += 1);
        match later.defer() {
            Some(answer) => {
                self.with(|s| s.deferred.push(answer));
                assert_ne!(first[0], b'D', "a request asks for it");
                None
            }
            None => {
                let header = Scripted::header(-libc::ENOLCK, 0);
                Some(io.finish(&header).unwrap())
            }
        }
    }

    fn suspend(&self) {
        self.with(|s| s.suspended = true);
    }

    fn proceed(&self) {
        self.with(|s| s.suspended = false);
    }

    fn handle<I: RequestIo>(&self, io: I) -> usize {
        self.serve(io, Vec::new())
    }

    fn reset(&self) {
        self.with(|s| s.calls.push("reset"));
    }

    fn interrupt(&self) {
        self.with(|s| {
            s.interrupted = true;
            s.calls.push("interrupt");
        });
    }

    fn resume(&self) {
        self.with(|s| {
            s.interrupted = false;
            s.calls.push("resume");
        });
    }
}

impl Scripted {
    /// Answers the first request that stands over; whether somebody waited for it.
    pub fn answer(&self, error: i32) -> bool {
        let answer = self.with(|s| s.deferred.remove(0));
        answer.send(&Scripted::header(error, 0))
    }

    fn header(error: i32, body: usize) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&(16 + body as u32).to_ne_bytes());
        header[4..8].copy_from_slice(&i32::to_ne_bytes(error));
        header
    }

    /// `taken` are the bytes of the request that have been read.
    fn serve<I: RequestIo>(&self, mut io: I, taken: Vec<u8>) -> usize {
        self.with(|s| s.requests += 1);
        let mut rest = vec![0; io.reader().remaining()];
        io.reader().read_exact(&mut rest).unwrap();
        let request = [taken, rest].concat();
        let (error, body) = match request.split_first() {
            Some((b'e', bytes)) => (0, bytes.to_vec()),
            Some((b'f', len)) => {
                let len = u32::from_ne_bytes(len.try_into().unwrap());
                (0, vec![0xab; len as usize])
            }
            Some((b'w', _)) => (self.block(true), Vec::new()),
            Some((b'i', _)) => (self.block(false), Vec::new()),
            Some((b'p', _)) => panic!("a request asks for it"),
            _ => return 0,
        };
        if !io.can_reply() || io.body().write_all(&body).is_err() {
            return 0;
        }
        io.finish(&Scripted::header(error, body.len())).unwrap()
    }
}

impl Crossing for Scripted {
    fn begin_precopy(&self) {
        self.with(|s| s.calls.push("begin"));
        self.block_while(|s| s.begin_is_slow);
    }

    fn cancel_precopy(&self) {
        self.block_while(|s| s.cancel_is_slow);
        self.with(|s| s.calls.push("cancel"));
    }

    fn save(
        &self,
        standing: &[StandingRequest],
        out: &mut dyn Write,
    ) -> Result<SaveReport, CrossingError> {
        self.block_while(|s| s.save_is_slow);
        let (stream, fails) = self.with(|s| {
            s.calls.push("save");
            s.standing = standing.to_vec();
            (s.stream.clone(), s.saving_fails)
        });
        if fails {
            return Err(CrossingError::Collect("told to fail".into()));
        }
        // By small pieces, as serializers do.
        for piece in stream.chunks(100) {
            out.write_all(piece)
                .map_err(|e| CrossingError::Collect(e.to_string()))?;
        }
        Ok(SaveReport {
            bytes: stream.len() as u64,
            ..SaveReport::default()
        })
    }

    fn load(&self, input: &mut dyn Read) -> Result<LoadReport, CrossingError> {
        self.with(|s| s.calls.push("load"));
        let mut stream = Vec::new();
        input
            .read_to_end(&mut stream)
            .map_err(|e| CrossingError::Restore(e.to_string()))?;
        if stream.starts_with(b"corrupt") {
            return Err(CrossingError::Restore("told to fail".into()));
        }
        let standing = self.with(|s| {
            s.stream = stream;
            s.standing.clone()
        });
        Ok(LoadReport {
            standing,
            ..LoadReport::default()
        })
    }
}
