//! A guest that is put into a file, and goes on with a copy of its share.

use ferry_guest::fixture;
use serde_json::json;

use super::super::vm::file_uri;
use super::crossing::restored;
use super::{Journeying, Living, END};
use crate::fail::{need, Result};
use crate::progress::step;

impl Journeying<'_> {
    /// Into a file; and out of it, with the files somewhere else.
    pub(super) fn copy(&mut self, living: &mut Living) -> Result<()> {
        step("stop, and save to a file");
        let uri = file_uri(&self.run.machine.sockets.join("snapshot"));
        living.vm.qmp.execute("stop", json!({}))?;
        Self::migrate(living, &uri, "completed")?;
        living.vm.qmp.execute("quit", json!({}))?;
        living.vm.process().wait_end(END)?;
        let ended = living.daemon.process().wait_end(END)?;
        need(ended.success(), || format!("the daemon ended with {ended}"))?;
        step("copy the share, and restore on the copy");
        self.share = self.run.share.copy()?;
        let mut setup = self.setup();
        let (here, there) = (fixture::LIES_HERE, fixture::LIES_THERE);
        setup
            .own_options
            .push(format!("--remap-path={here}={there}"));
        let share = self.share.clone();
        let there = self.destination(living, &setup, &share, &uri)?;
        *living = restored(there)?;
        self.verify(living, "after the restore")
    }
}
