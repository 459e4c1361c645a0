//! Requests that no kernel sends.

use ferryfs_frontend::call::{self, Call, InitRequest};
use ferryfs_frontend::client::ClientError;
use ferryfs_frontend::fuse::{opcode, IN_HEADER, OUT_HEADER, ROOT_ID};
use ferryfs_frontend::Vm;

use super::{said, Attack, Said, Scene};
use crate::Guest;

/// A request's bytes, header and all, which may then be spoiled.
pub fn bytes<R>(vm: &Vm, call: &Call<R>) -> Vec<u8> {
    let header = vm
        .client()
        .header(call.opcode, call.nodeid, call.args.len());
    [header.to_bytes().as_slice(), &call.args].concat()
}

/// Sends `request` with one piece of room for the answer.
fn send(vm: &Vm, request: &[u8], room: usize) -> Said {
    let writable: &[usize] = if room == 0 { &[] } else { &[room] };
    match vm.client().exchange(&[request], writable, false) {
        Ok(reply) => match reply.errno() {
            Some(0) => Said::Done,
            Some(errno) => Said::Error(errno),
            None => Said::Unanswered,
        },
        Err(error) => said(Err::<(), _>(error)),
    }
}

fn attack(name: &str, run: impl Fn(&mut Scene) -> Said + Send + Sync + 'static) -> Attack {
    Attack::new("request", name, run)
}

/// An attack with an open file: node and handle.
fn on_file(
    name: &str,
    run: impl Fn(&Vm, &Guest, (u64, u64)) -> Said + Send + Sync + 'static,
) -> Attack {
    attack(name, move |scene| {
        let vm = scene.vm();
        let mut guest = Guest::of(vm);
        let file = guest.open_path("file", libc::O_RDWR);
        run(vm, &guest, file)
    })
}

/// One whose request has a changed length in its header.
fn with_length(name: &str, len: u32) -> Attack {
    attack(name, move |scene| {
        let vm = scene.vm();
        let mut request = bytes(vm, &call::lookup(ROOT_ID, b"file"));
        request[..4].copy_from_slice(&len.to_le_bytes());
        send(vm, &request, 4096)
    })
}

/// A LOOKUP of a name that leads, or would lead, elsewhere.
fn with_name(name: &'static str, show: &str) -> Attack {
    attack(&format!("LOOKUP of {show}"), move |scene| {
        let vm = scene.vm();
        send(
            vm,
            &bytes(vm, &call::lookup(ROOT_ID, name.as_bytes())),
            4096,
        )
    })
}

type Unit = Result<(), ClientError>;

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let mut all = vec![
        on_file("READ at 2^63", |_, guest, (node, fh)| {
            said(guest.read(node, fh, 1 << 63, 4096))
        }),
        on_file("READ at the largest offset", |_, guest, (node, fh)| {
            said(guest.read(node, fh, u64::MAX, 4096))
        }),
        on_file("WRITE at 2^63", |_, guest, (node, fh)| {
            said(guest.write(node, fh, 1 << 63, b"x"))
        }),
        on_file("FALLOCATE at 2^63", |_, guest, (node, fh)| {
            said::<()>(guest.fallocate(node, fh, 1 << 63, 1, 0) as Unit)
        }),
        on_file("LSEEK to the largest offset", |_, guest, (node, fh)| {
            said(guest.lseek(node, fh, u64::MAX, 77))
        }),
        on_file("READ of 4 GiB", |vm, _, (node, fh)| {
            send(vm, &bytes(vm, &call::read(node, fh, 0, u32::MAX, 0)), 4096)
        }),
        on_file("READ with no room at all", |vm, _, (node, fh)| {
            send(vm, &bytes(vm, &call::read(node, fh, 0, 4096, 0)), 0)
        }),
        on_file("READ with room for half a header", |vm, _, (node, fh)| {
            send(vm, &bytes(vm, &call::read(node, fh, 0, 4096, 0)), 8)
        }),
        on_file("READ of a handle that is not", |_, guest, (node, _)| {
            said(guest.read(node, u64::MAX, 0, 10))
        }),
        attack("LOOKUP with room for a header alone", |scene| {
            let vm = scene.vm();
            send(vm, &bytes(vm, &call::lookup(ROOT_ID, b"file")), OUT_HEADER)
        }),
        attack("LOOKUP whose name does not end", |scene| {
            let vm = scene.vm();
            let mut request = bytes(vm, &call::lookup(ROOT_ID, b"file"));
            request.pop();
            let len = request.len() as u32;
            request[..4].copy_from_slice(&len.to_le_bytes());
            send(vm, &request, 4096)
        }),
        attack("GETATTR of a node that is not", |scene| {
            said(scene.vm().client().getattr(0xdead_beef, None))
        }),
        with_length("a header that says 0 bytes", 0),
        with_length("a header that says less than itself", 39),
        with_length("a header that says a byte too many", 46),
        with_length("a header that says 4 GiB", u32::MAX),
        with_name("..", "`..`"),
        with_name("../sentinel", "`../sentinel`"),
        with_name("/etc/passwd", "`/etc/passwd`"),
        with_name("", "an empty name"),
    ];
    for (name, code) in [
        ("operation 0", 0),
        ("an operation that is not", 1000),
        ("the largest operation", u32::MAX),
        ("CUSE_INIT", 4096),
        ("SETUPMAPPING", opcode::SETUPMAPPING),
        ("REMOVEMAPPING", opcode::REMOVEMAPPING),
    ] {
        all.push(attack(name, move |scene| {
            let vm = scene.vm();
            let header = vm.client().header(code, ROOT_ID, 64).to_bytes();
            send(vm, &[&header[..], &[0xff; 64]].concat(), 4096)
        }));
    }
    all.extend([
        attack("half a header", |scene| {
            let vm = scene.vm();
            let request = bytes(vm, &call::getattr(ROOT_ID, None));
            send(vm, &request[..IN_HEADER / 2], 4096)
        }),
        attack("every operation with no body", |scene| {
            let vm = scene.vm();
            let mut last = Said::Nobody;
            for code in (1..=52).filter(|code| ![opcode::DESTROY, opcode::INIT].contains(code)) {
                let header = vm.client().header(code, ROOT_ID, 0).to_bytes();
                last = send(vm, &header, 4096);
                if matches!(last, Said::Nothing) {
                    break;
                }
            }
            last
        }),
        on_file("SETXATTR that says 4 GiB", |vm, _, (node, _)| {
            let set = call::setxattr(node, b"user.x", b"abc", 0, Some(0));
            let mut request = bytes(vm, &set);
            request[IN_HEADER..IN_HEADER + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            send(vm, &request, 4096)
        }),
        on_file("GETXATTR that asks for 4 GiB", |vm, _, (node, _)| {
            let mut request = bytes(vm, &call::getxattr(node, b"user.y", 0));
            request[IN_HEADER..IN_HEADER + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            send(vm, &request, 4096)
        }),
        on_file("WRITE that says more than it has", |vm, _, (node, fh)| {
            let write = call::write(node, fh, 0, call::Payload::None, 0, 0);
            let mut request = bytes(vm, &write);
            request[IN_HEADER + 16..IN_HEADER + 20].copy_from_slice(&u32::MAX.to_le_bytes());
            send(vm, &request, 4096)
        }),
        attack("BATCH_FORGET that says 2^32 - 1 entries", |scene| {
            let vm = scene.vm();
            let mut forget = call::batch_forget(&[(5, 1), (6, 1)]);
            forget.args[..4].copy_from_slice(&u32::MAX.to_le_bytes());
            send(vm, &bytes(vm, &forget), 64)
        }),
        attack("FORGET of the root, over and over", |scene| {
            let client = scene.vm().client();
            let gone = (0..10).try_for_each(|_| client.forget(ROOT_ID, u64::MAX));
            match gone {
                Ok(()) => said(client.getattr(ROOT_ID, None)),
                Err(error) => said(Err::<(), _>(error)),
            }
        }),
        attack("a second INIT", |scene| {
            said(scene.vm().client().init(&InitRequest::default()))
        }),
        attack("INIT of FUSE 6", |scene| {
            let old = InitRequest {
                major: 6,
                ..InitRequest::default()
            };
            said(scene.vm().client().init(&old))
        }),
        attack("requests behind DESTROY", |scene| {
            let client = scene.vm().client();
            let _ = client.destroy();
            said(client.lookup(ROOT_ID, "file"))
        }),
        attack("an extension that says 4 GiB", |scene| {
            let vm = scene.vm();
            let mkdir = call::mkdir(ROOT_ID, b"made", 0o755, 0);
            let ext: Vec<u8> = [u32::MAX, ferryfs_frontend::fuse::EXT_GROUPS, u32::MAX, 0]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            let header = vm
                .client()
                .header(mkdir.opcode, ROOT_ID, mkdir.args.len() + ext.len());
            let header = ferryfs_frontend::raw::InHeader {
                total_extlen: (ext.len() / 8) as u16,
                ..header
            };
            send(
                vm,
                &[&header.to_bytes()[..], &mkdir.args, &ext].concat(),
                4096,
            )
        }),
    ]);
    all
}
