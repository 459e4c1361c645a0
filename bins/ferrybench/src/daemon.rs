//! The daemons that are measured: by name, or by any command.

use std::path::{Path, PathBuf};
use std::process::Command;

use ferryfs_frontend::spawn::{self, Daemon};

use crate::error::BenchError;

/// Help for `--daemon`.
pub const DAEMON_HELP: &str = "\
Daemon to measure; repeat for several. Either a preset:
  ferryfsd            beside this program, in FERRYFSD or PATH; without a sandbox
  ferryfsd-fds        the same with a descriptor per inode instead of file handles
  ferryfsd-confined   with the sandbox it chooses itself
  virtiofsd           in VIRTIOFSD or PATH; --sandbox none --seccomp none
  virtiofsd-fds       the same with --inode-file-handles=never
  virtiofsd-confined  with the sandbox and seccomp filter it chooses itself
or NAME=COMMAND, where {socket}, {share} and {queues} stand for the socket to listen \
on, the directory to share and the number of request queues, and a first word @PRESET \
for that preset's command: 'polling=@ferryfsd --poll-us 50'";

/// A daemon to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSpec {
    /// What it is called in reports.
    pub name: String,
    /// Program and arguments, with placeholders.
    words: Vec<String>,
    family: Family,
}

/// What is known about a daemon's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Ferryfsd,
    Virtiofsd,
    Unknown,
}

const PRESETS: [&str; 6] = [
    "ferryfsd",
    "ferryfsd-fds",
    "ferryfsd-confined",
    "virtiofsd",
    "virtiofsd-fds",
    "virtiofsd-confined",
];

fn ferryfsd() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|exe| Some(exe.parent()?.join("ferryfsd")));
    if std::env::var_os("FERRYFSD").is_none() {
        if let Some(path) = beside.filter(|path| path.is_file()) {
            return Some(path);
        }
    }
    spawn::find("FERRYFSD", "ferryfsd")
}

/// Whether a program's --help speaks of `option`.
fn knows(program: &Path, option: &str) -> bool {
    let help = Command::new(program).arg("--help").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(option))
}

fn preset(name: &str) -> Result<(Vec<String>, Family), BenchError> {
    let (base, variant) = name.split_once('-').unwrap_or((name, ""));
    let (program, family) = match base {
        "ferryfsd" => (ferryfsd(), Family::Ferryfsd),
        _ => (spawn::find("VIRTIOFSD", "virtiofsd"), Family::Virtiofsd),
    };
    let Some(program) = program else {
        let variable = base.to_uppercase();
        return Err(BenchError::Usage(format!(
            "no {base} found; say where it is in the environment variable {variable}"
        )));
    };
    let mut words = vec![program.to_string_lossy().into_owned()];
    let mut add = |options: &[&str]| words.extend(options.iter().map(|o| (*o).to_owned()));
    add(&["--socket-path", "{socket}", "--shared-dir", "{share}"]);
    add(&["--log-level", "error"]);
    if variant != "confined" {
        add(&["--sandbox", "none"]);
        if knows(&program, "--seccomp") {
            add(&["--seccomp", "none"]);
        }
    }
    if variant == "fds" {
        add(&["--inode-file-handles=never"]);
    }
    if knows(&program, "--request-queues") {
        add(&["--request-queues", "{queues}"]);
    }
    Ok((words, family))
}

/// Words of a command; quotes and backslashes as in a shell.
fn split(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

impl DaemonSpec {
    /// Understands a preset's name or NAME=COMMAND.
    ///
    /// # Errors
    /// [`BenchError::Usage`].
    pub fn parse(text: &str) -> Result<Self, BenchError> {
        if PRESETS.contains(&text) {
            let (words, family) = preset(text)?;
            let name = text.to_owned();
            return Ok(DaemonSpec {
                name,
                words,
                family,
            });
        }
        let usage = |why: &str| BenchError::Usage(format!("--daemon '{text}': {why}"));
        let Some((name, command)) = text.split_once('=') else {
            let presets = PRESETS.join(", ");
            return Err(usage(&format!("neither NAME=COMMAND nor one of {presets}")));
        };
        let mut words = split(command).ok_or_else(|| usage("a quote is not closed"))?;
        let mut family = Family::Unknown;
        if let Some(name) = words.first().and_then(|word| word.strip_prefix('@')) {
            if !PRESETS.contains(&name) {
                return Err(usage("no such preset"));
            }
            let (mut preset, of) = preset(name)?;
            preset.extend(words.drain(1..));
            (words, family) = (preset, of);
        }
        let whole = words.join(" ");
        if !whole.contains("{socket}") || !whole.contains("{share}") {
            return Err(usage("{socket} and {share} must occur in the command"));
        }
        Ok(DaemonSpec {
            name: name.to_owned(),
            words,
            family,
        })
    }

    /// The same with more options.
    pub fn with(&self, options: &[String]) -> DaemonSpec {
        let mut spec = self.clone();
        spec.words.extend_from_slice(options);
        spec
    }

    /// The same serving extended attributes, where the option for it is known.
    pub fn with_xattr(&self) -> DaemonSpec {
        match self.family {
            Family::Unknown => self.clone(),
            Family::Ferryfsd | Family::Virtiofsd => self.with(&["--xattr".to_owned()]),
        }
    }

    /// The same as a migration's source.
    pub fn with_migration(&self, mode: &str, format: Option<&str>) -> DaemonSpec {
        let mut options = Vec::new();
        if self.family != Family::Unknown {
            options.push(format!("--migration-mode={mode}"));
        }
        if let (Family::Ferryfsd, Some(format)) = (self.family, format) {
            options.push(format!("--state-format={format}"));
        }
        self.with(&options)
    }

    /// The command with its placeholders.
    pub fn command_line(&self) -> String {
        self.words.join(" ")
    }

    /// Starts it on CPUs `pin`, if there are any.
    ///
    /// # Errors
    /// [`BenchError::Spawn`].
    pub fn start(
        &self,
        socket: &Path,
        share: &Path,
        queues: usize,
        pin: &[usize],
    ) -> Result<Daemon, BenchError> {
        let fill = |word: &String| {
            word.replace("{socket}", &socket.to_string_lossy())
                .replace("{share}", &share.to_string_lossy())
                .replace("{queues}", &queues.to_string())
        };
        let words: Vec<String> = self.words.iter().map(fill).collect();
        // Children inherit the CPUs a thread may use, so no moment passes on others.
        let start = || Daemon::start(&words[0], &words[1..], socket);
        let started = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                pin_thread(pin)?;
                Ok::<_, BenchError>(start()?)
            });
            thread.join()
        });
        started.unwrap_or_else(|_| Err(BenchError::Usage("starting the daemon failed".into())))
    }
}

/// Keeps this thread and its future children on `cpus`, if there are any.
///
/// # Errors
/// [`BenchError::Usage`] for CPUs that are not there.
pub fn pin_thread(cpus: &[usize]) -> Result<(), BenchError> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus {
        if *cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(BenchError::Usage(format!("there is no CPU {cpu}")));
        }
        set.set(*cpu);
    }
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|e| BenchError::Usage(format!("cannot run on CPUs {cpus:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_in_a_shell() {
        let words = split(r#"a  'b c' d\ e "f \" g" '' h"#).expect("closed");
        assert_eq!(words, ["a", "b c", "d e", "f \" g", "", "h"]);
        assert_eq!(split("a 'b"), None);
    }

    #[test]
    fn commands_need_their_placeholders() {
        let spec = DaemonSpec::parse("x=prog --s {socket} --d {share}").expect("complete");
        assert_eq!((spec.name.as_str(), spec.words.len()), ("x", 5));
        assert_eq!(spec.with_xattr(), spec, "no options are invented");
        for (text, why) in [
            ("x=prog {socket}", "must occur"),
            ("x=prog 'a", "not closed"),
            ("other", "nor one of"),
            ("x=@other", "no such preset"),
        ] {
            let error = DaemonSpec::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
