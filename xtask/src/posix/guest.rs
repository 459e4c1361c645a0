//! The suites in a guest whose root the file system is: a Debian, made once by
//! debootstrap and served by the daemon.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferry_guest::text;

use super::runner::{Line, Runner, GROUP, USER};
use super::setups::Setup;
use super::suites::{Outcomes, Suite};
use super::tools::{self, Tools};
use crate::e2e::process::Process;
use crate::e2e::vm::{Machine, Start, Vm};
use crate::e2e::{wait, SocketDir};
use crate::fail::{need, Context, Fail, Result};
use crate::{binaries, progress, setup};

/// Directory in the root for all that is not Debian's.
const OURS: &str = "ferry";
/// In it, the agent that is process 1.
const INIT: &str = "init";
const LOGS: &str = "logs";
/// And where the suites have their directories.
const RUN: &str = "run";
/// From the start of the daemon to its socket.
const START: Duration = Duration::from_secs(20);
/// From the end of the guest to its own.
const END: Duration = Duration::from_secs(20);
/// No suite takes as long, under emulation either.
const LIMIT: Duration = Duration::from_secs(1800);
/// Between two questions whether a program has ended.
const POLL: Duration = Duration::from_millis(300);
/// What is in the guest's kernel as on this machine, since outcomes depend on it.
const SETTINGS: [&str; 4] = [
    "/proc/sys/fs/protected_fifos",
    "/proc/sys/fs/protected_hardlinks",
    "/proc/sys/fs/protected_regular",
    "/proc/sys/fs/protected_symlinks",
];
/// Attributes in `trusted.` are for who has it.
const CAPABILITY: &str = "--modcaps=+sys_admin";
/// Proof that a program of Debian's runs, with its libraries.
const HELLO: &str = "dpkg-query --show --showformat '${Package}\\n' | wc -l && id -un nobody";

/// What all guests have in common.
pub struct Guests {
    machine: setup::Tools,
    daemon: PathBuf,
    /// On the host.
    root: PathBuf,
    /// As the guest has them.
    tools: Tools,
    packages: usize,
    /// Directory for logs.
    logs: PathBuf,
}

impl Guests {
    /// Makes or finds what is needed, in `dir`.
    pub fn prepare(dir: &Path, tools: &Tools, profile: &str) -> Result<Guests> {
        let machine = setup::find()?;
        let root = setup::debian_root(dir)?;
        let (agent, own) = (
            binaries::guest_agent()?,
            binaries::static_program(tools::OWN)?,
        );
        let ours = root.join(OURS);
        std::fs::create_dir_all(&ours).context(ours.display())?;
        let put = |from: &Path, name: &str| -> Result<PathBuf> {
            let to = ours.join(name);
            std::fs::copy(from, &to).context(to.display())?;
            Ok(Path::new("/").join(OURS).join(name))
        };
        put(&agent, INIT)?;
        let tools = Tools {
            pjdfstest: put(&tools.pjdfstest, "pjdfstest")?,
            fsx: put(&tools.fsx, "fsx")?,
            own: put(&own, tools::OWN)?,
        };
        let status = root.join("var/lib/dpkg/status");
        let status = std::fs::read_to_string(&status).context(status.display())?;
        Ok(Guests {
            machine,
            daemon: binaries::build("ferryfsd", profile)?,
            packages: status
                .lines()
                .filter(|l| l.starts_with("Package: "))
                .count(),
            root,
            tools,
            logs: dir.to_owned(),
        })
    }

    /// The outcomes of `suites` in a guest whose root is served with `setup`.
    pub fn run(&self, setup: &Setup, suites: &[Suite], quick: bool) -> Result<Vec<Outcomes>> {
        let name = format!("guest-{}", setup.name);
        for dir in [LOGS, RUN] {
            let path = self.root.join(OURS).join(dir);
            super::fresh(&path)?;
        }
        for suite in suites {
            suite.make_dir(&self.root.join(OURS).join(RUN))?;
        }
        let sockets = SocketDir::make(&name)?;
        let mut daemon = self.serve(&name, setup, &sockets.0.join("daemon"))?;
        let machine = Machine {
            tools: &self.machine,
            initramfs: None,
            sockets: &sockets.0,
            logs: &self.logs,
        };
        let arguments = format!(
            "rootfstype=virtiofs root={} rw init=/{OURS}/{INIT}",
            ferry_guest::TAG
        );
        progress::step("boot Debian from the share");
        let outcomes = Vm::start(
            &machine,
            "vm",
            &sockets.0.join("daemon"),
            &arguments,
            &Start::Boot,
        )
        .and_then(|vm| self.in_guest(vm, suites, quick))
        .map_err(|e| {
            let console = std::fs::read(self.logs.join("vm.console")).unwrap_or_default();
            let console = crate::command::tail(&String::from_utf8_lossy(&console), 30);
            let said = daemon.log_tail();
            Fail::new(format!("{e}\n{said}\n--- the guest's console\n{console}"))
        })?;
        let status = daemon.wait_end(END)?;
        super::orderly(&daemon, status)?;
        Ok(outcomes)
    }

    fn serve(&self, name: &str, setup: &Setup, socket: &Path) -> Result<Process> {
        let mut command = Command::new(&self.daemon);
        command.arg("--shared-dir").arg(&self.root);
        command.arg("--socket-path").arg(socket);
        command.args(&setup.options).arg(CAPABILITY);
        command.env_remove("RUST_LOG");
        let log = self.logs.join(format!("{name}.log"));
        let mut daemon = Process::start("ferryfsd", command, &log)?;
        wait::until("the daemon's socket", START, || {
            if let Some(status) = daemon.ended()? {
                let said = daemon.log_tail();
                return Err(Fail::new(format!(
                    "ferryfsd ended at once: {status}\n{said}"
                )));
            }
            Ok(socket.exists().then_some(()))
        })?;
        Ok(daemon)
    }

    fn in_guest(&self, vm: Vm, suites: &[Suite], quick: bool) -> Result<Vec<Outcomes>> {
        let mut inside = Inside {
            guests: self,
            vm,
            programs: 0,
        };
        inside.hello()?;
        inside.settle()?;
        let mut outcomes = Vec::new();
        for suite in suites {
            progress::step(suite.name());
            inside.set_clock()?;
            outcomes.push(suite.run(&mut inside, quick)?);
        }
        inside.vm.quit()?;
        Ok(outcomes)
    }
}

/// A guest that runs.
struct Inside<'a> {
    guests: &'a Guests,
    vm: Vm,
    programs: usize,
}

impl Inside<'_> {
    fn host(&self, dir: &str) -> PathBuf {
        self.guests.root.join(OURS).join(dir)
    }

    /// Runs a program to its end; whether it succeeded, and what it said.
    fn program(&mut self, name: &str, line: Line) -> Result<(bool, String)> {
        self.programs += 1;
        let log = format!("{name}-{}.log", self.programs);
        let user = if line.as_user { USER } else { 0 };
        let there = Path::new("/").join(OURS).join(LOGS).join(&log);
        let mut command = format!("start {name} {user} {GROUP}");
        let words = [there.as_os_str(), line.program.as_os_str()];
        for word in words
            .into_iter()
            .chain(line.args.iter().map(|arg| arg.as_ref()))
        {
            command.push(' ');
            command.push_str(&text::encode(OsStr::as_bytes(word)));
        }
        self.vm.agent.call(&command)?;
        let start = Instant::now();
        let code = loop {
            match self.vm.agent.call(&format!("ended {name}"))?.as_str() {
                "running" if start.elapsed() > LIMIT => {
                    return Err(Fail::new(format!("{name} took too long")))
                }
                "running" => std::thread::sleep(POLL),
                code => break code.to_owned(),
            }
        };
        let here = self.host(LOGS).join(log);
        let said = std::fs::read(&here).context(here.display())?;
        Ok((code == "0", String::from_utf8_lossy(&said).into_owned()))
    }

    fn shell(&mut self, script: &str) -> Result<(bool, String)> {
        let mut line = Line::new(Path::new("/bin/sh"));
        line.args(["-c", script]);
        self.program("sh", line)
    }

    /// Sets the guest's clock by this machine's. With writeback, some of a file's times
    /// are by one, and some by the other.
    fn set_clock(&mut self) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("time")?;
        let command = format!("clock {}", now.as_nanos());
        self.vm.agent.call(&command).map(drop)
    }

    /// Makes the guest's kernel judge as this machine's.
    fn settle(&mut self) -> Result<()> {
        for name in SETTINGS {
            let value = std::fs::read_to_string(name).context(name)?;
            let (done, said) = self.shell(&format!("echo {} >{name}", value.trim()))?;
            need(done, || format!("{name} in the guest: {said}"))?;
        }
        Ok(())
    }

    /// Has Debian's own programs look at what they have.
    fn hello(&mut self) -> Result<()> {
        let (ended, said) = self.shell(HELLO)?;
        let want = format!("{}\nnobody\n", self.guests.packages);
        need(ended && said == want, || {
            format!("in the guest, Debian says {said:?} instead of {want:?}")
        })
    }
}

impl Runner for Inside<'_> {
    fn tools(&self) -> &Tools {
        &self.guests.tools
    }

    fn dir(&self, suite: Suite) -> PathBuf {
        Path::new("/").join(OURS).join(RUN).join(suite.name())
    }

    fn configure(&mut self, suite: Suite, text: &str) -> Result<PathBuf> {
        let name = format!("{}.toml", suite.name());
        let here = self.host(LOGS).join(&name);
        std::fs::write(&here, text).context(here.display())?;
        Ok(Path::new("/").join(OURS).join(LOGS).join(name))
    }

    fn run(&mut self, suite: Suite, line: Line) -> Result<(bool, String)> {
        self.program(suite.name(), line)
    }
}
