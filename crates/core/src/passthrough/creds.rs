//! Acting as the guest's user, on the calling thread only, and going back.
//!
//! Linux has credentials for each thread; libc's functions change those of all
//! threads, so these are bare system calls. Whatever was changed is undone when
//! the guard is dropped, also when only a part of the change came about.

use std::cell::OnceCell;

use crate::errno::{Errno, FsResult};

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_FSETID: u32 = 4;
/// "As it is", for a user or group id.
const SAME: u32 = u32::MAX;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn capget() -> FsResult<[CapData; 2]> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 reads one header and writes two data structs, which is
    // what these pointers have.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(data)
}

fn capset(data: &[CapData; 2]) -> FsResult<()> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    // SAFETY: version 3 reads one header and two data structs.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &mut header, data.as_ptr()) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

fn set_euid(uid: u32) -> FsResult<()> {
    // SAFETY: the call takes no pointer.
    let rc = unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

fn set_egid(gid: u32) -> FsResult<()> {
    // SAFETY: the call takes no pointer.
    let rc = unsafe { libc::syscall(libc::SYS_setresgid, SAME, gid, SAME) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

fn set_groups(groups: &[u32]) -> FsResult<()> {
    // SAFETY: the kernel reads as many ids as the slice has.
    let rc = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

/// Who the daemon is, as this thread found it.
struct Own {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Own {
    fn find() -> Own {
        // SAFETY: these calls take no pointer and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let mut groups = Vec::new();
        // SAFETY: with size 0 nothing is written.
        let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
        if count > 0 {
            groups.resize(count as usize, 0);
            // SAFETY: there is room for `count` ids.
            let count = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
            groups.truncate(count.max(0) as usize);
        }
        Own { uid, gid, groups }
    }
}

thread_local! {
    // Found when this thread first acts for somebody, when it is nobody else yet.
    static OWN: OnceCell<Own> = const { OnceCell::new() };
}

/// The calling thread acts as somebody else as long as this lives.
#[must_use]
pub(super) struct Acting {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: bool,
    // The guard belongs to the thread that made it.
    not_send: std::marker::PhantomData<*const ()>,
}

/// Makes the calling thread act as `uid` and `gid` with `groups` beside them.
///
/// Id 0 is left as it is: the guest's root is whoever the daemon is. A daemon
/// without `CAP_SETUID` can act as itself only. With `override_dac`, access is
/// not checked against the groups (a guest that does not tell them has checked).
///
/// # Errors
/// `EPERM` where the daemon may not; then nothing has changed.
pub(super) fn act_as(
    uid: u32,
    gid: u32,
    groups: Option<&[u32]>,
    override_dac: bool,
) -> FsResult<Acting> {
    let mut acting = Acting {
        uid: None,
        gid: None,
        groups: false,
        not_send: std::marker::PhantomData,
    };
    OWN.with(|own| {
        let own = own.get_or_init(Own::find);
        let new_uid = uid != 0 && uid != own.uid;
        let new_gid = gid != 0 && gid != own.gid;
        if !new_uid && !new_gid && (uid == 0 || groups.is_none_or(<[u32]>::is_empty)) {
            return Ok(());
        }
        // Not the daemon's own groups: they are not the guest user's.
        let groups = groups.unwrap_or(&[]);
        if groups != own.groups {
            // Marked first: even a call that fails is undone rather than trusted.
            match set_groups(groups) {
                Ok(()) => acting.groups = true,
                // A daemon that may not change them may act with those it has.
                Err(Errno::EPERM) if groups.iter().all(|g| own.groups.contains(g)) => {}
                Err(e) => return Err(e),
            }
        }
        if new_gid {
            set_egid(gid)?;
            acting.gid = Some(own.gid);
        }
        if new_uid {
            set_euid(uid)?;
            acting.uid = Some(own.uid);
            if override_dac && own.uid == 0 {
                // Leaving user 0 has emptied the effective set; coming back
                // fills it again.
                let mut caps = capget()?;
                let bit = 1 << CAP_DAC_OVERRIDE;
                if caps[0].permitted & bit != 0 {
                    caps[0].effective |= bit;
                    capset(&caps)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(acting)
}

impl Drop for Acting {
    fn drop(&mut self) {
        // The user first: as another one, the thread may not change its groups.
        let undone = self
            .uid
            .map_or(Ok(()), set_euid)
            .and_then(|()| self.gid.map_or(Ok(()), set_egid))
            .and_then(|()| {
                if !self.groups {
                    return Ok(());
                }
                OWN.with(|own| own.get().map_or(Ok(()), |own| set_groups(&own.groups)))
            });
        if let Err(e) = undone {
            // Never seen: the daemon's ids stay saved in the thread. Going on
            // would serve other users of the guest as this one.
            log::error!("cannot stop acting as a guest user ({e}); ending");
            std::process::abort();
        }
    }
}

/// The calling thread is without `CAP_FSETID` as long as this lives, so that the
/// kernel clears set-user-id and set-group-id bits on writes and truncations.
#[must_use]
pub(super) struct WithoutFsetid {
    caps: Option<[CapData; 2]>,
    not_send: std::marker::PhantomData<*const ()>,
}

/// See [`WithoutFsetid`].
///
/// # Errors
/// The system calls'; then nothing has changed.
pub(super) fn without_fsetid() -> FsResult<WithoutFsetid> {
    let mut caps = capget()?;
    let before = caps;
    let bit = 1 << CAP_FSETID;
    let has = caps[0].effective & bit != 0;
    if has {
        caps[0].effective &= !bit;
        capset(&caps)?;
    }
    Ok(WithoutFsetid {
        caps: has.then_some(before),
        not_send: std::marker::PhantomData,
    })
}

impl Drop for WithoutFsetid {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.caps.as_ref().map(capset) {
            // What is permitted can always be made effective; without it, bits
            // are cleared that the guest wanted kept, which is the safe side.
            log::error!("cannot make CAP_FSETID effective again: {e}");
        }
    }
}

/// Takes a capability away from the calling thread for good.
#[cfg(test)]
pub(super) fn drop_capability_for_test(number: u32) {
    let mut caps = capget().unwrap();
    caps[0].effective &= !(1 << number);
    caps[0].permitted &= !(1 << number);
    capset(&caps).unwrap();
}

#[cfg(test)]
#[path = "creds_tests.rs"]
mod tests;
