//! Figures for people, programs and browsers.

pub mod html;
pub mod plot;
pub mod table;

use serde::Serialize;

use crate::bench::CaseReport;
use crate::machine::Machine;

/// A whole run or comparison.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// Daemons in order: name and command.
    pub daemons: Vec<(String, String)>,
    /// The daemon that ratios are to.
    pub base: Option<String>,
    /// Rounds per daemon.
    pub rounds: usize,
    /// All cases.
    pub cases: Vec<CaseReport>,
}

/// A number with three significant digits or all before the point.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v > 0.0 => format!("{value:.2}"),
        _ => "-".to_owned(),
    }
}

/// A number of bytes.
pub fn bytes(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{} GB", number(v / 1e9)),
        v if v >= 1e6 => format!("{} MB", number(v / 1e6)),
        v if v >= 1e3 => format!("{} kB", number(v / 1e3)),
        v => format!("{v:.0} B"),
    }
}

/// A time given in seconds.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", number(s)),
        s if s >= 1e-3 => format!("{} ms", number(s * 1e3)),
        s => format!("{} us", number(s * 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let numbers = [0.0, 0.123, 1.0, 9.999, 12.34, 99.97, 12345.6].map(number);
        assert_eq!(
            numbers,
            ["-", "0.12", "1.00", "10.0", "12.3", "100", "12346"]
        );
        assert_eq!(
            [12.0, 2e4, 3.5e6].map(bytes),
            ["12 B", "20.0 kB", "3.50 MB"]
        );
        assert_eq!(
            [2.0, 0.0035, 4e-5].map(time),
            ["2.00 s", "3.50 ms", "40.0 us"]
        );
    }
}
