//! The program that runs from the share while the guest crosses: each line it
//! reads makes it touch a part of its own file that it has not touched before.

use std::io::{BufRead, Write};

use ferry_guest::pattern;

use crate::sys::{At, Result};

/// First argument that makes the agent's executable this program.
pub const ARG: &str = "program";
/// Parts of the table; one is touched per line.
pub const PARTS: usize = 64;
const WORDS: usize = 64 * 1024;

/// Half a megabyte of the executable that nothing else looks at, so that it is
/// paged in only when a line asks for it.
static TABLE: [u64; WORDS] = table();

const fn table() -> [u64; WORDS] {
    let mut table = [0; WORDS];
    let mut state = 1_u64;
    let mut i = 0;
    while i < WORDS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        table[i] = state;
        i += 1;
    }
    table
}

/// Hash of part `n` of the table.
pub fn part(n: usize) -> u64 {
    let len = WORDS / PARTS;
    let from = n % PARTS * len;
    let bytes: Vec<u8> = TABLE[from..from + len]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    pattern::fnv(&bytes)
}

/// Answers each number on standard input by the hash of that part.
pub fn run() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.at("read standard input")?;
        let n: usize = line.parse().map_err(|e| format!("{e}")).at(&line)?;
        writeln!(out, "{:x}", part(n))
            .and_then(|()| out.flush())
            .at("write standard output")?;
    }
    Ok(())
}
