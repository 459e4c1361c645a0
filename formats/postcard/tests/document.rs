//! docs/state-format.md shows a stream byte by byte. This makes the same one again
//! and compares: the page is true, or the test fails.

use ferryfs_format_postcard::Postcard;
use ferryfs_state::testing::sample_session;
use ferryfs_state::{
    read_state, write_state, FsState, Handle, Inode, Limits, Location, Registry, State, WriterInfo,
};

/// The state of the page's example.
fn example() -> State {
    State {
        session: Some(sample_session()),
        fs: FsState {
            next_inode: 3,
            next_handle: 1,
            inodes: vec![
                Inode {
                    id: 1,
                    lookups: 1,
                    kind: 0o040000,
                    location: Location::Root,
                },
                Inode {
                    id: 2,
                    lookups: 1,
                    kind: 0o100000,
                    location: Location::Child {
                        parent: 1,
                        name: b"caf\xe9".to_vec().into(),
                    },
                },
            ],
            handles: vec![Handle {
                id: 0,
                inode: 2,
                directory: false,
                guest_flags: 0o100001,
                host_flags: 0o100002,
            }],
            ..FsState::default()
        },
    }
}

/// Takes a stream apart by the page's tables, one line a field.
struct Dump<'a> {
    bytes: &'a [u8],
    at: usize,
    text: String,
}

impl<'a> Dump<'a> {
    fn field(&mut self, length: usize, what: &str) -> &'a [u8] {
        let field = &self.bytes[self.at..self.at + length];
        for (n, line) in field.chunks(8).enumerate() {
            let hex: Vec<_> = line.iter().map(|b| format!("{b:02x}")).collect();
            let what = if n == 0 { what } else { "" };
            let line = format!("{:04x}  {:<23}  {what}", self.at + n * 8, hex.join(" "));
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
        self.at += length;
        field
    }

    fn header(&mut self) {
        self.field(8, "magic");
        self.field(2, "container version");
        self.field(2, "header length");
        self.field(4, "flags");
        self.field(4, "state version");
        let lengths = [
            self.field(1, "length of the format name")[0],
            self.field(1, "length of the vendor name")[0],
            self.field(1, "length of the writer version")[0],
        ];
        self.field(1, "reserved");
        for (length, what) in lengths.into_iter().zip(["format", "vendor", "version"]) {
            let text = &self.bytes[self.at..self.at + usize::from(length)];
            let what = format!("{what} \"{}\"", text.escape_ascii());
            self.field(length.into(), &what);
        }
        self.field(4, "header checksum");
    }

    /// One frame; answers whether it was the last.
    fn frame(&mut self) -> bool {
        let section = self.field(2, "");
        let section = u16::from_le_bytes([section[0], section[1]]);
        let names = ["session", "counters", "mounts", "inodes", "handles"];
        let name = names
            .get(usize::from(section) - 1)
            .copied()
            .unwrap_or("end");
        assert_eq!(self.text.pop(), Some('\n'));
        let pad = 31 - (self.text.len() - self.text.rfind('\n').map_or(0, |n| n + 1));
        self.text.push_str(&" ".repeat(pad));
        self.text.push_str(&format!("section {section}: {name}\n"));
        self.field(2, "section version");
        self.field(2, "flags: critical");
        self.field(2, "reserved");
        self.field(4, "records");
        let length = self.field(4, "payload length");
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        if section == 0xffff {
            self.field(8, "frames before this one");
            self.field(8, "inodes");
            self.field(8, "handles");
            self.field(4, "stream checksum");
        } else {
            self.field(length as usize, "payload");
        }
        self.field(4, "frame checksum");
        section == 0xffff
    }
}

#[test]
fn the_example_of_the_page_is_what_is_written() {
    let mut bytes = Vec::new();
    let writer = WriterInfo::new("ferryfsd", "0.1.0");
    write_state(&example(), &Postcard, &writer, &mut bytes).unwrap();
    let registry = Registry::new().with(Postcard);
    let (_, back) = read_state(&mut &bytes[..], &registry, &Limits::default()).unwrap();
    assert_eq!(back, example());

    let mut dump = Dump {
        bytes: &bytes,
        at: 0,
        text: String::new(),
    };
    dump.header();
    while !dump.frame() {}
    assert_eq!(dump.at, bytes.len());

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/state-format.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- example -->\n```\n", "```\n<!-- /example -->");
    let start = page.find(begin).expect("the example's begin") + begin.len();
    let stop = start + page[start..].find(end).expect("the example's end");
    if std::env::var_os("FERRYFS_MAKE_GOLDENS").is_some() {
        let page = [&page[..start], &dump.text, &page[stop..]].concat();
        return std::fs::write(path, page).unwrap();
    }
    assert_eq!(&page[start..stop], dump.text);
}
