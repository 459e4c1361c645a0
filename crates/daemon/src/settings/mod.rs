//! Where options come from: the command line, then the environment, then a file,
//! then the defaults. libvirt and service managers write the command line
//! themselves; what they have no word for is said in one of the other two.
//!
//! Each option is settled as a whole by the first of these that names it. Options
//! that exclude each other count as one: `--fd` on the command line silences a
//! `socket-path` in the file.
//!
//! What comes from a file or a variable is checked by the same definition that the
//! command line is, and then put in front of the command line's words.

mod environment;
mod file;
mod nearest;

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::args::Args;

/// Options that only the command line has.
const COMMAND_LINE_ONLY: [&str; 2] = ["print-capabilities", "config"];

/// Which options, named in a place that counts more, take the place of which others.
const INSTEAD_OF: [(&str, &[&str]); 6] = [
    ("fd", &["socket-path", "socket-group"]),
    ("socket-path", &["fd"]),
    ("announce-submounts", &["no-announce-submounts"]),
    ("no-announce-submounts", &["announce-submounts"]),
    ("killpriv-v2", &["no-killpriv-v2"]),
    ("no-killpriv-v2", &["killpriv-v2"]),
];

/// Switches of which one undoes another: to set one to false is to leave it out.
const PAIRED: [&str; 4] = [
    "announce-submounts",
    "no-announce-submounts",
    "killpriv-v2",
    "no-killpriv-v2",
];

/// The daemon's command line, for one that is called `name`.
pub fn command(name: &'static str, version: &'static str) -> Command {
    definition().name(name).version(version)
}

/// Switches take `=false` too: how else would a command line undo what a file says?
fn definition() -> Command {
    Args::command().mut_args(|arg| {
        let name = arg.get_long().unwrap_or_default().to_owned();
        let plain = PAIRED.contains(&name.as_str()) || COMMAND_LINE_ONLY.contains(&name.as_str());
        if name.is_empty() || plain || !matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg;
        }
        arg.action(ArgAction::Set)
            .value_parser(clap::value_parser!(bool))
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("BOOL")
    })
}

/// A place that says what an option is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, by its path and the line in it.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// An option in a file or in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Its long name.
    option: String,
    value: Value,
    origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Switch(bool),
    Words(Vec<OsString>),
}

impl Setting {
    /// As the command line has it.
    fn words(&self) -> Vec<OsString> {
        match &self.value {
            Value::Switch(true) => vec![format!("--{}", self.option).into()],
            Value::Switch(false) if PAIRED.contains(&self.option.as_str()) => Vec::new(),
            Value::Switch(false) if takes_mode(&self.option) => {
                vec![format!("--{}=never", self.option).into()]
            }
            Value::Switch(false) => vec![format!("--{}=false", self.option).into()],
            Value::Words(values) => values
                .iter()
                .map(|value| {
                    let mut word = OsString::from(format!("--{}=", self.option));
                    word.push(value);
                    word
                })
                .collect(),
        }
    }
}

/// Options whose value may be missing, which is more than true and false.
fn takes_mode(option: &str) -> bool {
    matches!(option, "posix-acl" | "security-label")
}

/// Why the file or the environment cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{}, line {line}: not TOML: {why}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What was expected.
        why: String,
    },
    /// No option is called so.
    #[error("{origin}: there is no option {name:?}{}", hint(nearest))]
    Unknown {
        /// Where it is named.
        origin: Origin,
        /// As it is written there.
        name: String,
        /// The one that was meant, maybe.
        nearest: Option<String>,
    },
    /// It is of no use there.
    #[error("{origin}: {name} is for the command line only")]
    CommandLineOnly {
        /// Where it is named.
        origin: Origin,
        /// The option.
        name: String,
    },
    /// Not one of its values.
    #[error("{origin}: {option}: {why}")]
    Value {
        /// Where.
        origin: Origin,
        /// The option.
        option: String,
        /// What would do.
        why: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name:?}?"),
        None => String::new(),
    }
}

/// Why there are no options to go by.
#[derive(Debug)]
pub enum GatherError {
    /// The command line makes no sense, or asks for help or the version.
    CommandLine(clap::Error),
    /// A file or a variable does not.
    Settings(SettingsError),
}

impl From<SettingsError> for GatherError {
    fn from(e: SettingsError) -> Self {
        GatherError::Settings(e)
    }
}

/// What there is to gather options from.
pub struct Sources {
    /// The command line, without the program's name.
    pub words: Vec<OsString>,
    /// The environment.
    pub variables: Vec<(OsString, OsString)>,
    /// The file that is read, where it exists, if no other is named.
    pub file: PathBuf,
}

impl Sources {
    /// This process'.
    pub fn of_process(name: &str) -> Sources {
        Sources {
            words: std::env::args_os().skip(1).collect(),
            variables: std::env::vars_os().collect(),
            file: Path::new("/etc/ferryfs").join(format!("{name}.toml")),
        }
    }
}

/// The options, and where those come from that the command line does not name.
#[derive(Debug)]
pub struct Gathered {
    /// All options.
    pub args: Args,
    /// Of those that are not the command line's.
    pub origins: Origins,
}

/// Where options come from, by their long names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// `text`, with where the options come from that it speaks of.
    pub fn explain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let spoken_of = |option: &str| {
            let word = format!("--{option}");
            text.match_indices(&word).any(|(at, _)| {
                let next = text[at + word.len()..].chars().next();
                !next.is_some_and(|c| c == '-' || c.is_alphanumeric())
            })
        };
        let mut notes = Vec::new();
        for (option, origin) in &self.0 {
            if spoken_of(option) {
                notes.push(format!("; --{option} is set by {origin}"));
            }
        }
        text.extend(notes);
        text
    }

    /// One line for the log; `None` when the command line says everything.
    pub fn summary(&self) -> Option<String> {
        let all: Vec<_> = self
            .0
            .iter()
            .map(|(option, origin)| format!("--{option} ({origin})"))
            .collect();
        (!all.is_empty()).then(|| format!("set beside the command line: {}", all.join(", ")))
    }
}

/// Puts the options of a daemon called `name` together.
///
/// # Errors
/// See [`GatherError`].
pub fn gather(
    name: &'static str,
    version: &'static str,
    sources: Sources,
) -> Result<Gathered, GatherError> {
    let command = command(name, version);
    let parse = |words: &[OsString]| {
        let words = std::iter::once(OsStr::new(name)).chain(words.iter().map(OsString::as_os_str));
        command.clone().try_get_matches_from(words)
    };
    let line = parse(&sources.words).map_err(GatherError::CommandLine)?;
    let known = Known::new(&command);

    let (variables, variable_file) = environment::settings(name, &sources.variables, &known)?;
    let named = line.get_one::<PathBuf>("config").cloned().or(variable_file);
    let mut layers = vec![variables];
    if let Some(file) = file::File::read(named.as_deref(), &sources.file, &known)? {
        let share = share(&line, &layers[0], &file.general);
        layers.extend(file.layers(share.as_deref()));
    }
    for setting in layers.iter().flatten() {
        check(&command, setting)?;
    }

    let mut settled = on_command_line(&line);
    let mut words = Vec::new();
    let mut origins = BTreeMap::new();
    for layer in layers {
        let free = |setting: &Setting| !settled.contains(&setting.option);
        let (new, _): (Vec<_>, Vec<_>) = layer.into_iter().partition(free);
        for setting in &new {
            settle(&mut settled, &setting.option);
            words.extend(setting.words());
            origins.insert(setting.option.clone(), setting.origin.clone());
        }
    }
    words.extend(sources.words);
    let args = parse(&words).and_then(|matches| Args::from_arg_matches(&matches));
    Ok(Gathered {
        args: args.map_err(GatherError::CommandLine)?,
        origins: Origins(origins),
    })
}

fn settle(settled: &mut Vec<String>, option: &str) {
    settled.push(option.to_owned());
    for (by, instead) in INSTEAD_OF {
        if by == option {
            settled.extend(instead.iter().map(|s| (*s).to_owned()));
        }
    }
}

fn on_command_line(line: &ArgMatches) -> Vec<String> {
    let mut settled = Vec::new();
    for arg in definition().get_arguments() {
        let given = line.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        if let (true, Some(long)) = (given, arg.get_long()) {
            settle(&mut settled, long);
        }
    }
    settled
}

/// The shared directory, as far as it is known before the file's part for it is.
fn share(line: &ArgMatches, variables: &[Setting], general: &[Setting]) -> Option<PathBuf> {
    let legacy = line
        .get_many::<String>("options")
        .into_iter()
        .flatten()
        .flat_map(|options| options.split(','))
        .filter_map(|option| option.strip_prefix("source="))
        .next_back();
    if let Some(source) = legacy {
        return Some(source.into());
    }
    if let Some(path) = line.get_one::<PathBuf>("shared_dir") {
        return Some(path.clone());
    }
    let setting = |setting: &Setting| match (&setting.value, setting.option.as_str()) {
        (Value::Words(words), "shared-dir") => words.first().map(PathBuf::from),
        _ => None,
    };
    let mut below = variables.iter().chain(general);
    below.find_map(setting)
}

/// Checks one setting by itself, so that the message can say where it is.
fn check(command: &Command, setting: &Setting) -> Result<(), SettingsError> {
    let words = std::iter::once(OsString::from("x")).chain(setting.words());
    match command.clone().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(e) => Err(SettingsError::Value {
            origin: setting.origin.clone(),
            option: setting.option.clone(),
            why: why(&e),
        }),
    }
}

/// What the definition has against a value, in one line.
fn why(e: &clap::Error) -> String {
    let valid = match e.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => Some(values.join(", ")),
        _ => None,
    };
    let value = match e.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => format!("{value:?}: "),
        _ => String::new(),
    };
    match (e.kind(), valid, e.source()) {
        (ErrorKind::InvalidValue, Some(valid), _) => format!("{value}use one of {valid}"),
        (ErrorKind::ValueValidation, _, Some(source)) => format!("{value}{source}"),
        _ => {
            let text: StyledStr = e.render();
            let text = text.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    }
}

/// The options that may be set beside the command line.
struct Known {
    options: Vec<Option_>,
}

struct Option_ {
    name: String,
    switch: bool,
    repeated: bool,
}

impl Known {
    fn new(command: &Command) -> Known {
        let switches = Args::command();
        let is_switch = |id: &str| {
            let found = switches.get_arguments().find(|arg| arg.get_id() == id);
            found.is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
        };
        let options = command
            .get_arguments()
            .filter_map(|arg| {
                let name = arg.get_long()?.to_owned();
                Some(Option_ {
                    switch: is_switch(arg.get_id().as_str()) || takes_mode(&name),
                    repeated: matches!(arg.get_action(), ArgAction::Append),
                    name,
                })
            })
            .collect();
        Known { options }
    }

    /// The option called `name`, or why there is none to be set in `origin`.
    /// `spelled` turns an option's name into how it is written there.
    fn find(
        &self,
        origin: &Origin,
        name: &str,
        spelled: impl Fn(&str) -> String,
    ) -> Result<&Option_, SettingsError> {
        let found = self
            .options
            .iter()
            .find(|option| spelled(&option.name) == name);
        match found {
            Some(option) if COMMAND_LINE_ONLY.contains(&option.name.as_str()) => {
                Err(SettingsError::CommandLineOnly {
                    origin: origin.clone(),
                    name: name.to_owned(),
                })
            }
            Some(option) => Ok(option),
            None => {
                let settable = self
                    .options
                    .iter()
                    .filter(|option| !COMMAND_LINE_ONLY.contains(&option.name.as_str()))
                    .map(|option| spelled(&option.name));
                Err(SettingsError::Unknown {
                    origin: origin.clone(),
                    name: name.to_owned(),
                    nearest: nearest::nearest(name, settable),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
