//! Programs that run in the guest for longer than a command may take.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use ferry_guest::text;

use crate::sys::{At, Failure, Result};

/// The mask that a login has.
const UMASK: libc::mode_t = 0o022;

/// Those that were started, by name.
#[derive(Default)]
pub struct Programs(BTreeMap<String, Child>);

impl Programs {
    /// `NAME UID GROUP LOG PROGRAM ARGUMENT...`, each word encoded. The program's user has
    /// the group of the same number, and GROUP beside it, unless it is root. All that it
    /// says goes to the file LOG.
    pub fn start(&mut self, command: &str) -> Result<()> {
        let words = command.split(' ').map(|word| {
            let bytes = text::decode(word);
            bytes
                .map(OsString::from_vec)
                .ok_or_else(|| Failure::new(format!("{word:?}")))
        });
        let words: Vec<OsString> = words.collect::<Result<_>>()?;
        let [name, user, group, log, program, arguments @ ..] = &words[..] else {
            return Err(Failure::new(format!("too few words: {command:?}")));
        };
        let id = |word: &OsString| -> Result<u32> {
            let word = word.to_string_lossy();
            word.parse().map_err(|_| format!("{word:?}")).at("no id")
        };
        let (user, group) = (id(user)?, id(group)?);
        let log = File::create(log).at(log.to_string_lossy())?;
        let become_it = move || {
            // SAFETY: the calls take numbers, and an array that outlives them.
            let rc = unsafe {
                libc::umask(UMASK);
                match user {
                    0 => 0,
                    _ => {
                        let groups = [user, group];
                        libc::setgroups(groups.len(), groups.as_ptr())
                            | libc::setresgid(user, user, user)
                            | libc::setresuid(user, user, user)
                    }
                }
            };
            match rc {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().at("log")?)
            .stderr(log);
        // SAFETY: system calls alone and no allocation, as is required after fork.
        unsafe { command.pre_exec(become_it) };
        let child = command.spawn().at(program.to_string_lossy())?;
        self.0.insert(name.to_string_lossy().into_owned(), child);
        Ok(())
    }

    /// How program `name` has ended: its exit code, or the signal below zero.
    pub fn ended(&mut self, name: &str) -> Result<String> {
        let child = self.0.get_mut(name);
        let child = child.ok_or_else(|| Failure::new(format!("no program {name:?}")))?;
        let Some(status) = child.try_wait().at(name)? else {
            return Ok("running".to_owned());
        };
        self.0.remove(name);
        // What it said is on the host then.
        rustix::fs::sync();
        let code = status.code().or(status.signal().map(|signal| -signal));
        Ok(code.unwrap_or(-1).to_string())
    }
}
