//! Records as JSON, one object each. Names are bytes and JSON is text:
//! what is not printable ASCII is escaped as `\xNN` (and a backslash as `\\`), so
//! that every name has one spelling and no name can fake another or the terminal.

use ferryfs_state::{
    FileSystem, FsState, Ghost, GhostData, Handle, Header, Identity, Inode, Location, Lock,
    LockKind, Mark, Mount, Request, Session, Time,
};
use serde_json::{json, Value};

fn name(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&b| match b {
            b'\\' => "\\\\".to_owned(),
            b' '..=b'~' => char::from(b).to_string(),
            _ => format!("\\x{b:02x}"),
        })
        .collect()
}

/// A path, its components spelled by the same rules.
pub fn path<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> String {
    let names: Vec<_> = components.into_iter().map(name).collect();
    names.join("/")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where an inode is.
pub fn location(location: &Location) -> Value {
    match location {
        Location::Root => json!({"by": "root"}),
        Location::Child { parent, name: n } => {
            json!({"by": "name", "parent": parent, "name": name(n)})
        }
        Location::Path { from, components } => {
            json!({"by": "path", "from": from, "path": path(components.iter().map(|c| &c[..]))})
        }
        Location::Handle(h) => json!({
            "by": "file-handle", "mount": h.mount, "type": h.kind, "bytes": hex(&h.bytes),
        }),
        Location::Lost { errno } => json!({"by": "nothing", "errno": errno}),
    }
}

/// A file type in words.
pub fn kind(kind: u32) -> &'static str {
    match kind {
        0o010000 => "fifo",
        0o020000 => "character-device",
        0o040000 => "directory",
        0o060000 => "block-device",
        0o100000 => "file",
        0o120000 => "symlink",
        0o140000 => "socket",
        _ => "unknown",
    }
}

/// The stream's header.
pub fn header(header: &Header) -> Value {
    json!({
        "record": "header",
        "container_version": header.container.0,
        "state_version": header.state.0,
        "format": header.format,
        "vendor": header.writer.vendor(),
        "writer_version": header.writer.version(),
    })
}

/// The session.
pub fn session(s: &Session) -> Value {
    json!({
        "record": "session",
        "guest_minor": s.guest_minor,
        "minor": s.minor,
        "offered_flags": format!("{:#018x}", s.offered_flags),
        "flags": format!("{:#018x}", s.flags),
        "max_write": s.max_write,
        "max_pages": s.max_pages,
        "max_readahead": s.max_readahead,
        "max_background": s.max_background,
        "congestion_threshold": s.congestion_threshold,
        "time_gran": s.time_gran,
    })
}

/// The counters.
pub fn counters(fs: &FsState) -> Value {
    json!({
        "record": "counters", "next_inode": fs.next_inode, "next_handle": fs.next_handle,
    })
}

/// A mount.
pub fn mount(m: &Mount) -> Value {
    let path = path(m.path.iter().map(|c| &c[..]));
    json!({"record": "mount", "id": m.id, "path": path})
}

/// An inode.
pub fn inode(i: &Inode) -> Value {
    json!({
        "record": "inode", "id": i.id, "lookups": i.lookups, "kind": kind(i.kind),
        "location": location(&i.location),
    })
}

/// A handle.
pub fn handle(h: &Handle) -> Value {
    json!({
        "record": "handle", "id": h.id, "inode": h.inode,
        "kind": if h.directory { "directory" } else { "file" },
        "guest_flags": format!("{:#o}", h.guest_flags),
        "host_flags": format!("{:#o}", h.host_flags),
    })
}

/// A file system.
pub fn file_system(f: &FileSystem) -> Value {
    json!({
        "record": "file-system", "id": f.id, "magic": format!("{:#x}", f.magic),
        "fsid": format!("{:#018x}", f.fsid), "device": format!("{:#x}", f.device),
        "boot": hex(&f.boot),
    })
}

/// The identity of an inode.
pub fn identity(i: &Identity) -> Value {
    let mark = match &i.mark {
        Mark::Handle { kind, bytes } => {
            json!({"by": "file-handle", "type": kind, "bytes": hex(bytes)})
        }
        Mark::Numbers { ino, born } => json!({"by": "numbers", "ino": ino, "born": born}),
    };
    json!({
        "record": "identity", "inode": i.inode, "file_system": i.file_system, "mark": mark,
    })
}

/// Whose rules a lock follows.
pub fn lock_kind(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Posix => "posix",
        LockKind::Flock => "flock",
    }
}

/// A lock.
pub fn lock(l: &Lock) -> Value {
    json!({
        "record": "lock", "inode": l.inode, "handle": l.handle,
        "owner": format!("{:#018x}", l.owner), "kind": lock_kind(l.kind), "write": l.write,
        "start": l.start, "end": l.end, "pid": l.pid,
    })
}

/// A request that waits.
pub fn request(r: &Request) -> Value {
    json!({ "record": "request", "queue": r.queue, "head": r.head })
}

fn time(time: Time) -> Value {
    // Nanoseconds since 1970 do not fit a double, which is what many readers have.
    json!(format!("{}.{:09}", time.seconds, time.nanoseconds))
}

/// An unlinked inode that crosses with its contents.
pub fn ghost(g: &Ghost) -> Value {
    let xattrs: serde_json::Map<String, Value> = g
        .xattrs
        .iter()
        .map(|x| (name(&x.name), json!(hex(&x.value))))
        .collect();
    json!({
        "record": "ghost", "inode": g.inode, "directory": g.directory, "number": g.number,
        "mode": format!("{:#o}", g.mode), "uid": g.uid, "gid": g.gid,
        "device": format!("{:#x}", g.device), "size": g.size,
        "accessed": time(g.accessed), "modified": time(g.modified),
        "target": name(&g.target), "linkable": g.linkable, "xattrs": xattrs,
    })
}

/// A piece of the contents of one; what is in it is told by length and checksum.
pub fn ghost_data(d: &GhostData) -> Value {
    json!({
        "record": "ghost-data", "inode": d.inode, "offset": d.offset, "length": d.bytes.len(),
        "crc32c": format!("{:08x}", crc32c::crc32c(&d.bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling_each() {
        for (bytes, text) in [
            (&b"plain name"[..], "plain name"),
            (b"caf\xe9", "caf\\xe9"),
            (b"\\xe9", "\\\\xe9"),
            (b"a\n\x1b[31m", "a\\x0a\\x1b[31m"),
            ("é".as_bytes(), "\\xc3\\xa9"),
        ] {
            assert_eq!(name(bytes), text);
        }
    }
}
