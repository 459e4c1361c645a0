//! The daemons that are measured: by name, or by any command.

use std::path::Path;

use ferryfs_frontend::spawn::Daemon;

use crate::error::BenchError;
use crate::preset::{self, Family, Resolved, PRESETS};

/// Help for `--daemon`.
pub fn help() -> String {
    let mut help = "Daemon to measure; repeat for several. Either a preset:\n".to_owned();
    for preset in &PRESETS {
        help.push_str(&format!("  {:24} {}\n", preset.name, preset.about));
    }
    help.push_str(
        "or NAME=COMMAND, where {socket}, {share} and {queues} stand for the socket to listen on, \
         the directory to share and the number of request queues, and a first word @PRESET for \
         that preset's command: 'polling=@ferryfsd --poll-us 50'",
    );
    help
}

/// A daemon to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSpec {
    /// What it is called in reports.
    pub name: String,
    command: Resolved,
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
        if let Some(preset) = preset::named(text) {
            return Ok(DaemonSpec {
                name: text.to_owned(),
                command: preset.resolve()?,
            });
        }
        let usage = |why: &str| BenchError::Usage(format!("--daemon '{text}': {why}"));
        let Some((name, command)) = text.split_once('=') else {
            let presets = preset::names();
            return Err(usage(&format!("neither NAME=COMMAND nor one of {presets}")));
        };
        let words = split(command).ok_or_else(|| usage("a quote is not closed"))?;
        let mut resolved = Resolved {
            words,
            family: Family::Unknown,
            most_queues: usize::MAX,
        };
        let first = resolved.words.first();
        if let Some(name) = first.and_then(|word| word.strip_prefix('@')) {
            let preset = preset::named(name).ok_or_else(|| usage("no such preset"))?;
            let mut of = preset.resolve()?;
            of.words.extend(resolved.words.drain(1..));
            resolved = of;
        }
        let whole = resolved.words.join(" ");
        if !whole.contains("{socket}") || !whole.contains("{share}") {
            return Err(usage("{socket} and {share} must occur in the command"));
        }
        Ok(DaemonSpec {
            name: name.to_owned(),
            command: resolved,
        })
    }

    /// The same with more options.
    pub fn with<S: AsRef<str>>(&self, options: &[S]) -> DaemonSpec {
        let mut spec = self.clone();
        let options = options.iter().map(|option| option.as_ref().to_owned());
        spec.command.words.extend(options);
        spec
    }

    /// The same serving extended attributes, where the option for it is known.
    pub fn with_xattr(&self) -> DaemonSpec {
        self.with(self.command.family.xattr())
    }

    /// The same as a migration's source.
    pub fn with_migration(&self, mode: &str, format: Option<&str>) -> DaemonSpec {
        let mut options = Vec::new();
        if self.command.family.migrates() {
            options.push(format!("--migration-mode={mode}"));
        }
        if let (Family::Ferryfsd, Some(format)) = (self.command.family, format) {
            options.push(format!("--state-format={format}"));
        }
        self.with(&options)
    }

    /// The command with its placeholders.
    pub fn command_line(&self) -> String {
        self.command.words.join(" ")
    }

    /// Most request queues that it is known to serve.
    pub fn most_queues(&self) -> usize {
        self.command.most_queues
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
        let words: Vec<String> = self.command.words.iter().map(fill).collect();
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

/// The CPUs that this thread may run on.
///
/// # Errors
/// [`BenchError::Usage`] if they cannot be known.
pub fn own_cpus() -> Result<Vec<usize>, BenchError> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|e| BenchError::Usage(format!("cannot know the CPUs to run on: {e}")))?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect())
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
        assert_eq!((spec.name.as_str(), spec.command.words.len()), ("x", 5));
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

    #[test]
    fn a_thread_stays_on_its_cpus() {
        let all = own_cpus().expect("CPUs");
        let first = all[0];
        let seen = std::thread::spawn(move || pin_thread(&[first]).and_then(|()| own_cpus()));
        assert_eq!(seen.join().expect("no panic").expect("it may"), [first]);
        assert_eq!(own_cpus().expect("CPUs"), all, "only that thread");
    }
}
