//! A guest that cannot cross, since more is open without a name than its daemon lets
//! cross. That is known before it is stopped, and it goes on where it is.

use super::super::vm::FULL_SPEED;
use super::super::wait;
use super::{Journeying, Living, END};
use crate::fail::{need, Fail, Result};
use crate::progress::step;

/// How often the crossing is tried.
const ATTEMPTS: usize = 2;
/// What is too much.
const CHECK: &str = "too-much";

impl Journeying<'_> {
    /// Has a migration refused, and the guest go on; then the file is closed.
    pub(super) fn too_much(&mut self, living: &mut Living) -> Result<()> {
        for n in 1..=ATTEMPTS {
            step(format_args!("cross with too much, attempt {n}"));
            let uri = super::super::vm::socket_uri(&self.migration_socket());
            let mut there = self.destination(living, &self.setup(), &self.share.clone(), &uri)?;
            Self::begin_to_migrate(living, &uri)?;
            wait::until("the source's warning during precopy", END, || {
                let said = living.daemon.process().log();
                let warnings = said.matches("this migration will be refused").count();
                Ok((warnings >= n).then_some(()))
            })
            .map_err(|e| Fail::new(format!("{e}\n{}", living.said())))?;
            need(living.vm.qmp.running()?, || {
                "the guest was stopped before the warning".into()
            })?;
            living.vm.qmp.bandwidth(FULL_SPEED)?;
            Self::migrated(living, "failed")?;
            wait::until("the guest to go on at the source", END, || {
                Ok(living.vm.qmp.running()?.then_some(()))
            })?;
            // Nothing of a state has come to the other side.
            there.vm.process().wait_end(END)?;
            let refusal = "more than --ghost-limit";
            let log = living.daemon.process().log();
            let said = log.lines().rev().find(|line| line.contains("ERROR"));
            need(said.is_some_and(|line| line.contains(refusal)), || {
                format!(
                    "the source does not say why it refused\n{}",
                    living.daemon.process().log_tail()
                )
            })?;
            self.verify(living, "after the refused crossing")?;
        }
        step("close what is too much");
        self.checks.retain(|check| check != CHECK);
        self.finish_checks(living, vec![CHECK.to_owned()])
    }
}
