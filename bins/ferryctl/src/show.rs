//! `ferryctl state show`: records as JSON lines or as a table, all or chosen ones.

use std::io::{self, Write};

use clap::Args;
use ferryfs_state::validate::LOCK_END;
use ferryfs_state::{Ghost, GhostData, Handle, Header, Identity, Inode, Location, Lock, State};

use crate::json;
use ferryfs_state::paths::{Components, Paths};

/// Which records, and how.
#[derive(Debug, Args)]
pub struct Choice {
    /// Only this inode, with its identity, handles, locks and contents; may be given again
    #[arg(long, value_name = "ID")]
    inode: Vec<u64>,
    /// Only this handle and its inode; may be given again
    #[arg(long, value_name = "ID")]
    handle: Vec<u64>,
    /// Only inodes at and below this path from the share's root, and what belongs to them;
    /// bytes that are not printable ASCII as \\xNN, as they are shown
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// A table for people in place of JSON lines
    #[arg(long)]
    table: bool,
}

/// What of a state was chosen.
struct Chosen<'s> {
    /// Whether everything is: the session and the like are shown then.
    all: bool,
    inodes: Vec<&'s Inode>,
    handles: Vec<&'s Handle>,
    identities: Vec<&'s Identity>,
    locks: Vec<&'s Lock>,
    ghosts: Vec<&'s Ghost>,
    ghost_data: Vec<&'s GhostData>,
    paths: Paths<'s>,
}

impl Choice {
    /// The path that was asked for, as it was spelled.
    pub fn prefix(&self) -> Option<&str> {
        self.path.as_deref()
    }

    fn choose<'s>(&self, state: &'s State, prefix: Option<&Components>) -> Chosen<'s> {
        let fs = &state.fs;
        let paths = Paths::new(fs);
        let all = self.inode.is_empty() && self.handle.is_empty() && prefix.is_none();
        let below = |id| match prefix {
            Some(prefix) => paths.of(id).is_some_and(|path| path.starts_with(prefix)),
            None => false,
        };
        let by_inode = |id| self.inode.contains(&id) || below(id);
        let handles: Vec<&Handle> = fs
            .handles
            .iter()
            .filter(|h| all || self.handle.contains(&h.id) || by_inode(h.inode))
            .collect();
        let of_handles: Vec<u64> = fs
            .handles
            .iter()
            .filter(|h| self.handle.contains(&h.id))
            .map(|h| h.inode)
            .collect();
        let chosen = |id| all || by_inode(id) || of_handles.contains(&id);
        Chosen {
            all,
            inodes: fs.inodes.iter().filter(|i| chosen(i.id)).collect(),
            handles,
            identities: fs.identities.iter().filter(|i| chosen(i.inode)).collect(),
            locks: fs.locks.iter().filter(|l| chosen(l.inode)).collect(),
            ghosts: fs.ghosts.iter().filter(|g| chosen(g.inode)).collect(),
            ghost_data: fs.ghost_data.iter().filter(|d| chosen(d.inode)).collect(),
            paths,
        }
    }
}

/// Prints what was chosen.
///
/// # Errors
/// The output's.
pub fn run(
    choice: &Choice,
    prefix: Option<&Components>,
    (header, state): &(Header, State),
    out: &mut dyn Write,
) -> io::Result<()> {
    let chosen = choice.choose(state, prefix);
    match choice.table {
        true => table(&chosen, header, state, out),
        false => lines(&chosen, header, state, out),
    }
}

fn lines(
    chosen: &Chosen<'_>,
    header: &Header,
    state: &State,
    out: &mut dyn Write,
) -> io::Result<()> {
    if chosen.all {
        writeln!(out, "{}", json::header(header))?;
        if let Some(session) = &state.session {
            writeln!(out, "{}", json::session(session))?;
        }
        writeln!(out, "{}", json::counters(&state.fs))?;
        for mount in &state.fs.mounts {
            writeln!(out, "{}", json::mount(mount))?;
        }
    }
    for inode in &chosen.inodes {
        writeln!(out, "{}", json::inode(inode))?;
    }
    for handle in &chosen.handles {
        writeln!(out, "{}", json::handle(handle))?;
    }
    if chosen.all {
        for file_system in &state.fs.file_systems {
            writeln!(out, "{}", json::file_system(file_system))?;
        }
    }
    for identity in &chosen.identities {
        writeln!(out, "{}", json::identity(identity))?;
    }
    for lock in &chosen.locks {
        writeln!(out, "{}", json::lock(lock))?;
    }
    if chosen.all {
        for request in &state.fs.requests {
            writeln!(out, "{}", json::request(request))?;
        }
    }
    for ghost in &chosen.ghosts {
        writeln!(out, "{}", json::ghost(ghost))?;
    }
    for data in &chosen.ghost_data {
        writeln!(out, "{}", json::ghost_data(data))?;
    }
    Ok(())
}

fn table(
    chosen: &Chosen<'_>,
    header: &Header,
    state: &State,
    out: &mut dyn Write,
) -> io::Result<()> {
    if chosen.all {
        let (format, version) = (&header.format, header.state);
        writeln!(
            out,
            "written by {} as {format}, state version {version}",
            header.writer
        )?;
        match &state.session {
            Some(s) => writeln!(
                out,
                "session: guest speaks FUSE 7.{}, INIT flags {:#x}, writes up to {}",
                s.guest_minor,
                s.flags,
                size(s.max_write.into())
            )?,
            None => writeln!(out, "session: none")?,
        }
        for m in &state.fs.mounts {
            let path = json::path(m.path.iter().map(|c| &c[..]));
            writeln!(out, "mount {}: /{path}", m.id)?;
        }
        writeln!(out)?;
    }
    let (id, lookups, kind, place) = ("inode", "lookups", "type", "where");
    writeln!(out, "{id:>10} {lookups:>8}  {kind:<16}  {place}")?;
    for i in &chosen.inodes {
        let place = match (&i.location, chosen.paths.of(i.id)) {
            (_, Some(path)) => format!("/{}", json::path(path.iter().map(|c| &c[..]))),
            (Location::Handle(h), _) => format!("file handle on mount {}", h.mount),
            (Location::Lost { errno }, _) => match chosen.ghosts.iter().find(|g| g.inode == i.id) {
                Some(ghost) => unlinked(ghost, &chosen.ghost_data),
                None => format!("lost, errno {errno}"),
            },
            (location, None) => json::location(location).to_string(),
        };
        let (id, lookups, kind) = (i.id, i.lookups, json::kind(i.kind));
        writeln!(out, "{id:>10} {lookups:>8}  {kind:<16}  {place}")?;
    }
    let (id, inode, guest, host) = ("handle", "inode", "guest's flags", "own flags");
    writeln!(out, "\n{id:>10} {inode:>10}  {guest:>14} {host:>14}")?;
    for h in &chosen.handles {
        let (id, inode, guest, host) = (h.id, h.inode, h.guest_flags, h.host_flags);
        writeln!(out, "{id:>10} {inode:>10}  {guest:>#14o} {host:>#14o}")?;
    }
    if !chosen.locks.is_empty() {
        locks(&chosen.locks, out)?;
    }
    if chosen.all && !state.fs.requests.is_empty() {
        let count = state.fs.requests.len();
        writeln!(out, "\n{count} request(s) wait for a lock")?;
    }
    Ok(())
}

fn unlinked(ghost: &Ghost, data: &[&GhostData]) -> String {
    let pieces = data.iter().filter(|d| d.inode == ghost.inode);
    let bytes: u64 = pieces.map(|d| d.bytes.len() as u64).sum();
    match (ghost.size, ghost.linkable) {
        (0, false) => "unlinked".to_owned(),
        (total, linkable) => format!(
            "{}, {} with {} of contents",
            if linkable { "never linked" } else { "unlinked" },
            size(total),
            size(bytes)
        ),
    }
}

fn locks(locks: &[&Lock], out: &mut dyn Write) -> io::Result<()> {
    let (inode, kind, mode, owner, bytes) = ("inode", "lock", "mode", "owner", "bytes");
    writeln!(
        out,
        "\n{inode:>10}  {kind:<5}  {mode:<5}  {owner:>18}  {bytes}"
    )?;
    for l in locks {
        let (inode, kind, owner, start) = (l.inode, json::lock_kind(l.kind), l.owner, l.start);
        let mode = if l.write { "write" } else { "read" };
        let end = match l.end {
            LOCK_END => "the end".to_owned(),
            end => end.to_string(),
        };
        writeln!(
            out,
            "{inode:>10}  {kind:<5}  {mode:<5}  {owner:#018x}  {start} to {end}"
        )?;
    }
    Ok(())
}

/// A length for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
