//! `bench hostile`: what becomes of ferryfsd, and of others, when a guest or a VMM sends
//! what nobody should. The attacks are those of the suite `tests/suites/hostile`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ferryfs_frontend::spawn::{Daemon, SpawnError};
use ferryfs_tests::hostile::{self, Attack, Outcome, Victim};
use ferryfs_tests::Host;

use super::page;
use crate::fail::{need, Context, Result};
use crate::{binaries, progress, setup, workspace};

/// Options of `bench hostile`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only the attacks whose kind or name contains this; nothing is written to docs/
    #[arg(value_name = "NAME")]
    filter: Option<String>,
    /// Attacks at a time: most of their time is spent waiting
    #[arg(long, default_value_t = 16)]
    jobs: usize,
    /// Cargo profile of ferryfsd
    #[arg(long, default_value = "release")]
    profile: String,
}

const PAGE: &str = "docs/hostile.md";

/// A daemon, and how it is started.
struct Contender {
    name: &'static str,
    program: PathBuf,
    /// With `{share}` and `{socket}`.
    words: &'static [&'static str],
}

impl Contender {
    fn start(&self, host: &Host, socket: &Path) -> std::result::Result<Daemon, SpawnError> {
        let fill = |word: &&str| {
            word.replace("{socket}", &socket.to_string_lossy())
                .replace("{share}", &host.share().to_string_lossy())
        };
        let mut command = Command::new(&self.program);
        command.args(self.words.iter().map(fill));
        Daemon::start_command(command, socket)
    }
}

/// Those that are here, ferryfsd first. All as confined as each can be in a container,
/// so that what a seccomp filter does to them shows.
fn contenders(profile: &str) -> Result<Vec<Contender>> {
    let mut all = vec![Contender {
        name: "ferryfsd",
        program: binaries::build("ferryfsd", profile)?,
        words: &[
            "--socket-path={socket}",
            "--shared-dir={share}",
            "--sandbox=chroot",
            "--keep-listening",
            "--xattr",
        ],
    }];
    if let Some(program) = binaries::virtiofsd()?.into_iter().next() {
        all.push(Contender {
            name: "virtiofsd",
            program,
            words: &[
                "--socket-path={socket}",
                "--shared-dir={share}",
                "--sandbox=chroot",
                "--xattr",
            ],
        });
    }
    let old = match std::env::var_os("VIRTIOFSD_C") {
        Some(path) => path.into(),
        None => setup::virtiofsd_c()?,
    };
    if old.is_file() {
        all.push(Contender {
            name: "virtiofsd-c",
            program: old,
            words: &[
                "--socket-path={socket}",
                "-osource={share}",
                "-osandbox=chroot",
                "-oxattr",
            ],
        });
    }
    Ok(all)
}

/// Attacks, prints, and writes the page.
pub fn run(args: &Args) -> Result<()> {
    need(rustix::process::geteuid().is_root(), || {
        "the daemons are confined by chroot, which takes root".into()
    })?;
    let contenders = contenders(&args.profile)?;
    need(contenders.len() > 1 || args.filter.is_some(), || {
        "there is no other daemon to attack: `cargo xtask setup-peers` gets some".into()
    })?;
    let wanted = |attack: &Attack| {
        let filter = args.filter.as_deref().unwrap_or_default();
        attack.group.contains(filter) || attack.name.contains(filter)
    };
    let attacks: Vec<Attack> = hostile::all().into_iter().filter(wanted).collect();
    let outcomes = attack_all(&attacks, &contenders, args.jobs)?;
    let names: Vec<String> = contenders.iter().map(|c| c.name.to_owned()).collect();
    let versions = super::versions(&names)?;
    let text = text(&names, &versions, &attacks, &outcomes);
    print!("{text}");
    if args.filter.is_none() {
        let path = workspace::root().join(PAGE);
        std::fs::write(&path, &text).context(path.display())?;
        progress::step(format_args!("written to {}", path.display()));
    }
    let lost = outcomes.iter().zip(&attacks);
    let lost: Vec<String> = lost
        .filter(|(all, _)| !all[0].fate.is_good())
        .map(|(all, attack)| format!("{attack:?}: {}", all[0]))
        .collect();
    need(lost.is_empty(), || {
        format!("ferryfsd does not survive: {}", lost.join("; "))
    })
}

/// The outcomes by attack and contender.
fn attack_all(
    attacks: &[Attack],
    contenders: &[Contender],
    jobs: usize,
) -> Result<Vec<Vec<Outcome>>> {
    let work: Vec<(usize, usize)> = (0..attacks.len())
        .flat_map(|attack| (0..contenders.len()).map(move |contender| (attack, contender)))
        .collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..jobs.max(1) {
            threads.spawn(|| loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some((attack, contender)) = work.get(n).copied() else {
                    return;
                };
                if n % 100 == 0 {
                    progress::step(format_args!("{n} of {} attacks", work.len()));
                }
                let start = |host: &Host, socket: &Path| contenders[contender].start(host, socket);
                let outcome = hostile::run(&attacks[attack], Victim { start: &start });
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push(((attack, contender), outcome));
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    let mut rows: Vec<Vec<Outcome>> = vec![Vec::new(); attacks.len()];
    for ((attack, contender), outcome) in done {
        let name = contenders[contender].name;
        let outcome = outcome.context(format_args!("{:?} on {name}", attacks[attack]))?;
        rows[attack].push(outcome);
    }
    Ok(rows)
}

const INTRODUCTION: &str = "\
# Attacks

Made by `cargo xtask bench hostile`, which writes this page; nothing in it is written by
hand. Each line is a thing that no guest and no VMM should send, and what each daemon made
of it: what it said, and what became of it. Every attack has a daemon of its own, confined
by chroot and its seccomp filter, with a share that must not change otherwise.
`tests/suites/hostile` looks at the details for ferryfsd, in every run of the tests.

What is said:

- an errno, or *done* where it was possible after all; *refused*: a failure in a
  vhost-user message
- *given back*: the descriptor chain came back with nothing in it
- *no answer*: nothing within seconds; that may be right, where a ring makes no sense
- *hung up*: the connection was closed; *-*: there is nobody to say anything to

What becomes of the daemon:

- *up*: the same machine, or the next one, is served as if nothing had been
- *up after a reset*: the driver had to reset the device, or the VMM to connect again
- *ended (0)*: it ended in good order, as those do that end with their front-end; with
  another status it gave up
- *hung*: it is there and serves nobody; *panicked*, *killed*: a bug was met
";

fn text(names: &[String], versions: &str, attacks: &[Attack], outcomes: &[Vec<Outcome>]) -> String {
    let mut text = format!("{INTRODUCTION}\n{versions}\n\n## Summary\n\n");
    let mut fates: Vec<String> = Vec::new();
    for outcome in outcomes.iter().flatten() {
        let fate = outcome.fate.to_string();
        if !fates.contains(&fate) {
            fates.push(fate);
        }
    }
    fates.sort();
    let count = |contender: usize, fate: &str| {
        let own = outcomes.iter().map(|row| &row[contender]);
        own.filter(|outcome| outcome.fate.to_string() == fate)
            .count()
    };
    let head: Vec<String> = std::iter::once(format!("of {} attacks", attacks.len()))
        .chain(names.iter().cloned())
        .collect();
    let rows: Vec<Vec<String>> = fates
        .iter()
        .map(|fate| {
            let counts = (0..names.len()).map(|contender| count(contender, fate).to_string());
            std::iter::once(fate.clone()).chain(counts).collect()
        })
        .collect();
    text.push_str(&page::table(&head, &rows));
    let mut group = "";
    let mut rows: Vec<Vec<String>> = Vec::new();
    let head: Vec<String> = std::iter::once("attack".to_owned())
        .chain(names.iter().cloned())
        .collect();
    let flush = |text: &mut String, group: &str, rows: &mut Vec<Vec<String>>| {
        if !rows.is_empty() {
            text.push_str(&format!(
                "\n## {}\n\n{}",
                heading(group),
                page::table(&head, rows)
            ));
            rows.clear();
        }
    };
    for (attack, outcomes) in attacks.iter().zip(outcomes) {
        if attack.group != group {
            flush(&mut text, group, &mut rows);
            group = attack.group;
        }
        let cells = outcomes.iter().map(Outcome::to_string);
        rows.push(std::iter::once(attack.name.clone()).chain(cells).collect());
    }
    flush(&mut text, group, &mut rows);
    text
}

fn heading(group: &str) -> &'static str {
    match group {
        "request" => "Requests, by a guest",
        "chain" => "Descriptor chains, by a guest",
        "ring" => "Rings, by a guest",
        "message" => "Messages, by a VMM",
        "descriptor" => "Descriptors of wrong kinds, by a VMM",
        "memory" => "Memory, by a VMM",
        _ => "Front-ends that vanish, as when they are killed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_tests::hostile::{Fate, Said};

    #[test]
    fn the_page_has_a_table_per_kind_and_counts_fates() {
        let attack = |group, name: &str| Attack::new(group, name, |_| Said::Nobody);
        let attacks = [
            attack("request", "a"),
            attack("request", "b"),
            attack("ring", "c"),
        ];
        let outcome = |said, fate| Outcome { said, fate };
        let outcomes = [
            vec![
                outcome(Said::Error(libc::EINVAL), Fate::Serves),
                outcome(Said::HungUp, Fate::Ended(1)),
            ],
            vec![
                outcome(Said::Done, Fate::Serves),
                outcome(Said::Done, Fate::Serves),
            ],
            vec![
                outcome(Said::Nobody, Fate::ServesAfterReset),
                outcome(Said::Nobody, Fate::Killed(libc::SIGSEGV)),
            ],
        ];
        let names = ["ours".to_owned(), "theirs".to_owned()];
        let text = text(&names, "versions", &attacks, &outcomes);
        for line in [
            "| of 3 attacks | ours | theirs |",
            "| up | 2 | 1 |",
            "| killed by SIGSEGV | 0 | 1 |",
            "## Requests, by a guest",
            "| a | EINVAL; up | hung up; ended (1) |",
            "## Rings, by a guest",
            "| c | -; up after a reset | -; killed by SIGSEGV |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
