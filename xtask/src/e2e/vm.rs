//! A virtual machine: QEMU with a memory that the daemon can map, a virtio-fs
//! device, a console and a port for the agent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::agent::Agent;
use super::process::Process;
use super::qmp::Qmp;
use super::wait;
use crate::fail::{need, Fail, Result};
use crate::setup::Tools;

/// As much as kernel, agent and page cache need; all of it may be sent.
const MEMORY: &str = "320M";
/// One, translated as one of several. For a machine that can have no more than one
/// QEMU's emulator makes plain additions of locked ones, and with them goes the
/// memory barrier between the driver's wish for an interrupt (`used_event`) and its
/// last look at the used ring. The device on its other core then completes a request
/// unseen and untold, and the guest waits forever; so it is with kicks.
const PROCESSORS: &str = "1,maxcpus=2";
/// Said to any guest's kernel. On a busy host the emulated timer may not tick in the time
/// that the kernel gives it, which it would take for a machine that does not work.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 loglevel=5 no_timer_check";
const END: Duration = Duration::from_secs(30);
/// Full speed of a migration, in bytes per second: not a limit in practice.
pub const FULL_SPEED: u64 = 10 << 30;
/// So slow that a migration can be cancelled in its midst.
pub const CRAWL: u64 = 2 << 20;

/// A running QEMU.
pub struct Vm {
    /// Its monitor.
    pub qmp: Qmp,
    /// The agent in it.
    pub agent: Agent,
    process: Process,
    console: PathBuf,
}

/// What the VM is to begin with.
pub enum Start {
    /// The kernel boots.
    Boot,
    /// It waits for what a migration brings. The number of the last command
    /// that its guest was given.
    Incoming(u32),
}

/// What all VMs of a run have in common.
pub struct Machine<'a> {
    /// QEMU and the kernel.
    pub tools: &'a Tools,
    /// The initial file system; without one, the share is the root.
    pub initramfs: Option<&'a Path>,
    /// Directory for sockets: short, as their names must be.
    pub sockets: &'a Path,
    /// Directory for logs.
    pub logs: &'a Path,
}

impl Vm {
    /// Starts one whose device is served at `daemon_socket`. Its kernel is told
    /// `arguments` besides what it always is.
    pub fn start(
        machine: &Machine<'_>,
        name: &str,
        daemon_socket: &Path,
        arguments: &str,
        start: &Start,
    ) -> Result<Self> {
        let socket = |kind: &str| machine.sockets.join(format!("{name}.{kind}"));
        let (monitor, port) = (socket("qmp"), socket("agent"));
        let console = machine.logs.join(format!("{name}.console"));
        let mut command = Command::new(machine.tools.qemu);
        command
            .args([
                "-name",
                name,
                "-nodefaults",
                "-display",
                "none",
                "-no-user-config",
            ])
            .args(["-no-reboot", "-cpu", "max", "-smp", PROCESSORS])
            .args(["-m", MEMORY])
            .args(["-accel", "tcg,thread=multi"])
            .args(["-machine", "q35,memory-backend=mem"])
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=mem,size={MEMORY},share=on"
            ))
            .arg("-chardev")
            .arg(format!("socket,id=fs,path={}", daemon_socket.display()))
            .arg("-device")
            .arg(format!(
                "vhost-user-fs-pci,chardev=fs,tag={},queue-size=512",
                ferry_guest::TAG
            ))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("unix:{},server=on,wait=off", port.display()))
            .arg("-kernel")
            .arg(&machine.tools.kernel)
            .arg("-append")
            .arg(format!("{KERNEL_ARGUMENTS} {arguments}"));
        if let Some(initramfs) = machine.initramfs {
            command.arg("-initrd").arg(initramfs);
        }
        if matches!(start, Start::Incoming(_)) {
            command.args(["-incoming", "defer"]);
        }
        let log = machine.logs.join(format!("{name}.log"));
        let mut process = Process::start(name, command, &log)?;
        let connected = (|| {
            let last_number = match start {
                Start::Boot => 0,
                Start::Incoming(number) => *number,
            };
            // The port first: what is said before somebody listens is lost.
            let agent = Agent::connect(&port, last_number)?;
            Ok((Qmp::connect(&monitor)?, agent))
        })();
        let (qmp, mut agent) = connected.map_err(|e: Fail| {
            let ended = process.ended().ok().flatten();
            let ended = ended.map_or_else(String::new, |status| format!(" ({name}: {status})"));
            Fail::new(format!("{e}{ended}\n{}", process.log_tail()))
        })?;
        if matches!(start, Start::Boot) {
            agent.wait_ready()?;
        }
        Ok(Self {
            qmp,
            agent,
            process,
            console,
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What its kernel has said, in a file.
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// Listens for a migration at `uri`.
    pub fn listen(&mut self, uri: &str) -> Result<()> {
        self.qmp
            .execute("migrate-incoming", json!({ "uri": uri }))?;
        Ok(())
    }

    /// Waits until a migration that comes in is done and the guest runs; the
    /// time of the latter.
    pub fn wait_resumed(&mut self) -> Result<f64> {
        let (qmp, process) = (&mut self.qmp, &mut self.process);
        wait::until("the guest to go on at the destination", END, || {
            if let Some(status) = process.ended()? {
                return Err(Fail::new(format!("the destination has ended: {status}")));
            }
            Ok(qmp.running()?.then_some(()))
        })?;
        self.qmp
            .last_event("RESUME")
            .map(|event| event.time)
            .ok_or_else(|| Fail::new("the guest runs, but has not resumed"))
    }

    /// Ends QEMU.
    pub fn quit(mut self) -> Result<()> {
        self.qmp.execute("quit", json!({}))?;
        let status = self.process.wait_end(END)?;
        need(status.success(), || {
            format!("QEMU ended with {status}\n{}", self.process.log_tail())
        })
    }
}

/// The address of a socket, in QEMU's words for migrations.
pub fn socket_uri(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// The address of a file.
pub fn file_uri(path: &Path) -> String {
    format!("file:{}", path.display())
}
