//! Credentials are switched for one operation and always switched back.

use super::*;

/// Uid, gid, groups and effective capabilities of this thread, as the kernel
/// shows them.
fn shown() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status
        .lines()
        .filter(|l| {
            ["Uid:", "Gid:", "Groups:", "CapEff:"]
                .iter()
                .any(|k| l.starts_with(k))
        })
        .map(str::to_owned)
        .collect()
}

fn is_root() -> bool {
    // SAFETY: the call takes no pointer and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn field(shown: &[String], key: &str) -> Vec<String> {
    let line = shown.iter().find(|l| l.starts_with(key)).unwrap();
    line[key.len()..]
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// On a thread of its own, with these supplementary groups as the daemon's own.
fn on_a_thread(groups: &'static [u32], f: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        if is_root() {
            set_groups(groups).unwrap();
        }
        f();
    })
    .join()
    .unwrap();
}

#[test]
fn acting_changes_this_thread_and_goes_back() {
    if !is_root() {
        return;
    }
    for own in [&[][..], &[7, 8][..]] {
        on_a_thread(own, || {
            let before = shown();
            for (uid, gid, groups) in [
                (1000, 1001, None),
                (1000, 0, None),
                (0, 1001, Some(&[4242][..])),
                (1000, 1001, Some(&[4242, 4243][..])),
                (1000, 1001, Some(&[][..])),
            ] {
                {
                    let _acting = act_as(uid, gid, groups, false).unwrap();
                    let now = shown();
                    assert_eq!(field(&now, "Uid:")[1], uid.to_string());
                    assert_eq!(field(&now, "Gid:")[1], gid.to_string());
                    let want: Vec<_> = groups.unwrap_or(&[]).iter().map(u32::to_string).collect();
                    assert_eq!(field(&now, "Groups:"), want);
                    if uid != 0 {
                        assert_eq!(field(&now, "CapEff:")[0], "0000000000000000");
                    }
                }
                assert_eq!(shown(), before);
            }
        });
    }
}

#[test]
fn the_guests_root_changes_nothing_whatever_groups_it_sends() {
    on_a_thread(&[], || {
        let before = shown();
        let acting = act_as(0, 0, Some(&[4242]), false).unwrap();
        assert_eq!(shown(), before);
        drop(acting);
        assert_eq!(shown(), before);
    });
}

#[test]
fn access_is_overridden_where_the_guest_tells_no_groups() {
    if !is_root() {
        return;
    }
    on_a_thread(&[], || {
        let before = shown();
        {
            let _acting = act_as(1000, 1000, None, true).unwrap();
            assert_eq!(field(&shown(), "CapEff:")[0], "0000000000000002");
        }
        assert_eq!(shown(), before);
    });
}

#[test]
fn a_change_that_fails_half_way_is_undone() {
    if !is_root() {
        return;
    }
    on_a_thread(&[7], || {
        // Without CAP_SETUID the groups and the gid can be changed, the uid not.
        drop_capability_for_test(7);
        let before = shown();
        let failed = act_as(1000, 1001, Some(&[4242]), false).map(drop);
        assert_eq!(failed.unwrap_err(), Errno::EPERM);
        assert_eq!(shown(), before);
    });
}

#[test]
fn an_unprivileged_daemon_acts_as_itself_only() {
    if !is_root() {
        return;
    }
    on_a_thread(&[7], || {
        // SAFETY: these change the ids of this thread, which ends with the test.
        unsafe {
            libc::syscall(libc::SYS_setresgid, 1001, 1001, 1001);
            libc::syscall(libc::SYS_setresuid, 1000, 1000, 1000);
        }
        let before = shown();
        drop(act_as(1000, 1001, None, false).unwrap());
        drop(act_as(0, 0, None, true).unwrap());
        drop(act_as(1000, 1001, Some(&[7]), false).unwrap());
        for (uid, gid, groups) in [
            (1002, 1001, None),
            (1000, 1002, None),
            (1000, 1001, Some(&[4242][..])),
        ] {
            let refused = act_as(uid, gid, groups, true).map(drop);
            assert_eq!(refused.unwrap_err(), Errno::EPERM);
            assert_eq!(shown(), before);
        }
    });
}

#[test]
fn fsetid_comes_back() {
    on_a_thread(&[], || {
        let before = shown();
        {
            let _without = without_fsetid().unwrap();
            assert_eq!(capget().unwrap()[0].effective & (1 << CAP_FSETID), 0);
        }
        assert_eq!(shown(), before);
    });
}
