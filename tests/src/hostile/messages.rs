//! vhost-user messages that make no sense, each on a connection of its own that has
//! negotiated.

use std::os::fd::AsFd;

use ferryfs_frontend::frontend::{mem_region, state};
use ferryfs_frontend::wire::{self, request};

use super::{told, Attack, Said};

/// A message that makes no sense.
#[derive(Debug, Clone)]
pub struct Nonsense {
    /// Its number.
    pub code: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// How many descriptors come with it; those of a file of 4 KiB.
    pub fds: usize,
    /// What is wrong, where number and lengths do not say it.
    pub what: &'static str,
}

impl Nonsense {
    /// In a few words.
    pub fn name(&self) -> String {
        let name = match wire::request_name(self.code) {
            "unknown request" => format!("request {}", self.code),
            name => name.to_owned(),
        };
        match self.what {
            "" => format!(
                "{name} of {} bytes with {} descriptors",
                self.payload.len(),
                self.fds
            ),
            what => format!("{name}: {what}"),
        }
    }
}

/// A memory table's payload.
pub fn table(regions: &[[u8; 32]]) -> Vec<u8> {
    let mut payload = (regions.len() as u32).to_ne_bytes().to_vec();
    payload.extend_from_slice(&[0; 4]);
    payload.extend(regions.iter().flatten());
    payload
}

/// All messages.
pub fn messages() -> Vec<Nonsense> {
    use request::{
        ADD_MEM_REG, CHECK_DEVICE_STATE, GET_CONFIG, GET_INFLIGHT_FD, GET_VRING_BASE, REM_MEM_REG,
        SET_CONFIG, SET_DEVICE_STATE_FD, SET_FEATURES, SET_LOG_BASE, SET_MEM_TABLE,
        SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE,
        SET_VRING_KICK, SET_VRING_NUM,
    };
    let long = |n: u64| n.to_ne_bytes().to_vec();
    let pair = |a: u32, b: u32| state(a, b).to_vec();
    let log = |size: u64, offset: u64| [size.to_ne_bytes(), offset.to_ne_bytes()].concat();
    let one = table(&[mem_region(0, 1 << 20, 0x1000_0000, 0)]);
    let region = [vec![0; 8], one[8..].to_vec()].concat();
    let addr = |index: u32, fill: u8| [pair(index, 0), vec![fill; 32]].concat();
    #[rustfmt::skip] // a message a line
    let all: Vec<(u32, Vec<u8>, usize, &'static str)> = vec![
        (0, vec![], 0, ""),
        (44, vec![], 0, ""),
        (999, vec![1; 100], 0, ""),
        (u32::MAX, vec![], 0, ""),
        (SET_FEATURES, long(u64::MAX), 0, "all there could be"),
        (SET_FEATURES, vec![1; 7], 0, "7 bytes"),
        (SET_FEATURES, vec![0; 4000], 0, "4000 bytes"),
        (SET_PROTOCOL_FEATURES, vec![], 0, "nothing"),
        (SET_MEM_TABLE, one.clone(), 1, "more than the file has"),
        (SET_MEM_TABLE, one.clone(), 0, "no descriptor"),
        (SET_MEM_TABLE, one.clone(), 3, "too many descriptors"),
        (SET_MEM_TABLE, table(&[mem_region(0, u64::MAX, 0, 0)]), 1, "2^64 - 1 bytes"),
        (SET_MEM_TABLE, table(&[mem_region(0, 4096, 0x1000_0000, u64::MAX - 100)]), 1, "an offset that overflows"),
        (SET_MEM_TABLE, table(&[mem_region(0, 0, 0x1000_0000, 0)]), 1, "a region of 0 bytes"),
        (SET_MEM_TABLE, table(&[mem_region(u64::MAX - 4095, 4096, 0x1000_0000, 0)]), 1, "at the end of all addresses"),
        (SET_MEM_TABLE, [9u32.to_ne_bytes().as_slice(), &one[4..]].concat(), 1, "says 9 regions, has 1"),
        (SET_MEM_TABLE, [u32::MAX.to_ne_bytes().as_slice(), &one[4..]].concat(), 1, "says 2^32 - 1 regions"),
        (SET_MEM_TABLE, vec![0xff; 8], 0, "a header of ones"),
        (ADD_MEM_REG, region.clone(), 1, "more than the file has"),
        (ADD_MEM_REG, vec![0; 3], 1, "3 bytes"),
        (REM_MEM_REG, region, 0, "one that is not there"),
        (SET_LOG_BASE, log(4096, 0), 0, "no descriptor"),
        (SET_LOG_BASE, log(u64::MAX, 0), 1, "2^64 - 1 bytes"),
        (SET_LOG_BASE, log(1, u64::MAX), 1, "an offset that overflows"),
        (SET_VRING_NUM, pair(0, 0), 0, "0 descriptors"),
        (SET_VRING_NUM, pair(0, 100), 0, "100 descriptors"),
        (SET_VRING_NUM, pair(0, u32::MAX), 0, "2^32 - 1 descriptors"),
        (SET_VRING_NUM, pair(77, 128), 0, "queue 77"),
        (SET_VRING_BASE, pair(u32::MAX, 0), 0, "queue 2^32 - 1"),
        (SET_VRING_BASE, pair(0, u32::MAX), 0, "base 2^32 - 1"),
        (SET_VRING_ADDR, addr(0, 0xff), 0, "addresses of ones"),
        (SET_VRING_ADDR, addr(99, 0), 0, "queue 99"),
        (SET_VRING_KICK, long(99), 1, "queue 99"),
        (SET_VRING_KICK, long(0), 2, "two descriptors"),
        (SET_VRING_ENABLE, pair(99, 1), 0, "queue 99"),
        (SET_VRING_ENABLE, pair(0, 7), 0, "neither on nor off"),
        (GET_VRING_BASE, pair(99, 0), 0, "queue 99"),
        (SET_VRING_CALL, long(99), 0, "queue 99"),
        (GET_CONFIG, vec![0xff; 12], 0, "ones"),
        (SET_CONFIG, vec![0; 52], 0, "zeroes"),
        (SET_DEVICE_STATE_FD, pair(7, 0), 1, "direction 7"),
        (SET_DEVICE_STATE_FD, pair(0, 9), 1, "phase 9"),
        (SET_DEVICE_STATE_FD, pair(0, 0), 0, "no descriptor"),
        (CHECK_DEVICE_STATE, vec![], 0, "without a transfer"),
        (GET_INFLIGHT_FD, vec![0; 24], 0, "not negotiated"),
    ];
    all.into_iter()
        .map(|(code, payload, fds, what)| Nonsense {
            code,
            payload,
            fds,
            what,
        })
        .collect()
}

/// Bytes that are no message, sent before anything else, and the connection closed.
pub fn noise() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "a message of 4 GiB announced",
            wire::header(request::SET_MEM_TABLE, 1, u32::MAX).to_vec(),
        ),
        (
            "flags that are an answer's",
            wire::header(request::GET_FEATURES, 0x7, 0).to_vec(),
        ),
        (
            "flags of version 0",
            wire::header(request::GET_FEATURES, 0xffff_fff0, 0).to_vec(),
        ),
        ("a quarter of a header", vec![1, 0, 0]),
        ("100 kB of noise", vec![0xa5; 100_000]),
    ]
}

/// A file that is too small for what is said about it.
pub fn small_file() -> std::fs::File {
    let small = tempfile::tempfile().expect("file");
    small.set_len(4096).expect("truncate");
    small
}

/// Each message as an attack.
pub fn attacks() -> Vec<Attack> {
    let message = |nonsense: Nonsense| {
        Attack::new("message", nonsense.name(), move |scene| {
            let mut frontend = match scene.front_end() {
                Ok(frontend) => frontend,
                Err(said) => return said,
            };
            let small = small_file();
            let fds: Vec<_> = std::iter::repeat_n(small.as_fd(), nonsense.fds).collect();
            let connection = frontend.connection();
            told(connection.request_acked(nonsense.code, &nonsense.payload, &fds))
        })
    };
    let mut all: Vec<Attack> = messages().into_iter().map(message).collect();
    all.extend(noise().into_iter().map(|(name, bytes)| {
        Attack::new("message", name, move |scene| {
            match scene.connect() {
                // It may be hung up on in the middle.
                Ok(mut frontend) => {
                    let socket = frontend.connection().socket();
                    let _ = wire::send_bytes(socket, &bytes, &[]);
                    Said::Nobody
                }
                Err(said) => said,
            }
        })
    }));
    all
}
