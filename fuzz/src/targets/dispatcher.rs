//! Requests of a guest, decoded and dispatched to a file system that succeeds at
//! everything and looks at what it is given.
//!
//! An input is a row of requests: room for the reply and length of the request, 16
//! bits each, then the request, which begins with a `fuse_in_header`. The session is
//! the one that the input's first eight bytes, INIT flags, ask for.

use std::ffi::CStr;
use std::time::Duration;

use ferryfs_core::buffer::BufIo;
use ferryfs_core::errno::{Errno, FsResult};
use ferryfs_core::fs::{
    Attr, AttrReply, Context, DirSink, Entry, FileSystem, InitOffer, InitWish, Opened, ReadArgs,
    SetAttr, WriteArgs, XattrReply,
};
use ferryfs_core::io::{ReplyWriter, RequestReader};
use ferryfs_core::server::{Server, ServerConfig};
use ferryfs_core::service::Service;
use ferryfs_core::types::{HandleId, Name, NodeId};

use crate::random::Random;
use crate::{mutate, Target};

pub(crate) const TARGET: Target = Target {
    name: "dispatcher",
    about: "FUSE requests of a guest",
    run,
    seeds,
    mutate: change,
};

/// Length of a `fuse_in_header`, and of a `fuse_out_header`.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

const INIT: u32 = 26;
/// FORGET, BATCH_FORGET, DESTROY on their way out, and INTERRUPT may go unanswered.
const SILENT: [u32; 4] = [2, 36, 38, 42];

struct Fake;

fn entry() -> Entry {
    Entry {
        node: NodeId(2),
        generation: 0,
        attr: Attr::default(),
        entry_timeout: Duration::from_secs(1),
        attr_timeout: Duration::from_secs(1),
    }
}

fn opened() -> Opened {
    Opened {
        handle: HandleId(3),
        fopen_flags: 0,
    }
}

fn attributes() -> AttrReply {
    AttrReply {
        attr: Attr::default(),
        timeout: Duration::from_secs(1),
    }
}

/// A name leads nowhere but into its directory.
fn sound(name: &Name) {
    let bytes = name.as_bytes();
    assert!(!bytes.is_empty() && bytes != b"." && bytes != b"..");
    assert!(!bytes.contains(&b'/') && !bytes.contains(&0) && bytes.len() <= 255);
}

fn value(size: u32) -> FsResult<XattrReply> {
    match size {
        0 => Ok(XattrReply::Size(5)),
        1..=4 => Err(Errno::ERANGE),
        _ => Ok(XattrReply::Value(b"value".to_vec())),
    }
}

impl FileSystem for Fake {
    fn init(&self, offer: &InitOffer) -> FsResult<InitWish> {
        Ok(InitWish { flags: offer.flags })
    }
    fn lookup(&self, _: &Context<'_>, _: NodeId, name: &Name) -> FsResult<Entry> {
        sound(name);
        Ok(entry())
    }
    fn getattr(&self, _: &Context<'_>, _: NodeId, _: Option<HandleId>) -> FsResult<AttrReply> {
        Ok(attributes())
    }
    fn setattr(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: Option<HandleId>,
        _: &SetAttr,
    ) -> FsResult<AttrReply> {
        Ok(attributes())
    }
    fn readlink(&self, _: &Context<'_>, _: NodeId) -> FsResult<Vec<u8>> {
        Ok(b"target".to_vec())
    }
    fn symlink(&self, _: &Context<'_>, _: &CStr, _: NodeId, name: &Name) -> FsResult<Entry> {
        sound(name);
        Ok(entry())
    }
    fn mknod(
        &self,
        _: &Context<'_>,
        _: NodeId,
        name: &Name,
        _: u32,
        _: u32,
        _: u32,
    ) -> FsResult<Entry> {
        sound(name);
        Ok(entry())
    }
    fn mkdir(&self, _: &Context<'_>, _: NodeId, name: &Name, _: u32, _: u32) -> FsResult<Entry> {
        sound(name);
        Ok(entry())
    }
    fn rename(
        &self,
        _: &Context<'_>,
        _: NodeId,
        name: &Name,
        _: NodeId,
        new_name: &Name,
        flags: u32,
    ) -> FsResult<()> {
        sound(name);
        sound(new_name);
        assert_eq!(flags & !7, 0, "flags that are not RENAME_*");
        Ok(())
    }
    fn link(&self, _: &Context<'_>, _: NodeId, _: NodeId, name: &Name) -> FsResult<Entry> {
        sound(name);
        Ok(entry())
    }
    fn open(&self, _: &Context<'_>, _: NodeId, _: u32, _: bool) -> FsResult<Opened> {
        Ok(opened())
    }
    fn create(
        &self,
        _: &Context<'_>,
        _: NodeId,
        name: &Name,
        _: u32,
        _: u32,
        _: u32,
        _: bool,
    ) -> FsResult<(Entry, Opened)> {
        sound(name);
        Ok((entry(), opened()))
    }
    fn tmpfile(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: u32,
        _: u32,
        _: u32,
    ) -> FsResult<(Entry, Opened)> {
        Ok((entry(), opened()))
    }
    fn read(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: HandleId,
        args: &ReadArgs,
        out: &mut dyn ReplyWriter,
    ) -> FsResult<usize> {
        let size = args.size as usize;
        assert!(size <= out.remaining(), "READ beyond its room");
        out.write_all(&vec![7; size]).expect("there is room");
        Ok(size)
    }
    fn write(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: HandleId,
        args: &WriteArgs,
        data: &mut dyn RequestReader,
    ) -> FsResult<usize> {
        let size = args.size as usize;
        assert!(size <= data.remaining(), "WRITE of more than there is");
        Ok(size)
    }
    fn opendir(&self, _: &Context<'_>, _: NodeId, _: u32) -> FsResult<Opened> {
        Ok(opened())
    }
    fn readdir(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: HandleId,
        offset: u64,
        sink: &mut dyn DirSink,
    ) -> FsResult<()> {
        for n in 1..20u64 {
            let name = vec![b'n'; 13 * n as usize];
            if !sink.fits(name.len()) {
                break;
            }
            let entry = entry();
            let plus = sink.plus().then_some(&entry);
            sink.add(n, offset.wrapping_add(n), 8, &name, plus);
        }
        Ok(())
    }
    fn setxattr(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: &CStr,
        value: &[u8],
        _: u32,
        _: bool,
    ) -> FsResult<()> {
        assert!(value.len() <= 65_536, "beyond XATTR_SIZE_MAX");
        Ok(())
    }
    fn getxattr(&self, _: &Context<'_>, _: NodeId, _: &CStr, size: u32) -> FsResult<XattrReply> {
        value(size)
    }
    fn listxattr(&self, _: &Context<'_>, _: NodeId, size: u32) -> FsResult<XattrReply> {
        value(size)
    }
    fn lseek(&self, _: &Context<'_>, _: NodeId, _: HandleId, offset: u64, _: u32) -> FsResult<u64> {
        Ok(offset)
    }
    fn release(&self, _: &Context<'_>, _: NodeId, _: HandleId) -> FsResult<()> {
        Ok(())
    }
}

/// A request with its header.
fn request(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((IN_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(1u64.to_ne_bytes());
    for field in [1000u32, 1000, 77, 0] {
        bytes.extend(field.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}

fn init(flags: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for field in [
        7u32,
        38,
        1 << 17,
        flags as u32 | 1 << 30,
        (flags >> 32) as u32,
    ] {
        body.extend(field.to_ne_bytes());
    }
    body.extend([0; 44]);
    request(INIT, 1, &body)
}

fn field(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn serve(server: &Server<Fake>, request: &[u8], room: usize) {
    let mut reply = vec![0xa5; room];
    let used = server.handle(BufIo::new(request, &mut reply));
    assert!(used <= room, "a reply of {used} bytes in {room}");
    if used == 0 {
        return;
    }
    assert!(used >= OUT_HEADER);
    assert_eq!(field(&reply, 0), Some(used as u32), "its length");
    let error = field(&reply, 4).unwrap_or_default() as i32;
    assert!((-4095..=0).contains(&error), "error {error}");
    assert!(error == 0 || used == OUT_HEADER, "an error with a body");
    assert_eq!(reply.get(8..16), request.get(8..16), "whose reply it is");
    let opcode = field(request, 4).unwrap_or_default();
    assert!(!SILENT[..1].contains(&opcode), "an answer to FORGET");
}

fn run(data: &[u8]) {
    let Some((flags, mut rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let server = Server::new(Fake, ServerConfig::default());
    serve(&server, &init(u64::from_ne_bytes(*flags)), 4096);
    assert!(server.session().is_some());
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let room = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let length = usize::from(u16::from_ne_bytes([head[2], head[3]])).min(behind.len());
        serve(&server, &behind[..length], room);
        rest = &behind[length..];
    }
    server.reset();
}

fn seeds() -> Vec<Vec<u8>> {
    let row = |flags: u64, requests: &[Vec<u8>]| {
        let mut input = flags.to_ne_bytes().to_vec();
        for request in requests {
            input.extend(1000u16.to_ne_bytes());
            input.extend((request.len() as u16).to_ne_bytes());
            input.extend(request);
        }
        input
    };
    // Every operation with a body of zeros of each usual size, and names behind it.
    let mut all = Vec::new();
    for opcode in 1..=53u32 {
        let requests: Vec<_> = [0, 4, 8, 16, 24, 32, 40, 64, 88]
            .into_iter()
            .map(|size| {
                let mut body = vec![0; size];
                body.extend(b"name\0other\0");
                request(opcode, u64::from(opcode), &body)
            })
            .collect();
        all.push(row(0, &requests));
        all.push(row(!0, &requests));
    }
    all
}

/// Changes one request, and mostly sets its length right.
fn change(input: &mut Vec<u8>, random: &mut Random) {
    mutate::bytes(input, random);
    if random.once_in(4) {
        return;
    }
    let mut at = 8;
    while let Some(head) = input.get(at..at + 4) {
        let length = usize::from(u16::from_ne_bytes([head[2], head[3]]));
        let (start, end) = (at + 4, (at + 4 + length).min(input.len()));
        if end - start >= IN_HEADER {
            let length = (end - start) as u32;
            input[start..start + 4].copy_from_slice(&length.to_ne_bytes());
            if random.once_in(16) {
                // Extensions: some of what is behind the body.
                let words = (random.below(8) as u16).to_ne_bytes();
                input[start + 36..start + 38].copy_from_slice(&words);
            }
        }
        at = end;
    }
}
