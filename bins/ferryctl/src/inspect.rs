//! `ferryctl state inspect`: the envelope, with no format's help.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use ferryfs_state::{EnvelopeReader, Header, Limits, SectionId, SectionVersion, StateError};

use crate::show::size;
use crate::stream::{open, Error};

/// What the frames of one section in one version amount to.
#[derive(Default)]
struct Row {
    frames: u64,
    records: u64,
    bytes: u64,
    critical: bool,
}

type Table = BTreeMap<(SectionId, SectionVersion), Row>;

/// Prints header and sections. Checksums are verified on the way.
///
/// # Errors
/// Not a stream, or a damaged one; what was sound before the damage is printed.
pub fn run(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut reader = EnvelopeReader::open(open(path)?, &Limits::default()).map_err(failed)?;
    let mut out = io::stdout().lock();
    print_header(reader.header(), &mut out).map_err(Error::Print)?;
    let mut table = Table::new();
    let result = collect(&mut reader, &mut table);
    print_table(&table, &mut out).map_err(Error::Print)?;
    result.map_err(failed)?;
    writeln!(out, "{} bytes, all checksums match", reader.offset()).map_err(Error::Print)
}

fn collect<R: Read>(reader: &mut EnvelopeReader<R>, table: &mut Table) -> Result<(), StateError> {
    while let Some(frame) = reader.next_frame()? {
        let row = table
            .entry((frame.header.section, frame.header.version))
            .or_default();
        row.frames += 1;
        row.records += u64::from(frame.header.records);
        row.bytes += frame.payload.len() as u64;
        row.critical |= frame.header.is_critical();
    }
    Ok(())
}

fn print_header(header: &Header, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "container version  {}", header.container)?;
    writeln!(
        out,
        "state version      {}{}",
        header.state,
        read_by(header)
    )?;
    writeln!(out, "format             {}", header.format)?;
    writeln!(out, "written by         {}", header.writer)
}

/// Which releases read it, in brackets; nothing for a version that is not known here.
fn read_by(header: &Header) -> String {
    match header.state.first_release() {
        Some(release) => format!(" (ferryfs {release} and later)"),
        None => String::new(),
    }
}

fn print_table(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\n{:<16} {:>7} {:>9} {:>7} {:>10} {:>13}",
        "section", "version", "critical", "frames", "records", "size"
    )?;
    for ((section, version), row) in table {
        writeln!(
            out,
            "{:<16} {:>7} {:>9} {:>7} {:>10} {:>13}",
            section.to_string(),
            version,
            if row.critical { "yes" } else { "no" },
            row.frames,
            row.records,
            size(row.bytes)
        )?;
    }
    writeln!(out)
}
