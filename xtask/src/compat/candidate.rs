//! The daemons of the matrix: the working tree's, older releases of ours, and stock
//! virtiofsd. What cannot be had stays in the matrix, with the reason.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::command::Cmd;
use crate::fail::{need, Context, Fail, Result};
use crate::{binaries, progress, workspace};

/// What the working tree's daemon is called.
pub const THIS: &str = "this";

/// Packages of the system's that virtiofsd is built with.
const STOCK_NEEDS: &str = "libcap-ng-dev and libseccomp-dev";

/// `tests/compat/releases.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Releases {
    release: Vec<Release>,
    virtiofsd: Vec<Stock>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Release {
    version: String,
    commit: String,
    state_version: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stock {
    version: String,
    dialect: String,
}

/// Whose daemon it is, and what of it matters to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maker {
    /// The one in the working tree.
    This,
    /// An older release of ours, which reads states up to a version.
    Older {
        /// The newest state version that it reads.
        state_version: u32,
    },
    /// Stock virtiofsd, with the `--state-format` that it reads.
    Stock {
        /// `virtiofsd-v1` or `virtiofsd-v2`.
        dialect: String,
    },
}

/// A daemon, or why there is none.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As in the matrix.
    pub name: String,
    /// What it is.
    pub maker: Maker,
    /// Commit or source, for the record.
    pub origin: String,
    /// The executable; without one, what went wrong.
    pub program: std::result::Result<PathBuf, String>,
    /// What `--help` says.
    help: String,
}

impl Candidate {
    fn new(name: String, maker: Maker, origin: String, program: Result<PathBuf>) -> Candidate {
        let asked = program.and_then(|program| {
            let help = Cmd::new(&program).args(["--help"]).output()?;
            Ok((program, help))
        });
        let (program, help) = match asked {
            Ok((program, help)) => (Ok(program), help),
            Err(e) => {
                progress::step(format_args!("{name} cannot take part: {e}"));
                let first = e.to_string().lines().next().unwrap_or_default().to_owned();
                (Err(first), String::new())
            }
        };
        Candidate {
            name,
            maker,
            origin,
            program,
            help,
        }
    }

    /// Whether it has an option.
    pub fn knows(&self, option: &str) -> bool {
        self.help.contains(option)
    }

    /// Whether it is of this project.
    pub fn is_ours(&self) -> bool {
        !matches!(self.maker, Maker::Stock { .. })
    }

    /// One that does not exist, for tests; what is in the tree knows all options.
    #[cfg(test)]
    pub fn fake(name: &str, maker: Maker) -> Candidate {
        let help = match maker {
            Maker::This => "--state-version --posix-lock",
            _ => "",
        };
        Candidate {
            name: name.to_owned(),
            maker,
            origin: String::new(),
            program: Err("never built".to_owned()),
            help: help.to_owned(),
        }
    }
}

/// Reads `tests/compat/releases.toml`.
pub fn releases() -> Result<Releases> {
    let path = workspace::root().join("tests/compat/releases.toml");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    toml::from_str(&text).context(path.display())
}

impl Releases {
    /// All daemons: `this` first, then older releases and stock ones, newest last.
    /// With `quick` the newest older release, and the stock daemon that is there.
    pub fn candidates(&self, this: PathBuf, quick: bool) -> Result<Vec<Candidate>> {
        let root = workspace::root();
        let version = binaries::version(&this)?;
        let mut all = vec![Candidate::new(
            THIS.to_owned(),
            Maker::This,
            version,
            Ok(this),
        )];
        let skipped = if quick {
            self.release.len().saturating_sub(1)
        } else {
            0
        };
        for release in self.release.iter().skip(skipped) {
            let maker = Maker::Older {
                state_version: release.state_version,
            };
            let built = build_release(&root, release);
            let origin = format!("commit {}", &release.commit[..release.commit.len().min(12)]);
            all.push(Candidate::new(
                release.version.clone(),
                maker,
                origin,
                built,
            ));
        }
        for stock in &self.virtiofsd {
            let installed = match (quick, peer(&stock.version)?) {
                (_, Some(program)) => Ok(program),
                (true, None) => continue,
                (false, None) => install_stock(stock),
            };
            let maker = Maker::Stock {
                dialect: stock.dialect.clone(),
            };
            let name = stock_name(&stock.version);
            let origin = format!("crates.io, virtiofsd {}", stock.version);
            all.push(Candidate::new(name, maker, origin, installed));
        }
        Ok(all)
    }

    /// What is not looked at by the quick form, in words.
    pub fn left_out(&self, present: &[Candidate]) -> Vec<String> {
        let releases = self.release.iter().map(|r| r.version.clone());
        let stock = self.virtiofsd.iter().map(|v| stock_name(&v.version));
        releases
            .chain(stock)
            .filter(|name| !present.iter().any(|c| c.name == *name))
            .collect()
    }
}

fn stock_name(version: &str) -> String {
    format!("virtiofsd {version}")
}

fn compat_dir() -> Result<PathBuf> {
    Ok(workspace::target()?.join("compat"))
}

/// virtiofsd of exactly this version, where one is there already: by the variable
/// VIRTIOFSD, in PATH, where checks put it, or from an earlier run.
fn peer(version: &str) -> Result<Option<PathBuf>> {
    let mut places = binaries::virtiofsd()?;
    places.push(stock_dir(version)?.join("bin/virtiofsd"));
    let is_it = |path: &PathBuf| {
        let says = binaries::version(path);
        says.is_ok_and(|says| says == format!("virtiofsd {version}"))
    };
    Ok(places.into_iter().find(is_it))
}

fn stock_dir(version: &str) -> Result<PathBuf> {
    Ok(compat_dir()?.join(format!("virtiofsd-{version}")))
}

fn install_stock(stock: &Stock) -> Result<PathBuf> {
    let root = stock_dir(&stock.version)?;
    progress::step(format_args!("install {}", stock_name(&stock.version)));
    Cmd::cargo()
        .args(["install", "--quiet", "--locked", "virtiofsd", "--version"])
        .args([format!("={}", stock.version)])
        .args(["--root".as_ref(), root.as_os_str()])
        .args([
            "--target-dir".as_ref(),
            compat_dir()?.join("build/virtiofsd").as_os_str(),
        ])
        .output()
        .map_err(|e| Fail::new(format!("not built ({STOCK_NEEDS} are needed): {e}")))?;
    Ok(root.join("bin/virtiofsd"))
}

/// Builds an older release out of the repository's history. What it was built from
/// never changes, so that it is done once.
fn build_release(root: &Path, release: &Release) -> Result<PathBuf> {
    let dir = compat_dir()?.join(format!("ferryfs-{}", release.version));
    let program = dir.join("bin/ferryfsd");
    let says = binaries::version(&program);
    let expected = format!("ferryfsd {}", release.version);
    if says.is_ok_and(|says| says == expected) {
        return Ok(program);
    }
    progress::step(format_args!("build release {}", release.version));
    let source = dir.join("source");
    if source.exists() {
        std::fs::remove_dir_all(&source).context(source.display())?;
    }
    std::fs::create_dir_all(&source).context(source.display())?;
    let archive = dir.join("source.tar");
    Cmd::new("git")
        .args(["archive", "--format=tar", "--output"])
        .args([archive.as_os_str(), release.commit.as_ref()])
        .dir(root)
        .output()
        .map_err(|e| {
            Fail::new(format!(
                "not built (the repository's whole history is needed): {e}"
            ))
        })?;
    Cmd::new("tar")
        .args([
            "-xf".as_ref(),
            archive.as_os_str(),
            "-C".as_ref(),
            source.as_os_str(),
        ])
        .output()?;
    let target = compat_dir()?.join("build/ferryfs");
    Cmd::cargo()
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "ferryfsd",
            "--target-dir",
        ])
        .args([&target])
        .dir(&source)
        .output()
        .map_err(|e| Fail::new(format!("not built: {e}")))?;
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).context(bin.display())?;
    std::fs::copy(target.join("debug/ferryfsd"), &program).context(program.display())?;
    let says = binaries::version(&program)?;
    need(says == expected, || {
        format!(
            "not built: commit {} is {says}, not {expected}",
            release.commit
        )
    })?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_releases_can_be_read() {
        let all = releases().unwrap();
        assert!(all.release.iter().all(|r| r.commit.len() == 40));
        assert_eq!(all.virtiofsd[0].dialect, "virtiofsd-v1");
        let there = [Candidate::fake("virtiofsd 1.14.0", Maker::This)];
        let left = all.left_out(&there);
        assert!(
            left.contains(&"0.1.0".to_owned()) && left.contains(&"virtiofsd 1.11.1".to_owned())
        );
        assert!(!left.contains(&"virtiofsd 1.14.0".to_owned()));
    }
}
