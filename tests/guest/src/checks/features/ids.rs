//! Users and groups that are others on the host.

use std::fs::{File, Permissions};
use std::os::unix::fs::{chown, lchown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ferry_guest::expectation::Object;
use ferry_guest::fixture::{FORBIDDEN, HOST_IDS, OTHERS, SQUASHED, TRANSLATED};
use ferry_guest::{Expectation, MOUNT};
use rustix::fs::{mknodat, FileType, Mode, CWD};
use rustix::io::Errno;

use crate::checks::held::Held;
use crate::checks::{in_share, Live};
use crate::sys::{self, need, need_error, At, Result};

/// A user of the guest, and a group.
const USER: u32 = 5;
const NEXT: (u32, u32) = (9, 10);
const NO_ONE: u32 = FORBIDDEN.0 + 3;

struct Ids {
    dir: PathBuf,
    rounds: usize,
    held: Held,
    expected: Vec<Expectation>,
}

/// Makes the first ones.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = Path::new(MOUNT).join(TRANSLATED);
    let held = sys::as_user(USER, || Held::create(dir.join("held"), 95, 2_000))?;
    let mut ids = Ids {
        dir,
        rounds: 0,
        held,
        expected: Vec::new(),
    };
    ids.verify()?;
    Ok(Box::new(ids))
}

fn owner(path: &Path, want: (u32, u32)) -> Result<()> {
    let seen = path.symlink_metadata().at("lstat")?;
    let got = (seen.uid(), seen.gid());
    need(got == want, || {
        format!("{} is {got:?}'s instead of {want:?}'s", path.display())
    })
}

fn errno<T>(result: std::io::Result<T>) -> rustix::io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
    }
}

impl Ids {
    fn made(&mut self, path: &Path, want: (u32, u32), mode: u32) -> Result<()> {
        owner(path, want)?;
        self.expected.push(Expectation::new(
            in_share(path),
            Object::Owned {
                uid: HOST_IDS.0 + want.0,
                gid: HOST_IDS.1 + want.1,
                mode,
            },
        ));
        Ok(())
    }
}

impl Live for Ids {
    fn verify(&mut self) -> Result<()> {
        owner(&self.dir, (0, 0))?;
        owner(&self.dir.join("of-others"), OTHERS)?;
        owner(&self.dir.join("of-the-host"), (SQUASHED, SQUASHED))?;
        sys::as_user(USER, || self.held.check())?;
        let dir = self.dir.join(self.rounds.to_string());
        std::fs::create_dir(&dir).at("mkdir")?;
        std::fs::set_permissions(&dir, Permissions::from_mode(0o777)).at("chmod")?;
        self.made(&dir.clone(), (0, 0), 0o777)?;
        let (file, below, link, fifo) = (
            dir.join("file"),
            dir.join("below"),
            dir.join("link"),
            dir.join("fifo"),
        );
        sys::as_user(USER, || {
            File::create(&file).at("create")?;
            std::fs::create_dir(&below).at("mkdir")?;
            std::os::unix::fs::symlink("file", &link).at("symlink")?;
            let mode = Mode::from_bits_retain(0o640);
            mknodat(CWD, &fifo, FileType::Fifo, mode, 0).at("mkfifo")
        })?;
        sys::drop_caches("2")?;
        self.made(&file, (USER, USER), 0o666)?;
        self.made(&below, (USER, USER), 0o777)?;
        self.made(&link, (USER, USER), 0o777)?;
        self.made(&fifo, (USER, USER), 0o640)?;
        // Given away.
        let given = dir.join("given");
        File::create(&given).at("create")?;
        chown(&given, Some(NEXT.0), Some(NEXT.1)).at("chown")?;
        sys::drop_caches("2")?;
        self.made(&given, NEXT, 0o666)?;
        lchown(&link, Some(0), None).at("lchown")?;
        self.expected.retain(|e| e.path != in_share(&link));
        self.made(&link, (0, USER), 0o777)?;
        // To those whom it must not go, or who must not make any.
        let given_to = chown(&given, Some(NO_ONE), None);
        need_error("chown to a forbidden id", errno(given_to), Errno::ACCESS)?;
        let made = sys::as_user(NO_ONE, || File::create(dir.join("no")));
        need_error("create by a forbidden id", errno(made), Errno::ACCESS)?;
        owner(&given, NEXT)?;
        self.rounds += 1;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        let path = self.held.path().to_owned();
        self.made(&path, (USER, USER), 0o666)?;
        self.expected.push(self.held.expectation());
        Ok(self.expected)
    }
}
