//! The wire's primitives, read with bounds and with a place for every complaint.

use std::io::{ErrorKind, Read};

use ferryfs_state::DialectError;

/// What is said of bytes that no release of virtiofsd writes. Forks have changed
/// the records and kept the tag, so that damage and dialect look alike.
fn malformed(offset: u64, what: String) -> DialectError {
    DialectError::Malformed {
        what: format!("unknown virtiofsd dialect, or damaged: {what}"),
        offset,
    }
}

/// A stream being read.
pub(crate) struct Input<'a> {
    inner: &'a mut dyn Read,
    chunk: Vec<u8>,
    at: usize,
    end: usize,
    /// Bytes taken so far.
    offset: u64,
    limit: u64,
}

impl<'a> Input<'a> {
    /// Reads at most `limit` bytes of `inner`.
    pub(crate) fn new(inner: &'a mut dyn Read, limit: u64) -> Self {
        Input {
            inner,
            chunk: vec![0; 64 << 10],
            at: 0,
            end: 0,
            offset: 0,
            limit,
        }
    }

    /// Bytes taken so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// A complaint about what begins `back` bytes before here.
    pub(crate) fn complain(&self, from: u64, what: impl Into<String>) -> DialectError {
        malformed(from, what.into())
    }

    fn fill(&mut self) -> Result<bool, DialectError> {
        while self.at == self.end {
            match self.inner.read(&mut self.chunk) {
                Ok(0) => return Ok(false),
                Ok(n) => (self.at, self.end) = (0, n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    fn byte(&mut self, what: &str) -> Result<u8, DialectError> {
        if !self.fill()? {
            return Err(malformed(
                self.offset,
                format!("the stream ends within {what}"),
            ));
        }
        if self.offset >= self.limit {
            return Err(DialectError::Refused(format!(
                "the stream is longer than the limit of {} bytes",
                self.limit
            )));
        }
        let byte = self.chunk[self.at];
        self.at += 1;
        self.offset += 1;
        Ok(byte)
    }

    /// An unsigned number, seven bits a byte, the lowest first.
    pub(crate) fn number(&mut self, what: &str) -> Result<u64, DialectError> {
        let start = self.offset;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A longer spelling of the same number is nobody's output.
                return match byte == 0 && shift > 0 {
                    true => Err(malformed(start, format!("{what} is padded with zeroes"))),
                    false => Ok(value),
                };
            }
        }
        Err(malformed(start, format!("{what} is beyond 64 bits")))
    }

    /// A signed 32-bit number, zigzag.
    pub(crate) fn signed(&mut self, what: &str) -> Result<i32, DialectError> {
        let start = self.offset;
        let raw = self.number(what)?;
        let raw = u32::try_from(raw)
            .map_err(|_| malformed(start, format!("{what} is beyond 32 bits")))?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// One byte, 0 or 1: a bool, or whether an option follows.
    pub(crate) fn flag(&mut self, what: &str) -> Result<bool, DialectError> {
        let start = self.offset;
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(malformed(
                start,
                format!("{other:#04x} where 0 or 1 must say {what}"),
            )),
        }
    }

    /// How many records follow; at most `limit`.
    pub(crate) fn count(&mut self, what: &str, limit: u64) -> Result<u64, DialectError> {
        let start = self.offset;
        match self.number(what)? {
            n if n <= limit => Ok(n),
            n => Err(DialectError::Malformed {
                what: format!("{what} is {n}, beyond the limit of {limit}"),
                offset: start,
            }),
        }
    }

    /// A length and as many bytes, at most `limit`.
    pub(crate) fn bytes(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, DialectError> {
        let mut left = self.count(what, limit)? as usize;
        let mut out = Vec::with_capacity(left.min(256));
        while left > 0 {
            // The first byte by the way that checks ends and limits.
            out.push(self.byte(what)?);
            left -= 1;
            let room = usize::try_from(self.limit - self.offset).unwrap_or(usize::MAX);
            let n = left.min(self.end - self.at).min(room);
            out.extend_from_slice(&self.chunk[self.at..self.at + n]);
            self.at += n;
            self.offset += n as u64;
            left -= n;
        }
        Ok(out)
    }

    /// The same, as text.
    pub(crate) fn text(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, DialectError> {
        let start = self.offset;
        let bytes = self.bytes(what, limit)?;
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(malformed(start, format!("{what} is not UTF-8"))),
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(mut self) -> Result<(), DialectError> {
        match self.fill()? {
            false => Ok(()),
            true => Err(malformed(
                self.offset,
                "bytes follow where the stream must end".to_owned(),
            )),
        }
    }
}
