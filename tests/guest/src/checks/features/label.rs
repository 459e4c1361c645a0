//! Security labels: what the guest makes has the label that its security module says,
//! as soon as it has a name.
//!
//! The guest's SELinux has no policy loaded; it then labels what is made as it labels
//! what has no label, by the name of that initial identifier.

use std::fs::File;
use std::path::{Path, PathBuf};

use ferry_guest::expectation::Object;
use ferry_guest::Expectation;
use rustix::fs::{mknodat, FileType, Mode, CWD};

use crate::checks::{in_share, own_dir, Live};
use crate::sys::{self, need, At, Result};

const NAME: &str = "security.selinux";
const VALUE: &[u8] = b"unlabeled\0";
const MODULES: &str = "/sys/kernel/security/lsm";

struct Labels {
    dir: PathBuf,
    rounds: usize,
    expected: Vec<Expectation>,
}

/// Makes the first ones.
pub fn prepare() -> Result<Box<dyn Live>> {
    sys::mount("securityfs", "/sys/kernel/security", "securityfs")?;
    let modules = std::fs::read_to_string(MODULES).at(MODULES)?;
    need(
        modules.split(',').any(|name| name.trim() == "selinux"),
        || format!("the guest's kernel runs without SELinux: {modules}"),
    )?;
    let mut labels = Labels {
        dir: own_dir("label")?,
        rounds: 0,
        expected: Vec::new(),
    };
    labels.verify()?;
    Ok(Box::new(labels))
}

fn is(path: &Path) -> Result<()> {
    let got = sys::xattr(path, NAME)?;
    need(got.as_deref() == Some(VALUE), || {
        let got = got.map(|value| String::from_utf8_lossy(&value).into_owned());
        format!("{} is labelled {got:?}", path.display())
    })
}

impl Live for Labels {
    fn verify(&mut self) -> Result<()> {
        let dir = self.dir.join(self.rounds.to_string());
        let path = |name: &str| dir.join(name);
        std::fs::create_dir(&dir).at("mkdir")?;
        File::create(path("file")).at("create")?;
        std::os::unix::fs::symlink("nowhere", path("link")).at("symlink")?;
        let mode = Mode::from_bits_retain(0o600);
        mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0).at("mkfifo")?;
        mknodat(CWD, path("socket"), FileType::Socket, mode, 0).at("mknod")?;
        sys::drop_caches("2")?;
        let made = ["file", "link", "fifo", "socket"].map(path);
        for path in made.iter().chain([&dir]) {
            is(path)?;
            self.expected.push(Expectation::new(
                in_share(path),
                Object::Xattr {
                    name: NAME.into(),
                    value: VALUE.into(),
                },
            ));
        }
        // What was made before has it still.
        is(&self.dir.join("0/file"))?;
        self.rounds += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.expected)
    }
}
