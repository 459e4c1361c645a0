//! The suites, each with its way of saying what came of its tests.

use std::collections::BTreeMap;
use std::path::Path;

use super::runner::{Line, Runner, USER};
use crate::fail::{need, Context, Fail, Result};

/// What came of each test, by its name.
pub type Outcomes = BTreeMap<String, String>;

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

    /// Makes the directory that it runs in, in `dir`.
    pub fn make_dir(self, dir: &Path) -> Result<()> {
        let dir = dir.join(self.name());
        std::fs::create_dir(&dir).context(dir.display())?;
        match self {
            Suite::OwnUser => {
                std::os::unix::fs::chown(&dir, Some(USER), Some(USER)).context("chown")
            }
            _ => Ok(()),
        }
    }

    /// Runs it where `runner` says, in the directory that [`Suite::make_dir`] has made.
    pub fn run(self, runner: &mut dyn Runner, quick: bool) -> Result<Outcomes> {
        let said = match self {
            Suite::Pjdfstest => {
                let config = runner.configure(self, &pjdfstest_config())?;
                let mut line = Line::new(&runner.tools().pjdfstest);
                line.args(["-c".as_ref(), config.as_os_str(), "-p".as_ref()]);
                line.args([runner.dir(self)]);
                // Differences of outcomes are looked at here, not its own judgement.
                runner.run(self, line)?.1
            }
            Suite::Fsx => return self.run_fsx(runner, quick),
            Suite::Own | Suite::OwnUser => {
                let mut line = Line::new(&runner.tools().own);
                if quick {
                    line.args(["--quick"]);
                }
                line.args([runner.dir(self)]);
                line.as_user = self == Suite::OwnUser;
                let (ended, said) = runner.run(self, line)?;
                need(ended, || format!("{} failed: {said}", self.name()))?;
                said
            }
        };
        let outcomes = match self {
            Suite::Pjdfstest => parse_pjdfstest(&said),
            _ => parse_own(&said),
        };
        outcomes.ok_or_else(|| {
            let end = crate::command::tail(&said, 5);
            Fail::new(format!("{} did not come to its end: {end}", self.name()))
        })
    }

    fn run_fsx(self, runner: &mut dyn Runner, quick: bool) -> Result<Outcomes> {
        let config = runner.configure(self, FSX_CONFIG)?;
        let (runs, steps) = if quick { FSX_RUNS_IN_A_HURRY } else { FSX_RUNS };
        let mut outcomes = Outcomes::new();
        for seed in 1..=runs {
            let mut line = Line::new(&runner.tools().fsx);
            line.args(["-S", &seed.to_string(), "-N", &steps.to_string()]);
            line.args(["-f".as_ref(), config.as_os_str()]);
            // Where what went wrong is left.
            line.args([
                "-P".as_ref(),
                config.parent().unwrap_or(&config).as_os_str(),
            ]);
            line.args([runner.dir(self).join(format!("file-{seed}"))]);
            let (ended, said) = runner.run(self, line)?;
            let outcome = match ended {
                true => "ok".to_owned(),
                false => format!("FAILED\n{said}"),
            };
            outcomes.insert(format!("seed-{seed}"), outcome);
        }
        Ok(outcomes)
    }
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
