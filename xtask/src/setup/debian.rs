//! A Debian to boot from: the release that this machine has, from where it gets its
//! packages itself.

use std::path::{Path, PathBuf};

use super::apt::{self, Apt};
use super::sources;
use crate::command::{exists, Cmd};
use crate::fail::{need, Context, Fail, Result};
use crate::progress;

/// Makes or finds it in `dir`.
pub fn root(dir: &Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = sources::os_release(&text, "VERSION_CODENAME")
        .ok_or_else(|| Fail::new("/etc/os-release names no codename"))?;
    let root = dir.join(format!("debian-{codename}"));
    if root.is_dir() {
        return Ok(root);
    }
    if !exists("debootstrap") {
        need(super::can_install(), || {
            "debootstrap is not installed, and only root can do that".into()
        })?;
        Apt::prepare()?.install(&["debootstrap"])?;
    }
    let configured = apt::configured();
    let source = sources::of_release(&codename, &configured)
        .ok_or_else(|| Fail::new(format!("no package source of {codename} is configured")))?;
    let mirror = source.uris.first().cloned().unwrap_or_default();
    progress::step(format_args!("make a Debian ({codename}, once)"));
    let unfinished = dir.join("debian.new");
    match std::fs::remove_dir_all(&unfinished) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).context(unfinished.display())
        }
        _ => {}
    }
    let mut command = Cmd::new("debootstrap").args(["--variant=minbase"]);
    // Otherwise the key is in the file itself, and the default key ring has it as well.
    if let Some(keys) = source.signed_by.as_ref().filter(|k| Path::new(k).is_file()) {
        command = command.args([format!("--keyring={keys}")]);
    }
    let unfinished_name = unfinished.display().to_string();
    command.args([codename, unfinished_name, mirror]).output()?;
    std::fs::rename(&unfinished, &root).context(root.display())?;
    Ok(root)
}
