//! Users and groups of a user namespace.
//!
//! A user who is not root may map one id, its own, by itself. For more, the set-user-id
//! programs newuidmap and newgidmap look up in /etc/subuid and /etc/subgid which
//! others it has.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::str::FromStr;

use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{getegid, geteuid, waitpid, Pid, WaitOptions};

/// Why ids could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// `/proc/self/..` could not be written.
    #[error("failed to write /proc/self/{file}")]
    Write {
        /// `uid_map`, `gid_map` or `setgroups`.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The process that calls newuidmap and newgidmap could not be run.
    #[error("failed to {what}")]
    Helper {
        /// The step.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// newuidmap or newgidmap refused, and said why.
    #[error(
        "newuidmap or newgidmap failed: are they installed, and do /etc/subuid and /etc/subgid \
         give this user the ids of --uid-map and --gid-map?"
    )]
    Refused,
}

/// A line of `uid_map` or `gid_map`, see user_namespaces(7).
///
/// Read from `:inside:outside:count:`, where the delimiter is whatever comes first
/// and is neither letter nor digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First id in the namespace, as the guest sees it.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many. At least 1.
    pub count: u32,
}

impl FromStr for IdMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("\"{text}\" is not of the form :inside:outside:count:");
        let delimiter = text.chars().next().ok_or_else(usage)?;
        if delimiter.is_alphanumeric() {
            return Err(usage());
        }
        let rest = &text[delimiter.len_utf8()..];
        let rest = rest.strip_suffix(delimiter).unwrap_or(rest);
        let ids: Vec<u32> = rest
            .split(delimiter)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| usage())?;
        let [inside, outside, count] = ids[..] else {
            return Err(usage());
        };
        let fits = |first: u32| first.checked_add(count).is_some();
        if count == 0 || !fits(inside) || !fits(outside) {
            return Err(format!("\"{text}\" maps no ids, or some beyond 2^32 - 2"));
        }
        Ok(IdMap {
            inside,
            outside,
            count,
        })
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// The maps of a user namespace. Empty ones map the daemon's own id to 0: the
/// guest's root is the user whom the daemon runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub users: Vec<IdMap>,
    /// Groups.
    pub groups: Vec<IdMap>,
}

impl IdMaps {
    /// Whether the operator gave none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Whether somebody is id 0 in both; the daemon has to be.
    pub fn have_root(&self) -> bool {
        let has = |maps: &[IdMap]| maps.is_empty() || maps.iter().any(|map| map.inside == 0);
        has(&self.users) && has(&self.groups)
    }

    /// With the daemon's own id where nothing is given.
    fn or_own(&self) -> IdMaps {
        let or = |maps: &[IdMap], outside: u32| match maps {
            [] => vec![IdMap {
                inside: 0,
                outside,
                count: 1,
            }],
            maps => maps.to_vec(),
        };
        IdMaps {
            users: or(&self.users, geteuid().as_raw()),
            groups: or(&self.groups, getegid().as_raw()),
        }
    }
}

fn is_own(maps: &[IdMap], own: u32) -> bool {
    matches!(maps, [map] if map.outside == own && map.count == 1)
}

/// A map about to be written: before the namespace is made, since the helper has to
/// stay outside.
pub(crate) enum Mapper {
    /// By this process.
    Own(IdMaps),
    /// By a child process, which waits to be told.
    Helper { child: Pid, go: File },
}

impl Mapper {
    /// Call it before unshare(2).
    pub(crate) fn prepare(maps: &IdMaps) -> Result<Mapper, IdMapError> {
        let maps = maps.or_own();
        if is_own(&maps.users, geteuid().as_raw()) && is_own(&maps.groups, getegid().as_raw()) {
            return Ok(Mapper::Own(maps));
        }
        let failed = |what| move |source: io::Error| IdMapError::Helper { what, source };
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| failed("make a pipe for the mapping process")(e.into()))?;
        let target = std::process::id();
        // SAFETY: this process has one thread (see `enter`), so the child may do
        // whatever this one may.
        match unsafe { libc::fork() } {
            0 => {
                drop(go);
                let done = help(&maps, target, wait.into());
                // SAFETY: ends the process, without running what this process'
                // values do at their end.
                unsafe { libc::_exit(if done { 0 } else { 1 }) }
            }
            pid => match Pid::from_raw(pid) {
                Some(child) if pid > 0 => Ok(Mapper::Helper {
                    child,
                    go: go.into(),
                }),
                _ => Err(failed("start the mapping process")(
                    io::Error::last_os_error(),
                )),
            },
        }
    }

    /// Call it right behind unshare(2). True when groups can be set in the
    /// namespace.
    pub(crate) fn write(self) -> Result<(), IdMapError> {
        match self {
            Mapper::Own(maps) => {
                write("uid_map", &lines(&maps.users))?;
                // The kernel's condition: who may drop groups could reach files that
                // are forbidden to a group.
                write("setgroups", "deny")?;
                write("gid_map", &lines(&maps.groups))
            }
            Mapper::Helper { child, mut go } => {
                let told = go.write_all(b"x");
                drop(go);
                let status = loop {
                    match waitpid(Some(child), WaitOptions::empty()) {
                        Err(rustix::io::Errno::INTR) => {}
                        other => break other,
                    }
                };
                let status = status.map_err(|e| IdMapError::Helper {
                    what: "wait for the mapping process",
                    source: e.into(),
                })?;
                match status.and_then(|(_, status)| status.exit_status()) {
                    Some(0) if told.is_ok() => Ok(()),
                    _ => Err(IdMapError::Refused),
                }
            }
        }
    }
}

fn lines(maps: &[IdMap]) -> String {
    let lines: Vec<_> = maps.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn write(file: &'static str, text: &str) -> Result<(), IdMapError> {
    let failed = |source| IdMapError::Write { file, source };
    // The kernel takes a map in one write only.
    let mut open = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/{file}"))
        .map_err(failed)?;
    open.write_all(text.as_bytes()).map_err(failed)
}

/// The mapping process: waits until `target` has its namespace, maps.
fn help(maps: &IdMaps, target: u32, mut wait: File) -> bool {
    // Nothing comes when `target` failed and ended.
    if wait.read_exact(&mut [0]).is_err() {
        return false;
    }
    run("newuidmap", target, &maps.users) && run("newgidmap", target, &maps.groups)
}

fn run(program: &str, target: u32, maps: &[IdMap]) -> bool {
    let mut command = Command::new(program);
    command.arg(target.to_string()).stdin(Stdio::null());
    for map in maps {
        for id in [map.inside, map.outside, map.count] {
            command.arg(id.to_string());
        }
    }
    match command.status() {
        Ok(status) => status.success(),
        Err(e) => {
            log::error!("cannot run {program}: {e}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_with_any_delimiter() {
        let map = IdMap {
            inside: 0,
            outside: 100_000,
            count: 65536,
        };
        for text in [":0:100000:65536:", "/0/100000/65536/", " 0 100000 65536"] {
            assert_eq!(text.parse(), Ok(map), "{text}");
        }
        assert_eq!(map.to_string(), "0 100000 65536");
        for bad in [
            "",
            ":",
            "0:1:2",
            ":0:1:",
            ":0:1:2:3:",
            ":a:1:2:",
            ":0:1:0:",
            ":1:4294967295:2:",
            ":-1:0:1:",
        ] {
            assert!(bad.parse::<IdMap>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_daemon_has_to_be_somebody_s_root() {
        let map = |text: &str| IdMaps {
            users: vec![text.parse().unwrap()],
            groups: Vec::new(),
        };
        assert!(IdMaps::default().have_root() && IdMaps::default().is_empty());
        assert!(map(":0:1000:1:").have_root());
        assert!(!map(":1:1000:1:").have_root());
        let own = map(":0:1000:1:").or_own();
        assert_eq!(own.groups[0].outside, getegid().as_raw());
        assert!(is_own(&own.users, 1000) && !is_own(&own.users, 1001));
    }
}
