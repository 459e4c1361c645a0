//! Crossings of migration type `external`: the state goes from daemon to daemon by
//! `ferryctl`, and QEMU carries 0 bytes of it.

use std::path::Path;

use serde_json::json;

use super::crossing::{restored, MIGRATION};
use super::{Journeying, Living};
use crate::command::Cmd;
use crate::e2e::daemon::{Daemon, StateBy};
use crate::e2e::vm::{file_uri, socket_uri, FULL_SPEED};
use crate::e2e::wait;
use crate::fail::{need, Context, Fail, Result};
use crate::progress::step;

impl Journeying<'_> {
    /// Lives on while QEMU waits before the switch-over, at which the VM is stopped and
    /// both daemons have their front-ends.
    pub(super) fn hop_external(&mut self, living: &mut Living) -> Result<()> {
        step("crossing by the control sockets");
        let uri = socket_uri(&self.migration_socket());
        let setup = self.setup();
        let share = self.run.share.path();
        let mut there = self.destination(living, &setup, share, &uri)?;
        living.vm.qmp.migration_settings(true, FULL_SPEED)?;
        let capability = json!({ "capability": "pause-before-switchover", "state": true });
        living.vm.qmp.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": [capability] }),
        )?;
        living.vm.qmp.execute("migrate", json!({ "uri": uri }))?;
        wait::until("QEMU to wait before the switch-over", MIGRATION, || {
            let now = living.vm.qmp.migration()?;
            let moving = !["failed", "completed"].contains(&now.status.as_str());
            need(moving, || {
                format!("the migration is {}: {}", now.status, now.error)
            })?;
            Ok((now.status == "pre-switchover").then_some(()))
        })?;
        let state = self.run.machine.sockets.join("state");
        let bytes = self.fetch(&living.daemon, &state)?;
        self.ferryctl("load", &there.daemon)?
            .args([&state])
            .output()?;
        step(format_args!("{bytes} bytes went by ferryctl; switch over"));
        living
            .vm
            .qmp
            .execute("migrate-continue", json!({ "state": "pre-switchover" }))?;
        let resumed = there
            .vm
            .wait_resumed()
            .map_err(|e| Fail::new(format!("{e}\n{}", there.said())))?;
        let stopped = living.vm.qmp.last_event("STOP").map(|event| event.time);
        self.measured
            .downtimes
            .push(stopped.map_or(f64::NAN, |time| (resumed - time) * 1e3));
        wait::until("the source to be done", MIGRATION, || {
            Ok((living.vm.qmp.migration()?.status == "completed").then_some(()))
        })?;
        let mut source = std::mem::replace(living, there);
        Self::carried_nothing(&mut source.daemon)?;
        Self::end(source)?;
        self.verify(living, "after a crossing by the control sockets")
    }

    /// Into two files, one of QEMU's and one of the daemon's, and out of them again.
    pub(super) fn snapshot_external(&mut self, living: &mut Living) -> Result<()> {
        step("stop, and save to two files");
        let file = self.run.machine.sockets.join("snapshot");
        let uri = file_uri(&file);
        living.vm.qmp.execute("stop", json!({}))?;
        Self::migrate(living, &uri, "completed")?;
        let state = self.run.machine.sockets.join("state");
        self.fetch(&living.daemon, &state)?;
        living.vm.qmp.execute("quit", json!({}))?;
        living.vm.process().wait_end(super::END)?;
        let ended = living.daemon.process().wait_end(super::END)?;
        need(ended.success(), || format!("the daemon ended with {ended}"))?;
        Self::carried_nothing(&mut living.daemon)?;
        let mut setup = self.setup();
        setup.state_by = StateBy::File(state);
        let share = self.run.share.path();
        let there = self.destination(living, &setup, share, &uri)?;
        *living = restored(there)?;
        self.verify(living, "after a restore from two files")
    }

    /// Has `ferryctl` fetch a daemon's state; its length.
    fn fetch(&mut self, daemon: &Daemon, to: &Path) -> Result<u64> {
        self.ferryctl("save", daemon)?
            .args(["--output".as_ref(), to.as_os_str()])
            .output()?;
        let bytes = std::fs::metadata(to).context(to.display())?.len();
        self.measured.states.push(bytes);
        Ok(bytes)
    }

    fn ferryctl(&self, command: &str, daemon: &Daemon) -> Result<Cmd> {
        let program = self.run.ferryctl;
        let program = program.ok_or_else(|| Fail::new("ferryctl was not built"))?;
        let socket = daemon.control();
        Ok(Cmd::new(program).args([command.as_ref(), "--socket".as_ref(), socket.as_os_str()]))
    }

    /// QEMU was given a state of 0 bytes, and the daemon says so.
    fn carried_nothing(daemon: &mut Daemon) -> Result<()> {
        let log = daemon.process().log();
        need(
            log.contains("state of 0 bytes given to the front-end"),
            || format!("the daemon's log tells another story:\n{log}"),
        )
    }
}
