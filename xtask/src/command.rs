//! Running other programs, with errors that say what was run and what it said.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fail::{need, Context, Fail, Result};

/// A command line to be run to its end.
pub struct Cmd(Command);

impl Cmd {
    /// `program`, to be found in PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self(command)
    }

    /// The cargo that runs this task.
    pub fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Appends arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.0.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.0.current_dir(dir);
        self
    }

    fn line(&self) -> String {
        std::iter::once(self.0.get_program())
            .chain(self.0.get_args())
            .map(|s| s.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it with its output going to the terminal.
    pub fn run(mut self) -> Result<()> {
        let line = self.line();
        let status = self.0.status().context(format_args!("cannot run {line}"))?;
        need(status.success(), || format!("{line}: {status}"))
    }

    /// Runs it with its output going to the terminal; `see` is shown each line of what
    /// it writes to standard output.
    pub fn run_seen(mut self, mut see: impl FnMut(&str)) -> Result<()> {
        let line = self.line();
        let cannot = || format!("cannot run {line}");
        let mut child = self.0.stdout(Stdio::piped()).spawn().context(cannot())?;
        let stdout = child.stdout.take().expect("a pipe was asked for");
        let mut echo = std::io::stdout();
        for said in BufReader::new(stdout).split(b'\n') {
            let said = said.context(cannot())?;
            echo.write_all(&said)
                .and_then(|()| echo.write_all(b"\n"))
                .context("standard output")?;
            see(&String::from_utf8_lossy(&said));
        }
        let status = child.wait().context(cannot())?;
        need(status.success(), || format!("{line}: {status}"))
    }

    /// Runs it with its standard output going to a file, and the rest to the terminal.
    pub fn stdout_to(mut self, path: &Path) -> Result<()> {
        let line = self.line();
        let file = std::fs::File::create(path).context(path.display())?;
        let status = self.0.stdout(file).status();
        let status = status.context(format_args!("cannot run {line}"))?;
        need(status.success(), || format!("{line}: {status}"))
    }

    /// Runs it quietly; its output is shown only with the error.
    pub fn output(mut self) -> Result<String> {
        let line = self.line();
        let out = self.0.output().context(format_args!("cannot run {line}"))?;
        need(out.status.success(), || {
            let said = [out.stdout.as_slice(), &out.stderr].concat();
            format!(
                "{line}: {}\n{}",
                out.status,
                tail(&String::from_utf8_lossy(&said), 20)
            )
        })?;
        String::from_utf8(out.stdout).map_err(|_| Fail::new(format!("{line}: output is not UTF-8")))
    }
}

/// The last `count` lines of `text`.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Whether `program` is in PATH (or in the places of an administrator's).
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_was_run_and_what_it_said() {
        let e = Cmd::new("sh")
            .args(["-c", "echo out; echo complaint >&2; exit 3"])
            .output()
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("sh -c") && e.contains("3") && e.contains("complaint"),
            "{e}"
        );
        let e = Cmd::new("no-such-program-here")
            .run()
            .unwrap_err()
            .to_string();
        assert!(e.contains("cannot run no-such-program-here"), "{e}");
    }

    #[test]
    fn what_is_written_is_seen_line_by_line() {
        let mut seen = Vec::new();
        let run = Cmd::new("sh")
            .args(["-c", "echo one; echo two; exit 3"])
            .run_seen(|line| seen.push(line.to_owned()));
        assert!(run.unwrap_err().to_string().contains("3"));
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
