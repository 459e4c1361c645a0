//! One guest's life: it boots, works, crosses, and at the end the host looks at
//! what it has left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::daemon::{Daemon, Kind, Program, Setup};
use super::qmp::Migration;
use super::rings;
use super::scenario::{known_failure, Journey, Mode, Scenario};
use super::share::Share;
use super::vm::{file_uri, socket_uri, Machine, Start, Vm, CRAWL, FULL_SPEED};
use super::wait;
use crate::fail::{need, Fail, Result};
use crate::progress::step;

const MIGRATION: Duration = Duration::from_secs(120);
/// After a migration has failed, until the source goes on.
const GO_ON: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(30);
/// What has been sent when a migration is cancelled, in bytes.
const MIDST: u64 = 3 << 20;
const REMOUNTS: usize = 5;
/// How often a daemon must refuse in a row.
const REFUSALS: usize = 2;

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
    /// QEMU and so on.
    pub machine: &'a Machine<'a>,
    /// The shared directory.
    pub share: &'a Share,
    /// The checks to make; all that apply if empty.
    pub only: &'a [String],
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
}

/// Runs it. All that was measured, and what failed.
pub fn run(run: &Run<'_>) -> (Measured, Result<()>) {
    let mut journey = Journeying {
        run,
        checks: Vec::new(),
        started: 0,
        measured: Measured::default(),
        failures: Vec::new(),
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
            Journey::Refused => {
                self.refused(living)?;
                self.hop(living)?;
            }
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
        Setup {
            mode: self.run.scenario.mode,
            format: formats[self.started % formats.len()],
            writeback: self.run.scenario.journey == Journey::Writeback,
            keep_listening: false,
            options: self.run.scenario.work.options(),
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
        let started = self.vm(&daemon, &Start::Boot);
        let said = |e, daemon: &mut Daemon| {
            let console = self.run.machine.logs.join("vm-0.console");
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
        let mut expected = Vec::new();
        for name in std::mem::take(&mut self.checks) {
            match living.vm.agent.finish(&name)? {
                Ok(objects) => expected.push((name, objects)),
                Err(e) => self.fail(&name, "at the end", &e),
            }
        }
        for (name, objects) in &expected {
            if let Err(e) = self.run.share.check(objects) {
                self.fail(name, "on the host", &e);
            }
        }
        living.vm.agent.call("unmount").map(drop)
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

    /// Takes down what a source tells of the state that it has written.
    fn note_state(&mut self, daemon: &Daemon) {
        self.measured.states.extend(daemon.state_bytes());
    }

    /// Starts a daemon of `share` and a VM that waits at `uri`.
    fn destination(
        &mut self,
        living: &Living,
        setup: &Setup,
        share: &Path,
        uri: &str,
    ) -> Result<Living> {
        let daemon = self.daemon(setup, share)?;
        let mut vm = self.vm(&daemon, &Start::Incoming(living.vm.agent.number()))?;
        vm.qmp
            .migration_settings(uri.starts_with("unix:"), FULL_SPEED)?;
        vm.listen(uri)?;
        Ok(Living { vm, daemon })
    }

    fn migration_socket(&self) -> PathBuf {
        let name = format!("migration-{}", self.started);
        self.run.machine.sockets.join(name)
    }

    /// Migrates and waits for the end, which must be `wanted`.
    fn migrate(living: &mut Living, uri: &str, wanted: &str) -> Result<Migration> {
        let unix = uri.starts_with("unix:");
        living.vm.qmp.migration_settings(unix, FULL_SPEED)?;
        living.vm.qmp.execute("migrate", json!({ "uri": uri }))?;
        let end = wait::until("the migration", MIGRATION, || {
            if let Some(status) = living.vm.process().ended()? {
                return Err(Fail::new(format!("the source VM has ended: {status}")));
            }
            let now = living.vm.qmp.migration()?;
            let over = ["completed", "failed", "cancelled"].contains(&now.status.as_str());
            Ok(over.then_some(now))
        })?;
        need(end.status == wanted, || {
            format!(
                "the migration has {} instead of {wanted}: {}",
                end.status, end.error
            )
        })?;
        Ok(end)
    }

    fn hop(&mut self, living: &mut Living) -> Result<()> {
        let n = self.measured.downtimes.len() + 1;
        step(format_args!("crossing {n}"));
        let uri = socket_uri(&self.migration_socket());
        let setup = self.setup();
        let share = self.run.share.path();
        let mut there = self.destination(living, &setup, share, &uri)?;
        Self::migrate(living, &uri, "completed")
            .map_err(|e| Fail::new(format!("{e}\n{}", there.said())))?;
        let resumed = there
            .vm
            .wait_resumed()
            .map_err(|e| Fail::new(format!("{e}\n{}", there.said())))?;
        let stopped = living.vm.qmp.last_event("STOP").map(|event| event.time);
        let downtime = stopped.map_or(f64::NAN, |time| (resumed - time) * 1e3);
        step(format_args!("crossed; downtime {downtime:.0} ms"));
        self.measured.downtimes.push(downtime);
        let source = std::mem::replace(living, there);
        self.note_state(&source.daemon);
        Self::end(source)?;
        self.verify(living, &format!("after crossing {n}"))
    }

    fn cancel(&mut self, living: &mut Living) -> Result<()> {
        step("begin a crossing, and cancel it");
        let uri = socket_uri(&self.migration_socket());
        let setup = self.setup();
        let share = self.run.share.path();
        let there = self.destination(living, &setup, share, &uri)?;
        living.vm.qmp.migration_settings(true, CRAWL)?;
        living.vm.qmp.execute("migrate", json!({ "uri": uri }))?;
        wait::until("a part of the memory to be sent", MIGRATION, || {
            let now = living.vm.qmp.migration()?;
            let moving = ["setup", "active"].contains(&now.status.as_str());
            need(moving, || {
                format!("the migration is {}: {}", now.status, now.error)
            })?;
            Ok((now.status == "active" && now.sent > MIDST).then_some(()))
        })?;
        // The guest works while the daemon collects.
        self.verify(living, "in the midst of a migration")?;
        living.vm.qmp.execute("migrate_cancel", json!({}))?;
        wait::until("the cancelled migration to end", END, || {
            Ok((living.vm.qmp.migration()?.status == "cancelled").then_some(()))
        })?;
        need(living.vm.qmp.running()?, || {
            "the guest does not run after the cancelled migration".into()
        })?;
        drop(there);
        self.verify(living, "after the cancelled migration")
    }

    fn snapshot(&mut self, living: &mut Living) -> Result<()> {
        step("stop, and save to a file");
        let file = self.run.machine.sockets.join("snapshot");
        let uri = file_uri(&file);
        living.vm.qmp.execute("stop", json!({}))?;
        Self::migrate(living, &uri, "completed")?;
        let size = std::fs::metadata(&file).map(|m| m.len()).unwrap_or(0);
        step(format_args!("restore from {} MiB", size >> 20));
        let setup = self.setup();
        let share = self.run.share.path();
        // Source and destination have nothing but the file in common.
        living.vm.qmp.execute("quit", json!({}))?;
        living.vm.process().wait_end(END)?;
        let ended = living.daemon.process().wait_end(END)?;
        need(ended.success(), || format!("the daemon ended with {ended}"))?;
        self.note_state(&living.daemon);
        let mut there = self.destination(living, &setup, share, &uri)?;
        wait::until("the restored memory", MIGRATION, || {
            if let Some(status) = there.vm.process().ended()? {
                let said = there.said();
                return Err(Fail::new(format!("the restore failed: {status}\n{said}")));
            }
            Ok((there.vm.qmp.migration()?.status == "completed").then_some(()))
        })?;
        there.vm.qmp.execute("cont", json!({}))?;
        *living = there;
        self.verify(living, "after the restore")
    }

    /// The destination's daemon has another directory: it must refuse, and the
    /// guest must go on where it is, as though nothing had been.
    fn refused(&mut self, living: &mut Living) -> Result<()> {
        let wrong = self.run.machine.logs.join("wrong-directory");
        std::fs::create_dir_all(&wrong)
            .map_err(|e| Fail::new(format!("{}: {e}", wrong.display())))?;
        let ours = self.run.program.kind == Kind::Ferryfsd;
        if !ours && self.run.scenario.mode == Mode::FileHandles {
            step("left out: virtiofsd does not look where the handles that it opens lie");
            return Ok(());
        }
        let mut setup = self.setup();
        setup.keep_listening = ours;
        let mut daemon = self.daemon(&setup, &wrong)?;
        // One that survives its front-end is asked again.
        for n in 1..=if ours { REFUSALS } else { 1 } {
            step(format_args!("cross to a wrong directory, attempt {n}"));
            let uri = socket_uri(&self.migration_socket());
            let start = Start::Incoming(living.vm.agent.number());
            let mut vm = self.vm(&daemon, &start)?;
            vm.qmp.migration_settings(true, FULL_SPEED)?;
            vm.listen(&uri)?;
            let end = Self::migrate(living, &uri, "failed")?;
            wait::until("the guest to go on at the source", GO_ON, || {
                Ok(living.vm.qmp.running()?.then_some(()))
            })?;
            let ended = vm.process().wait_end(END)?;
            let said = vm.process().log();
            need(said.contains("back-end state"), || {
                format!(
                    "the destination failed ({ended}, {}), but not for the daemon's refusal:\n{}",
                    end.error,
                    vm.process().log_tail()
                )
            })?;
            self.verify(living, "after the refused crossing")?;
        }
        let ended = daemon.process().ended()?;
        if ours {
            need(ended.is_none(), || {
                format!(
                    "the refusing daemon is gone: {ended:?}\n{}",
                    daemon.process().log_tail()
                )
            })?;
            let log = daemon.process().log();
            let reason = log.lines().rev().find(|line| line.contains("ERROR"));
            need(reason.is_some(), || {
                format!("no reason is logged\n{}", daemon.process().log_tail())
            })?;
            step(format_args!("refused: {}", reason.unwrap_or_default()));
        }
        Ok(())
    }
}
