//! The envelope alone: what `ferryctl state inspect` does to any file.

use ferryfs_state::{read_header, EnvelopeReader};

use super::{limits, streams};
use crate::{seal, Target};

pub(crate) const TARGET: Target = Target {
    name: "envelope",
    about: "header, frames and end of a stream, with no format",
    run,
    seeds: streams,
    mutate: seal::stream,
};

fn run(data: &[u8]) {
    let header = read_header(&mut &data[..]);
    let Ok(mut reader) = EnvelopeReader::open(data, &limits()) else {
        return;
    };
    let header = header.expect("the header by itself is read like that of a stream");
    assert_eq!(reader.header(), &header);
    let again = header.to_bytes().expect("a header that was read");
    assert!(data.starts_with(&again), "a header has one form");
    let mut frames = 0;
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                frames += 1;
                assert_eq!(frame.payload.len(), frame.header.length as usize);
            }
            Ok(None) => break,
            Err(e) => {
                assert!(!e.to_string().is_empty());
                return;
            }
        }
    }
    assert_eq!(reader.totals().frames, frames);
    assert_eq!(reader.offset(), data.len() as u64);
}
