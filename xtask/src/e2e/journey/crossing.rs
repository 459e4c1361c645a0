//! From one daemon and QEMU to the next: the crossings themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferry_guest::meddling;
use serde_json::json;

use super::super::daemon::{Daemon, Kind, Setup};
use super::super::qmp::Migration;
use super::super::scenario::{Mode, Work};
use super::super::vm::{file_uri, socket_uri, Start, CRAWL, FULL_SPEED};
use super::super::wait;
use super::{Journeying, Living, END};
use crate::fail::{need, Context, Fail, Result};
use crate::progress::step;

pub(super) const MIGRATION: Duration = Duration::from_secs(120);
/// After a migration has failed, until the source goes on.
const GO_ON: Duration = Duration::from_secs(30);
/// What has been sent when a migration is in its midst, in bytes.
const MIDST: u64 = 3 << 20;
/// How often a daemon must refuse in a row.
const REFUSALS: usize = 2;

impl Journeying<'_> {
    /// Takes down what a source tells of the state that it has written.
    fn note_state(&mut self, daemon: &Daemon) {
        self.measured.states.extend(daemon.state_bytes());
    }

    /// Starts a daemon of `share` and a VM that waits at `uri`.
    pub(super) fn destination(
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

    pub(super) fn migration_socket(&self) -> PathBuf {
        let name = format!("migration-{}", self.started);
        self.run.machine.sockets.join(name)
    }

    /// Migrates and waits for the end, which must be `wanted`.
    pub(super) fn migrate(living: &mut Living, uri: &str, wanted: &str) -> Result<Migration> {
        let unix = uri.starts_with("unix:");
        living.vm.qmp.migration_settings(unix, FULL_SPEED)?;
        living.vm.qmp.execute("migrate", json!({ "uri": uri }))?;
        Self::migrated(living, wanted)
    }

    /// Begins to migrate so slowly that there is time for other things, and returns
    /// when a part of the memory is there.
    pub(super) fn begin_to_migrate(living: &mut Living, uri: &str) -> Result<()> {
        living.vm.qmp.migration_settings(true, CRAWL)?;
        living.vm.qmp.execute("migrate", json!({ "uri": uri }))?;
        wait::until("a part of the memory to be sent", MIGRATION, || {
            let now = living.vm.qmp.migration()?;
            let moving = ["setup", "active"].contains(&now.status.as_str());
            need(moving, || {
                format!("the migration is {}: {}", now.status, now.error)
            })?;
            Ok((now.status == "active" && now.sent > MIDST).then_some(()))
        })
    }

    /// Waits for the end of a migration, which must be `wanted`.
    pub(super) fn migrated(living: &mut Living, wanted: &str) -> Result<Migration> {
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

    /// To another daemon.
    pub(super) fn hop(&mut self, living: &mut Living) -> Result<()> {
        self.hop_with(living, None)
    }

    /// To another daemon, with something to do in the midst of it.
    pub(super) fn hop_with(
        &mut self,
        living: &mut Living,
        meanwhile: Option<&mut dyn FnMut() -> Result<()>>,
    ) -> Result<()> {
        let n = self.measured.downtimes.len() + 1;
        step(format_args!("crossing {n}"));
        let uri = socket_uri(&self.migration_socket());
        let setup = self.setup();
        let share = self.run.share.path();
        let mut there = self.destination(living, &setup, share, &uri)?;
        let migrated = match meanwhile {
            None => Self::migrate(living, &uri, "completed"),
            Some(work) => Self::begin_to_migrate(living, &uri)
                .and_then(|()| work())
                .and_then(|()| living.vm.qmp.bandwidth(FULL_SPEED))
                .and_then(|()| Self::migrated(living, "completed")),
        };
        migrated.map_err(|e| Fail::new(format!("{e}\n{}", there.said())))?;
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
        if self.run.scenario.work == Work::Late {
            // It was restored late, or this shows nothing.
            let all = "inodes have been looked for in";
            wait::until("all inodes to be located", END, || {
                Ok(living.daemon.process().log().contains(all).then_some(()))
            })?;
        }
        self.verify(living, &format!("after crossing {n}"))
    }

    /// To another daemon, while others are busy with what is open; and on from there, to
    /// see that all of it has been found.
    pub(super) fn meddled(&mut self, living: &mut Living) -> Result<()> {
        let share = self.run.share.path().to_owned();
        let mut meddle = || {
            step("rename, replace and remove on the host");
            meddling::meddle(&share).context("meddle with the share")
        };
        self.hop_with(living, Some(&mut meddle))?;
        self.hop(living)
    }

    /// Nearly to another daemon.
    pub(super) fn cancel(&mut self, living: &mut Living) -> Result<()> {
        step("begin a crossing, and cancel it");
        let uri = socket_uri(&self.migration_socket());
        let setup = self.setup();
        let share = self.run.share.path();
        let there = self.destination(living, &setup, share, &uri)?;
        Self::begin_to_migrate(living, &uri)?;
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

    /// Into a file, and out of it.
    pub(super) fn snapshot(&mut self, living: &mut Living) -> Result<()> {
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
        let there = self.destination(living, &setup, share, &uri)?;
        *living = restored(there)?;
        self.verify(living, "after the restore")
    }

    /// The destination's daemon has another directory: it must refuse, and the
    /// guest must go on where it is, as though nothing had been.
    pub(super) fn refused(&mut self, living: &mut Living) -> Result<()> {
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

/// Waits until a machine that was started from a file has its memory, and lets it go on.
pub(super) fn restored(mut there: Living) -> Result<Living> {
    wait::until("the restored memory", MIGRATION, || {
        if let Some(status) = there.vm.process().ended()? {
            let said = there.said();
            return Err(Fail::new(format!("the restore failed: {status}\n{said}")));
        }
        Ok((there.vm.qmp.migration()?.status == "completed").then_some(()))
    })?;
    there.vm.qmp.execute("cont", json!({}))?;
    Ok(there)
}
