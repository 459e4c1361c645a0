//! Logs go to standard error, one line each, where supervisors keep them per VM;
//! or to the system's log.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Where the system's log listens.
const SYSTEM_LOG: &str = "/dev/log";
/// `LOG_USER`, RFC 3164's facility of a user's programs, in its place.
const FACILITY: u32 = 1 << 3;

/// The connection to the system's log, in use from when it is set.
static SYSTEM: OnceLock<SystemLog> = OnceLock::new();

struct SystemLog {
    socket: UnixDatagram,
    name: &'static str,
}

impl SystemLog {
    fn connect(path: &Path, name: &'static str) -> io::Result<SystemLog> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A log that is full must not hold requests up.
        socket.set_nonblocking(true)?;
        Ok(SystemLog { socket, name })
    }

    /// In the form of RFC 3164, as the C library sends it.
    fn send(&self, record: &Record<'_>) -> io::Result<()> {
        let severity = match record.level() {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        let line = format!(
            "<{}>{}[{}]: {}",
            FACILITY | severity,
            self.name,
            std::process::id(),
            record.args()
        );
        self.socket.send(line.as_bytes()).map(drop)
    }
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if SYSTEM.get().is_some_and(|log| log.send(record).is_ok()) {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // One write per line, so that lines of several threads do not mix. A
        // failed write (closed stderr, full disk) must not hurt the guest.
        let line = format!(
            "[{} {:<5} {}] {}\n",
            utc(now.as_secs(), now.subsec_millis()),
            record.level(),
            record.target().split("::").next().unwrap_or("ferryfs"),
            record.args()
        );
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Seconds since 1970 as RFC 3339 in UTC (the days by Hinnant's civil calendar
/// algorithm).
fn utc(secs: u64, millis: u32) -> String {
    let days = (secs / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let s = secs % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

/// Starts logging at `level`. A second call only changes the level.
pub fn start(level: LevelFilter) {
    // An error means that a logger is in place already, a variant's own maybe.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}

/// From here on logs to the system's log, as `name`; where there is none, says so
/// and goes on as before. To be called before the process is confined.
pub fn to_system_log(name: &'static str) {
    match SystemLog::connect(Path::new(SYSTEM_LOG), name) {
        Ok(log) => drop(SYSTEM.set(log)),
        Err(e) => log::warn!(
            "--syslog: failed to connect to {SYSTEM_LOG}: {e}; logging to standard error instead"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_log_gets_lines_with_their_severity() {
        let dir = std::env::temp_dir().join(format!("ferryfs-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        assert!(SystemLog::connect(&path, "ferryfsd").is_err());
        let listening = UnixDatagram::bind(&path).unwrap();
        let log = SystemLog::connect(&path, "ferryfsd").unwrap();
        let record = |level| {
            let mut record = Record::builder();
            record.level(level).args(format_args!("what went on"));
            log.send(&record.build()).unwrap();
            let mut buf = [0u8; 256];
            let n = listening.recv(&mut buf).unwrap();
            String::from_utf8(buf[..n].to_vec()).unwrap()
        };
        let me = format!("ferryfsd[{}]: what went on", std::process::id());
        assert_eq!(record(Level::Error), format!("<11>{me}"));
        assert_eq!(record(Level::Info), format!("<14>{me}"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(utc(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400, 5), "2000-02-29T00:00:00.005Z");
        assert_eq!(utc(1_704_067_199, 999), "2023-12-31T23:59:59.999Z");
        assert_eq!(utc(4_102_444_800, 0), "2100-01-01T00:00:00.000Z");
    }
}
