//! A server whose requests say what it does.

use std::io::{Read, Write};
use std::sync::{Condvar, Mutex};

use ferryfs_core::io::{ReplyWriter, RequestIo, RequestReader};
use ferryfs_core::service::{Crossing, CrossingError, LoadReport, SaveReport, Service};

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
    /// What save writes, and where load puts what it reads.
    pub stream: Vec<u8>,
    pub saving_fails: bool,
    /// Cancelling precopy takes until this is cleared.
    pub cancel_is_slow: bool,
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
    fn handle<I: RequestIo>(&self, mut io: I) -> usize {
        self.with(|s| s.requests += 1);
        let mut request = vec![0; io.reader().remaining()];
        io.reader().read_exact(&mut request).unwrap();
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
        let mut header = [0; 16];
        header[..4].copy_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        header[4..8].copy_from_slice(&i32::to_ne_bytes(error));
        io.finish(&header).unwrap()
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

impl Crossing for Scripted {
    fn begin_precopy(&self) {
        self.with(|s| s.calls.push("begin"));
    }

    fn cancel_precopy(&self) {
        self.block_while(|s| s.cancel_is_slow);
        self.with(|s| s.calls.push("cancel"));
    }

    fn save(&self, out: &mut dyn Write) -> Result<SaveReport, CrossingError> {
        self.block_while(|s| s.save_is_slow);
        let (stream, fails) = self.with(|s| {
            s.calls.push("save");
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
        self.with(|s| s.stream = stream);
        Ok(LoadReport::default())
    }
}
