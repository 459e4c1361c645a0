//! Ordinary tools at work on a small tree.

use std::process::Command;

use ferry_guest::{Expectation, MOUNT};

use super::Live;
use crate::sys::{need, At, Result};

struct Shell {
    crossings: usize,
}

fn sh(script: &str) -> Result<String> {
    let out = Command::new("/bin/busybox")
        .args(["sh", "-ec", script])
        .current_dir(std::path::Path::new(MOUNT).join("shell"))
        .output()
        .at("run busybox")?;
    need(out.status.success(), || {
        format!("{script}: {}", String::from_utf8_lossy(&out.stderr).trim())
    })?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Makes the tree.
pub fn prepare() -> Result<Box<dyn Live>> {
    super::own_dir("shell")?;
    sh("busybox mkdir -p tree/a/b/c
        for n in 1 2 3 4 5; do echo content $n > tree/a/b/file$n; done
        busybox ln -s ../b/file1 tree/a/link")?;
    Ok(Box::new(Shell { crossings: 0 }))
}

impl Live for Shell {
    fn verify(&mut self) -> Result<()> {
        self.crossings += 1;
        // Processes are what an emulated guest is slowest at.
        if self.crossings % 4 != 1 {
            return Ok(());
        }
        let copy = format!("copy-{}", self.crossings);
        sh(&format!(
            "busybox cp -r tree {copy}; busybox diff -r tree {copy}
             busybox mv {copy}/a/b/c {copy}/moved; busybox rm {copy}/a/b/file5"
        ))?;
        let count = sh(&format!("busybox find {copy} | busybox wc -l"))?;
        need(count == "9", || format!("{count} objects in {copy}, not 9"))
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok((1..=self.crossings)
            .step_by(4)
            .map(|n| Expectation::file(format!("shell/copy-{n}/a/b/file4"), b"content 4\n"))
            .collect())
    }
}
