//! A program that was started from the share goes on running, and pages in the
//! rest of itself after the crossing.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ferry_guest::{fixture, Expectation, MOUNT};

use super::Live;
use crate::program::{part, ARG, PARTS};
use crate::sys::{need, At, Failure, Result};

struct Program {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    next: usize,
}

/// Starts it and has it touch its first part.
pub fn prepare() -> Result<Box<dyn Live>> {
    let mut child = Command::new(Path::new(MOUNT).join(fixture::PROGRAM))
        .arg(ARG)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .at("start the program")?;
    let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::new("the program has no pipes"));
    };
    let mut program = Program {
        child,
        to,
        from: BufReader::new(from),
        next: 0,
    };
    program.ask()?;
    Ok(Box::new(program))
}

impl Program {
    fn ask(&mut self) -> Result<()> {
        writeln!(self.to, "{}", self.next).at("write to the program")?;
        let mut line = String::new();
        self.from.read_line(&mut line).at("read from the program")?;
        let want = format!("{:x}\n", part(self.next));
        need(line == want, || {
            format!("part {}: {line:?} instead of {want:?}", self.next)
        })?;
        // From the end backwards, where no read-ahead has been.
        self.next = (self.next + PARTS - 7) % PARTS;
        Ok(())
    }
}

impl Live for Program {
    fn verify(&mut self) -> Result<()> {
        (0..4).try_for_each(|_| self.ask())?;
        // A second instance is loaded by the daemon that serves now.
        let second = Command::new(Path::new(MOUNT).join(fixture::PROGRAM))
            .arg(ARG)
            .stdin(Stdio::null())
            .status()
            .at("start a second instance")?;
        need(second.success(), || format!("second instance: {second}"))
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        drop(self.to);
        let status = self.child.wait().at("wait for the program")?;
        need(status.success(), || format!("the program: {status}"))?;
        Ok(Vec::new())
    }
}
