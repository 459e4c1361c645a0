//! `--xattrmap`: rules in a language of their own, and names of a guest's.

use std::ffi::CString;

use ferryfs_core::passthrough::xattr_map::XattrMap;

use crate::random::Random;
use crate::{mutate, Target};

pub(crate) const TARGET: Target = Target {
    name: "xattrmap",
    about: "rules for extended attributes, and the names they map",
    run,
    seeds,
    mutate: change,
};

/// Up to the first line feed the rules (which have none there), behind it names.
fn run(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let Some(Ok(rules)) = lines.next().map(std::str::from_utf8) else {
        return;
    };
    let map: XattrMap = match rules.parse() {
        Ok(map) => map,
        Err(e) => {
            let text = ferryfs_state::error_line(&e);
            assert!(!text.is_empty());
            return;
        }
    };
    for name in lines.take(100) {
        let _ = map.to_guest(name);
        let Ok(name) = CString::new(name) else {
            continue;
        };
        if let Ok(host) = map.to_host(&name) {
            let _ = map.to_guest(host.to_bytes());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "/map/security./user.v./",
        ":map::user.v.:",
        ":prefix:all:trusted.:user.virtiofs.:\n:bad:all:::",
        ":ok:client:user.::/bad/server//security./:unsupported:all:::",
        " :prefix:all::user.virtiofsd.:  :bad:all::: ",
        ",map,,user.virtiofs.,",
        ":unsupported:client:trusted.::ok:all:::",
    ]
    .into_iter()
    .map(|rules| {
        let rules = rules.replace('\n', " ");
        let names = "user.a\ntrusted.b\nsecurity.capability\nuser.v.security.x\n\nuser.virtiofs.c";
        format!("{rules}\n{names}").into_bytes()
    })
    .collect()
}

fn change(input: &mut Vec<u8>, random: &mut Random) {
    const WORDS: [&[u8]; 12] = [
        b":",
        b"/",
        b" ",
        b"map",
        b"prefix",
        b"ok",
        b"bad",
        b"unsupported",
        b"client",
        b"server",
        b"all",
        b"user.",
    ];
    if random.once_in(3) {
        return mutate::bytes(input, random);
    }
    let at = random.below(input.len() + 1);
    let word = random.pick(&WORDS).copied().unwrap_or_default();
    input.splice(at..at, word.iter().copied());
}
