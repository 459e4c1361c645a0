//! The suites, each with its way of saying what came of its tests.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::tools::Tools;
use crate::e2e::process::Process;
use crate::fail::{need, Context, Fail, Result};

/// What came of each test, by its name.
pub type Outcomes = BTreeMap<String, String>;

/// No suite takes as long, on any mount.
const LIMIT: Duration = Duration::from_secs(900);
/// Who the suites are when they are not root: nobody special, of a group of theirs.
const USER: u32 = 2001;
const GROUPS: [u32; 2] = [2001, 2100];
/// Two users that every Debian has, for pjdfstest.
const OTHERS: [(&str, &str); 2] = [("nobody", "nogroup"), ("daemon", "daemon")];
/// Features that a file system may lack, and those of the hosts here do not.
const FEATURES: [&str; 5] = [
    "posix_fallocate",
    "rename_ctime",
    "stat_st_birthtime",
    "utime_now",
    "utimensat",
];
/// `fsx` runs, each with a seed; and steps of each.
const FSX_RUNS: (u64, u64) = (6, 3000);
const FSX_RUNS_IN_A_HURRY: (u64, u64) = (2, 1500);
/// What `fsx` does: also what it leaves out by default.
const FSX_CONFIG: &str = "\
[weights]
close_open = 1.0
invalidate = 1.0
mapread = 5.0
mapwrite = 5.0
read = 10.0
write = 10.0
truncate = 5.0
fsync = 1.0
fdatasync = 1.0
posix_fallocate = 2.0
punch_hole = 3.0
sendfile = 2.0
posix_fadvise = 2.0
copy_file_range = 5.0
";

/// A suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// System calls and their errors.
    Pjdfstest,
    /// Data of one file.
    Fsx,
    /// `tests/posix`, as root.
    Own,
    /// `tests/posix`, as a user.
    OwnUser,
}

const ALL: [Suite; 4] = [Suite::Pjdfstest, Suite::Fsx, Suite::Own, Suite::OwnUser];

/// Those of these names; all, if none is given.
pub fn chosen(names: &[String]) -> Result<Vec<Suite>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
                let all: Vec<_> = ALL.iter().map(|s| s.name()).collect();
                Fail::new(format!("no suite {name:?}; there are: {}", all.join(", ")))
            })
        })
        .collect()
}

impl Suite {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Pjdfstest => "pjdfstest",
            Suite::Fsx => "fsx",
            Suite::Own => "own",
            Suite::OwnUser => "own-user",
        }
    }

    /// Runs it in a directory of its own in `dir`. All that it says goes to `log`.
    pub fn run(self, tools: &Tools, dir: &Path, log: &Path, quick: bool) -> Result<Outcomes> {
        let dir = dir.join(self.name());
        std::fs::create_dir(&dir).context(dir.display())?;
        let said = match self {
            Suite::Pjdfstest => {
                let config = log.with_extension("toml");
                std::fs::write(&config, pjdfstest_config()).context(config.display())?;
                let mut command = Command::new(&tools.pjdfstest);
                command.arg("-c").arg(config).arg("-p").arg(&dir);
                // Differences of outcomes are looked at here, not its own judgement.
                run(self, command, log)?.1
            }
            Suite::Fsx => return self.run_fsx(tools, &dir, log, quick),
            Suite::Own | Suite::OwnUser => {
                let mut command = Command::new(&tools.own);
                if quick {
                    command.arg("--quick");
                }
                command.arg(&dir);
                if self == Suite::OwnUser {
                    std::os::unix::fs::chown(&dir, Some(USER), Some(USER)).context("chown")?;
                    become_user(&mut command);
                }
                let (ended, said) = run(self, command, log)?;
                need(ended, || {
                    format!("{} failed; see {}", self.name(), log.display())
                })?;
                said
            }
        };
        let outcomes = match self {
            Suite::Pjdfstest => parse_pjdfstest(&said),
            _ => parse_own(&said),
        };
        outcomes.ok_or_else(|| {
            Fail::new(format!(
                "{} did not come to its end; see {}",
                self.name(),
                log.display()
            ))
        })
    }

    fn run_fsx(self, tools: &Tools, dir: &Path, log: &Path, quick: bool) -> Result<Outcomes> {
        let config = log.with_extension("toml");
        std::fs::write(&config, FSX_CONFIG).context(config.display())?;
        let (runs, steps) = if quick { FSX_RUNS_IN_A_HURRY } else { FSX_RUNS };
        let mut outcomes = Outcomes::new();
        for seed in 1..=runs {
            let mut command = Command::new(&tools.fsx);
            command.args(["-S", &seed.to_string(), "-N", &steps.to_string()]);
            command.arg("-f").arg(&config);
            // Where what went wrong is left.
            command
                .arg("-P")
                .arg(log.parent().unwrap_or(Path::new(".")));
            command.arg(dir.join(format!("file-{seed}")));
            let (ended, said) = run(self, command, log)?;
            let outcome = match ended {
                true => "ok".to_owned(),
                false => format!("FAILED\n{said}"),
            };
            outcomes.insert(format!("seed-{seed}"), outcome);
        }
        Ok(outcomes)
    }
}

/// Runs a command; whether it succeeded, and what it said.
fn run(suite: Suite, command: Command, log: &Path) -> Result<(bool, String)> {
    let mut process = Process::start(suite.name(), command, log)?;
    let status = process.wait_end(LIMIT)?;
    Ok((status.success(), process.log()))
}

fn become_user(command: &mut Command) {
    let become_it = || {
        // SAFETY: the calls take an array that outlives them, and numbers.
        let rc = unsafe {
            libc::setgroups(GROUPS.len(), GROUPS.as_ptr())
                | libc::setresgid(USER, USER, USER)
                | libc::setresuid(USER, USER, USER)
        };
        match rc {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: three system calls and no allocation, as is required after fork.
    unsafe { command.pre_exec(become_it) };
}

fn pjdfstest_config() -> String {
    let features: String = FEATURES.iter().map(|f| format!("{f} = {{}}\n")).collect();
    let [a, b] = OTHERS.map(|(user, group)| format!("[\"{user}\", \"{group}\"]"));
    // A nap longer than the time stamps' granularity.
    format!(
        "[features]\n{features}[settings]\nnaptime = 0.012\nallow_remount = false\n\
         [dummy_auth]\nentries = [{a}, {b}]\n"
    )
}

/// A line for each test, with its name and outcome, and details behind a tab.
fn parse_pjdfstest(said: &str) -> Option<Outcomes> {
    let mut outcomes = Outcomes::new();
    let mut last: Option<&mut String> = None;
    let mut total = None;
    for line in said.lines() {
        if let Some(summary) = line.strip_prefix("Summary:") {
            let mut words = summary.split_whitespace().rev();
            total = words.nth(1)?.parse().ok();
            break;
        }
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(name), Some(outcome @ ("ok" | "skipped" | "FAILED")), None)
                if name.contains("::") =>
            {
                let outcome = outcomes
                    .entry(name.to_owned())
                    .or_insert(outcome.to_owned());
                last = Some(outcome);
            }
            _ => {
                if let Some(last) = last.as_deref_mut().filter(|_| line.starts_with('\t')) {
                    last.push('\n');
                    last.push_str(line.trim());
                }
            }
        }
    }
    // All that it counts are there.
    (total == Some(outcomes.len())).then_some(outcomes)
}

/// `@ NAME`, steps, and `= END` at last.
fn parse_own(said: &str) -> Option<Outcomes> {
    let mut outcomes = Outcomes::new();
    let mut name = None;
    for line in said.lines() {
        if line == "= END" {
            return Some(outcomes);
        }
        if let Some(next) = line.strip_prefix("@ ") {
            outcomes.insert(next.to_owned(), String::new());
            name = Some(next);
        } else if let Some(steps) = name.and_then(|name| outcomes.get_mut(name)) {
            steps.push_str(line.trim());
            steps.push('\n');
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_pjdfstest_are_read_with_their_details() {
        let said = "\
chmod::a                                 ok
chmod::b::fifo                     skipped
\trequires features: chflags
link::c                          FAILED
\tassertion failed: left == right
not a test

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
Error: Some tests have failed
";
        let outcomes = parse_pjdfstest(said).unwrap();
        assert_eq!(outcomes["chmod::a"], "ok");
        assert!(outcomes["chmod::b::fifo"].ends_with("chflags"));
        assert!(outcomes["link::c"].contains("left == right"));
        assert_eq!(parse_pjdfstest(&said.replace("3 total", "4 total")), None);
        assert_eq!(parse_pjdfstest("chmod::a ok\n"), None);
    }

    #[test]
    fn a_suite_that_breaks_off_is_none() {
        let said = "@ one\n  mkdir: done\n  rmdir: ENOENT\n@ two\n= END\n";
        let outcomes = parse_own(said).unwrap();
        assert_eq!(outcomes["one"], "mkdir: done\nrmdir: ENOENT\n");
        assert_eq!(outcomes["two"], "");
        assert_eq!(parse_own("@ one\n  mkdir: done\n"), None);
    }

    #[test]
    fn suites_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), 4);
        assert_eq!(chosen(&["own-user".into()]).unwrap(), [Suite::OwnUser]);
        assert!(chosen(&["nonsense".into()]).is_err());
    }
}
