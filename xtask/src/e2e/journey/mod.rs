//! One guest's life: it boots, works, crosses, and at the end the host looks at
//! what it has left.

mod census;
mod copy;
mod crossing;
mod external;
mod too_much;
mod two_guests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemon::{Daemon, Program, Setup, StateBy};
use super::rings;
use super::scenario::{known_failure, Journey, Scenario};
use super::share::Share;
use super::vm::{Machine, Start, Vm};
use crate::fail::{need, Fail, Result};
use crate::progress::step;

const END: Duration = Duration::from_secs(30);
const REMOUNTS: usize = 5;

/// What is measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Milliseconds from STOP at the source to RESUME at the destination, per
    /// crossing.
    pub downtimes: Vec<f64>,
    /// Bytes of state, where the daemons tell.
    pub states: Vec<u64>,
    /// Checks that were made.
    pub checks: usize,
}

/// What a run is made of.
pub struct Run<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The daemon under test.
    pub program: &'a Program,
    /// Stock virtiofsd, where the scenario needs it.
    pub stock: Option<&'a Program>,
    /// `ferryctl`, where a scenario needs it.
    pub ferryctl: Option<&'a Path>,
    /// QEMU and so on.
    pub machine: &'a Machine<'a>,
    /// The shared directory.
    pub share: &'a Share,
    /// The checks to make; all that apply if empty.
    pub only: &'a [String],
    /// How many files a census counts.
    pub files: usize,
}

/// A guest and the daemon that serves it.
struct Living {
    vm: Vm,
    daemon: Daemon,
}

impl Living {
    fn said(&mut self) -> String {
        format!(
            "{}\n{}",
            self.daemon.process().log_tail(),
            self.vm.process().log_tail()
        )
    }

    /// What is known of a guest that does not go on: where its requests are, and
    /// what its kernel has to say.
    fn state(&mut self) -> String {
        let rings = match rings::of(&mut self.vm.qmp) {
            Ok(rings) => rings.iter().map(|ring| format!("{ring}\n")).collect(),
            Err(e) => format!("{e}\n"),
        };
        let console = std::fs::read(self.vm.console()).unwrap_or_default();
        format!(
            "{}\n--- the virtqueues\n{rings}--- the guest's console\n{}",
            self.said(),
            crate::command::tail(&String::from_utf8_lossy(&console), 60)
        )
    }
}

/// A run that has begun.
struct Journeying<'a> {
    run: &'a Run<'a>,
    checks: Vec<String>,
    /// Daemons and VMs so far; numbers their names.
    started: usize,
    measured: Measured,
    failures: Vec<String>,
    /// Where the files are that the guest works with.
    share: PathBuf,
}

/// Runs it. All that was measured, and what failed.
pub fn run(run: &Run<'_>) -> (Measured, Result<()>) {
    let mut journey = Journeying {
        run,
        checks: Vec::new(),
        started: 0,
        measured: Measured::default(),
        failures: Vec::new(),
        share: run.share.path().to_owned(),
    };
    let mut outcome = journey.all();
    if !journey.failures.is_empty() {
        let mut text = journey.failures.join("\n");
        if let Err(e) = outcome {
            text = format!("{text}\n{e}");
        }
        outcome = Err(Fail::new(text));
    }
    (journey.measured, outcome)
}

impl Journeying<'_> {
    fn all(&mut self) -> Result<()> {
        match self.run.scenario.journey {
            Journey::TwoGuests => return self.two_guests(),
            Journey::Census => return self.census(),
            _ => {}
        }
        let mut living = self.boot()?;
        let done = self.live(&mut living);
        match done {
            Ok(()) => Self::end(living),
            Err(e) => Err(Fail::new(format!("{e}\n{}", living.state()))),
        }
    }

    fn live(&mut self, living: &mut Living) -> Result<()> {
        self.prepare(living)?;
        match self.run.scenario.journey {
            Journey::Writeback => self.hop(living)?,
            Journey::StockAndBack | Journey::ToStockAndBack => {
                self.hop(living)?;
                self.hop(living)?;
            }
            Journey::Hops(count) => (0..count).try_for_each(|_| self.hop(living))?,
            Journey::CancelRetry => {
                self.cancel(living)?;
                self.hop(living)?;
            }
            Journey::Snapshot => self.snapshot(living)?,
            Journey::External => {
                self.hop_external(living)?;
                self.snapshot_external(living)?;
            }
            Journey::Refused => {
                self.refused(living)?;
                self.hop(living)?;
            }
            Journey::Meddled | Journey::Unprivileged => self.meddled(living)?,
            Journey::TooMuch => {
                self.too_much(living)?;
                self.hop(living)?;
            }
            Journey::Copy => self.copy(living)?,
            // Have ways of their own.
            Journey::TwoGuests | Journey::Census => {}
            Journey::Remounts => {
                self.hop(living)?;
                self.finish(living)?;
                return Self::remounts(living);
            }
        }
        self.finish(living)
    }

    /// The setup of the daemon that is started next.
    fn setup(&self) -> Setup {
        let formats = self.run.scenario.formats;
        let own = self.run.scenario.work.own_options();
        Setup {
            mode: self.run.scenario.mode,
            inodes: self.run.scenario.inodes(),
            format: formats[self.started % formats.len()],
            writeback: self.run.scenario.journey == Journey::Writeback,
            keep_listening: false,
            options: self.run.scenario.work.options(),
            own_options: own.iter().map(|&option| option.to_owned()).collect(),
            state_by: match self.run.scenario.journey {
                Journey::External => StateBy::ControlSocket,
                _ => StateBy::Vmm,
            },
            privileged: self.run.scenario.journey != Journey::Unprivileged,
        }
    }

    fn daemon(&mut self, setup: &Setup, share: &Path) -> Result<Daemon> {
        let name = format!("daemon-{}", self.started);
        let program = match self.run.scenario.journey.is_stock(self.started) {
            true => self.run.stock.ok_or_else(|| Fail::new("no virtiofsd"))?,
            false => self.run.program,
        };
        Daemon::start(
            program,
            setup,
            &name,
            share,
            &self.run.machine.sockets.join(format!("{name}.socket")),
            &self.run.machine.logs.join(format!("{name}.log")),
        )
    }

    fn vm(&mut self, daemon: &Daemon, start: &Start) -> Result<Vm> {
        let name = format!("vm-{}", self.started);
        self.started += 1;
        let arguments = self.run.scenario.work.kernel_arguments();
        Vm::start(self.run.machine, &name, daemon.socket(), arguments, start)
    }

    fn boot(&mut self) -> Result<Living> {
        step("boot the guest");
        let mut daemon = self.daemon(&self.setup(), self.run.share.path())?;
        let console = format!("vm-{}.console", self.started);
        let started = self.vm(&daemon, &Start::Boot);
        let said = |e, daemon: &mut Daemon| {
            let console = self.run.machine.logs.join(&console);
            let console = std::fs::read(console).unwrap_or_default();
            Fail::new(format!(
                "{e}\n{}\n--- the guest's console\n{}",
                daemon.process().log_tail(),
                crate::command::tail(&String::from_utf8_lossy(&console), 15)
            ))
        };
        let mut vm = started.map_err(|e| said(e, &mut daemon))?;
        vm.agent.call("mount").map_err(|e| said(e, &mut daemon))?;
        Ok(Living { vm, daemon })
    }

    /// Whether check `name` is made here; says why if not.
    fn wanted(&self, name: &str) -> bool {
        if !self.run.only.is_empty() {
            return self.run.only.iter().any(|n| n == name);
        }
        let known = known_failure(self.run.program.kind, self.run.scenario, name);
        match known.or_else(|| self.run.share.lacks(name)) {
            Some(why) => {
                step(format_args!("check {name} is left out: {why}"));
                false
            }
            None => true,
        }
    }

    fn prepare(&mut self, living: &mut Living) -> Result<()> {
        let set = self.run.scenario.work.checks();
        let names = living.vm.agent.call(&format!("checks {set}"))?;
        let unknown = self
            .run
            .only
            .iter()
            .find(|n| !names.split(' ').any(|k| k == *n));
        need(unknown.is_none(), || {
            format!("no check {unknown:?}; there are: {names}")
        })?;
        self.checks = names
            .split(' ')
            .filter(|name| self.wanted(name))
            .map(str::to_owned)
            .collect();
        step(format_args!("prepare {} checks", self.checks.len()));
        let mut prepared = Vec::new();
        for name in std::mem::take(&mut self.checks) {
            match living.vm.agent.ask(&format!("prepare {name}"))? {
                Ok(_) => prepared.push(name),
                // What could not be prepared is not looked at any more.
                Err(e) => self.fail(&name, "before the crossing", &e),
            }
        }
        self.checks = prepared;
        Ok(())
    }

    fn fail(&mut self, check: &str, when: &str, e: &Fail) {
        step(format_args!("check {check} FAILED {when}: {e}"));
        self.failures.push(format!("{check}, {when}: {e}"));
    }

    /// Has the guest look at everything, and go on working.
    fn verify(&mut self, living: &mut Living, when: &str) -> Result<()> {
        if self.checks.is_empty() {
            return Ok(());
        }
        step(format_args!("verify {} checks {when}", self.checks.len()));
        living.vm.agent.call("drop-caches 1")?;
        let mut good = Vec::new();
        for name in std::mem::take(&mut self.checks) {
            self.measured.checks += 1;
            match living.vm.agent.ask(&format!("verify {name}"))? {
                Ok(_) => good.push(name),
                Err(e) => self.fail(&name, when, &e),
            }
        }
        self.checks = good;
        Ok(())
    }

    fn finish(&mut self, living: &mut Living) -> Result<()> {
        step("finish, and look from the host's side");
        living.vm.agent.call("drop-caches 3")?;
        let checks = std::mem::take(&mut self.checks);
        self.finish_checks(living, checks)?;
        living.vm.agent.call("unmount").map(drop)
    }

    /// Ends these checks, and looks from the host's side.
    fn finish_checks(&mut self, living: &mut Living, checks: Vec<String>) -> Result<()> {
        let mut expected = Vec::new();
        for name in checks {
            match living.vm.agent.finish(&name)? {
                Ok(objects) => expected.push((name, objects)),
                Err(e) => self.fail(&name, "at the end", &e),
            }
        }
        for (name, objects) in &expected {
            if let Err(e) = Share::check(&self.share, objects) {
                self.fail(name, "on the host", &e);
            }
        }
        Ok(())
    }

    /// Mounts, fills the guest's caches and unmounts, over and over: each time
    /// thousands of RELEASEs and FORGETs are under way at once.
    fn remounts(living: &mut Living) -> Result<()> {
        step(format_args!("mount, work and unmount {REMOUNTS} times"));
        for n in 1..=REMOUNTS {
            for command in ["mount", "churn", "unmount"] {
                living
                    .vm
                    .agent
                    .call(command)
                    .map_err(|e| Fail::new(format!("mount {n}: {e}")))?;
            }
        }
        Ok(())
    }

    fn end(living: Living) -> Result<()> {
        living.vm.quit()?;
        living.daemon.wait_end()
    }
}
