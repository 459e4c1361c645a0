//! Each workload and a migration on ferryfsd, a few operations each: counts and what
//! is on the disk must be right. How long anything takes is not looked at.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// ferryfsd beside this test's directory, where cargo puts it; none if it was not built.
fn ferryfsd() -> Option<PathBuf> {
    let exe = std::env::current_exe().expect("own path");
    let target = exe.parent().and_then(Path::parent).expect("target/PROFILE");
    let path = target.join("ferryfsd");
    if !path.is_file() {
        eprintln!(
            "skipped: no {}; `cargo build -p ferryfsd` makes it",
            path.display()
        );
        return None;
    }
    Some(path)
}

/// Runs ferrybench and returns its standard output and JSON report.
fn bench(ferryfsd: &Path, args: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().expect("directory");
    let json = dir.path().join("report.json");
    let html = dir.path().join("report.html");
    let svg = dir.path().join("plots.svg");
    let done = Command::new(env!("CARGO_BIN_EXE_ferrybench"))
        .args(args)
        .args(["--quiet", "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .arg("--svg")
        .arg(&svg)
        .env("FERRYFSD", ferryfsd)
        .output()
        .expect("ferrybench");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {stderr}");
    let html = std::fs::read_to_string(html).expect("HTML");
    assert!(
        html.ends_with("</html>\n") && html.contains("<svg"),
        "{html}"
    );
    // Everything is in the one file.
    assert!(!html.contains("src=") && !html.contains("href="), "{html}");
    let svg = std::fs::read_to_string(svg).expect("SVG");
    assert!(
        svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    let json = std::fs::read_to_string(json).expect("JSON");
    let left = std::fs::read_dir(dir.path()).expect("directory").count();
    assert_eq!(left, 3, "shares are removed");
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    (stdout, serde_json::from_str(&json).expect("JSON"))
}

fn check_cases(report: &Value, cases: usize, daemons: usize, ops: u64) {
    let reported = report["cases"].as_array().expect("cases");
    assert_eq!(reported.len(), cases);
    for case in reported {
        let label = &case["label"];
        let entries = case["daemons"].as_array().expect("daemons");
        assert_eq!(entries.len(), daemons, "{label}");
        for daemon in entries {
            assert!(daemon["error"].is_null(), "{label}: {}", daemon["error"]);
            assert_eq!(daemon["median"]["ops"], ops, "{label}");
            assert!(
                daemon["verified"].as_u64() > Some(0),
                "{label}: nothing compared"
            );
        }
    }
}

#[test]
fn all_workloads_do_what_they_say() {
    let Some(ferryfsd) = ferryfsd() else { return };
    let args = [
        "run",
        "--daemon",
        "ferryfsd",
        "--ops",
        "24",
        "--depth",
        "8",
        "--file-size",
        "1",
        "--entries",
        "100",
        "--dir-buffer",
        "4096",
    ];
    let (stdout, report) = bench(&ferryfsd, &args);
    let listed = Command::new(env!("CARGO_BIN_EXE_ferrybench"))
        .arg("workloads")
        .output();
    let listed = String::from_utf8(listed.expect("list").stdout).expect("text");
    let names: Vec<&str> = listed.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(names.len(), 22);
    check_cases(&report, names.len(), 1, 24);
    for (case, name) in report["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .zip(&names)
    {
        assert_eq!(case["workload"], **name);
        assert_eq!(case["bare"]["ops"], 24, "{name}");
        assert!(stdout.contains(&format!("| {name} depth 8")), "{stdout}");
    }
}

#[test]
fn comparisons_pair_their_rounds() {
    let Some(ferryfsd) = ferryfsd() else { return };
    let args = [
        "compare",
        "--daemon",
        "ferryfsd",
        "--daemon",
        "b=@ferryfsd --cache=never",
        "--base",
        "b",
        "--rounds",
        "3",
        "--repeat",
        "2",
        "--ops",
        "20",
        "--depth",
        "1,8",
        "--queues",
        "2",
        "--workload",
        "getattr,create,write-4k",
        "--file-size",
        "1",
        "--place",
        "together",
        "--no-bare",
    ];
    let (stdout, report) = bench(&ferryfsd, &args);
    check_cases(&report, 6, 2, 20);
    assert_eq!(report["rounds"], 6);
    assert!(stdout.contains("medians over 6 rounds"), "{stdout}");
    assert_eq!(
        report["machine"]["realtime"], false,
        "only where it is asked for"
    );
    for case in report["cases"].as_array().expect("cases") {
        assert_eq!(case["queues"], 2);
        assert_eq!(case["place"], "together");
        let [a, b] = [&case["daemons"][0], &case["daemons"][1]];
        assert_eq!(a["rounds"].as_array().map(Vec::len), Some(6));
        assert!(a["ratios"]["ops"]["median"].as_f64() > Some(0.0));
        assert!(b["ratios"].is_null(), "the base has no ratio to itself");
    }
}

#[test]
fn a_daemon_with_one_queue_sits_out_where_there_are_two() {
    let Some(ferryfsd) = ferryfsd() else { return };
    let Some(_) = ferryfs_frontend::spawn::find("VIRTIOFSD", "virtiofsd") else {
        eprintln!("skipped: no virtiofsd");
        return;
    };
    let args = [
        "compare",
        "--peer",
        "virtiofsd",
        "--case",
        "getattr depth 2 queues 2",
        "--case",
        "getattr depth 1",
        "--rounds",
        "2",
        "--duration",
        "5",
        // Not enough for rounds as long as that.
        "--budget",
        "1",
    ];
    let (stdout, report) = bench(&ferryfsd, &args);
    let cases = report["cases"].as_array().expect("cases");
    let [two, one] = [&cases[0]["daemons"], &cases[1]["daemons"]];
    assert!(two[0]["median"]["ops"].as_u64() > Some(0), "{two}");
    let skipped = two[1]["skipped"].as_str();
    if let Some(why) = skipped {
        assert_eq!(why, "has 1 request queue");
        assert!(two[1]["median"].is_null() && two[1]["error"].is_null());
    }
    // Measured beside it where it can be.
    assert!(one[0]["ratios"]["ops"]["median"].as_f64() > Some(0.0));
    assert!(stdout.contains("ferryfsd beside virtiofsd"), "{stdout}");
    for case in cases {
        let round = case["round_s"].as_f64();
        assert!(round < Some(1.0), "longer than the budget: {round:?}");
    }
}

#[test]
fn users_other_than_root_are_served() {
    let Some(ferryfsd) = ferryfsd() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act for others");
        return;
    }
    let args = [
        "run",
        "--daemon",
        "ferryfsd",
        "--ops",
        "16",
        "--uid",
        "1234",
        "--poll",
        "--workload",
        "create,mkdir,small-files,rename",
        "--depth",
        "4",
    ];
    let (_, report) = bench(&ferryfsd, &args);
    // What was made belongs to the user, or verification had failed.
    check_cases(&report, 4, 1, 16);
}

#[test]
fn a_daemon_that_fails_is_named_and_fails_the_run() {
    let dir = tempfile::tempdir().expect("directory");
    let spec = "broken=sh -c 'echo no such share >&2; exit 3' {socket} {share}";
    let done = Command::new(env!("CARGO_BIN_EXE_ferrybench"))
        .args([
            "run",
            "--daemon",
            spec,
            "--workload",
            "open",
            "--ops",
            "1",
            "--dir",
        ])
        .arg(dir.path())
        .output()
        .expect("ferrybench");
    assert!(!done.status.success());
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(
        stderr.contains("open depth 8 on broken") && stderr.contains("no such share"),
        "{stderr}"
    );
}

#[test]
fn a_migration_of_a_thousand_inodes_is_measured() {
    let Some(ferryfsd) = ferryfsd() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: opening file handles takes CAP_DAC_READ_SEARCH");
        return;
    }
    let args = [
        "migrate",
        "--daemon",
        "ferryfsd",
        "--inodes",
        "10,1000",
        "--handles",
        "20",
    ];
    let (stdout, report) = bench(&ferryfsd, &args);
    let points = report["points"].as_array().expect("points");
    let seen: Vec<_> = points
        .iter()
        .map(|p| (p["mode"].as_str(), p["inodes"].as_u64()))
        .collect();
    let (paths, handles) = (Some("find-paths"), Some("file-handles"));
    let expected = [
        (paths, Some(10)),
        (handles, Some(10)),
        (paths, Some(1000)),
        (handles, Some(1000)),
    ];
    assert_eq!(seen, expected);
    for point in points {
        assert!(point["error"].is_null(), "{}", point["error"]);
        let (inodes, crossing) = (point["inodes"].as_u64().expect("n"), &point["crossing"]);
        // Every inode and every open file was looked at on the destination.
        assert_eq!(crossing["verified"], inodes + inodes.min(20));
        assert!(
            crossing["state_bytes"].as_u64() > Some(inodes),
            "{crossing}"
        );
        assert!(crossing["source_peak_rss"].as_u64() > Some(0));
        assert!(
            crossing["destination_fds"].as_u64() >= Some(inodes.min(20)),
            "{crossing}"
        );
    }
    assert!(stdout.contains("ferryfsd find-paths"), "{stdout}");
}
