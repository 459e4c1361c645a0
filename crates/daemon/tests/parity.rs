//! docs/virtiofsd-parity.md, the options of virtiofsd, and those here say the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use clap::ArgAction;

/// An option as virtiofsd's --help has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Theirs {
    /// `none`, `word` (of its own or behind `=`), `equals` (behind `=` only), or
    /// `optional`.
    value: String,
    default: Option<String>,
    values: Vec<String>,
}

type Options = BTreeMap<String, Theirs>;

/// The list in tests/data.
fn stored() -> Options {
    let text = include_str!("data/virtiofsd-1.14.0.tsv");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let [name, value, default, values] = fields[..] else {
                panic!("{line}");
            };
            let some = |text: &str| (text != "-").then(|| text.to_owned());
            let theirs = Theirs {
                value: value.to_owned(),
                default: some(default),
                values: some(values)
                    .map_or(Vec::new(), |v| v.split(',').map(str::to_owned).collect()),
            };
            (name.to_owned(), theirs)
        })
        .collect()
}

/// The list in a `--help`.
fn of_help(help: &str) -> Options {
    let mut options = Options::new();
    let mut last = None;
    for line in help.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if (2..=6).contains(&indent) && text.starts_with('-') {
            let mut words = text.split([' ', ',']).filter(|word| !word.is_empty());
            let long = words.clone().find(|word| word.starts_with("--"));
            let word = long.or_else(|| words.next()).unwrap_or_default();
            let end = word.find(['[', '=']).unwrap_or(word.len());
            let name = word[..end].to_owned();
            let value = match (text.find("[=<"), text.find("=<"), text.find(" <")) {
                (Some(_), ..) => "optional",
                (None, Some(_), _) => "equals",
                (None, None, Some(_)) => "word",
                _ => "none",
            };
            let inside = text
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'));
            let values = match inside {
                Some((values, _)) if values.contains('|') => {
                    values.split('|').map(str::to_owned).collect()
                }
                _ => Vec::new(),
            };
            let theirs = Theirs {
                value: value.to_owned(),
                default: None,
                values,
            };
            options.insert(name.clone(), theirs);
            last = Some(name);
            continue;
        }
        let Some(theirs) = last.as_ref().and_then(|name| options.get_mut(name)) else {
            continue;
        };
        let word = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        let default = text
            .strip_prefix("[default: ")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(default) = default {
            theirs.default = Some(default.to_owned());
        }
        // Values in brackets at a sentence's end, or as a list of points.
        let bracket = text
            .strip_suffix(')')
            .and_then(|text| text.rsplit_once('('));
        if let Some((_, list)) = bracket {
            let list: Vec<_> = list.split(", ").map(str::to_owned).collect();
            if theirs.values.is_empty() && list.len() > 1 && list.iter().all(|value| word(value)) {
                theirs.values = list;
            }
        }
        let point = text
            .strip_prefix("- ")
            .and_then(|text| text.split_once(": "));
        if let Some((value, _)) = point {
            if word(value) && !theirs.values.iter().any(|v| v == value) {
                theirs.values.push(value.to_owned());
            }
        }
    }
    options
}

/// The table of options in the document: the verdict by option.
fn document() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/virtiofsd-parity.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let (_, options) = text
        .split_once("\n## Options\n")
        .expect("a table of options");
    let (options, _) = options.split_once("\n## ").expect("an end of it");
    let rows = options.lines().filter_map(|line| line.strip_prefix("| `-"));
    rows.map(|row| {
        let cells: Vec<_> = row.split(" | ").collect();
        assert!(cells.len() >= 3, "{row}");
        let name = format!("-{}", cells[0].trim_end_matches('`'));
        assert!(
            cells[2].trim_end_matches(" |").len() > 3,
            "no reason: {row}"
        );
        (name, cells[1].to_owned())
    })
    .collect()
}

#[test]
fn the_document_has_each_option_and_what_became_of_it() {
    let document = document();
    let theirs = stored();
    for option in theirs.keys() {
        assert!(
            document.contains_key(option),
            "{option} is not in the document"
        );
    }
    for (option, verdict) in &document {
        assert!(theirs.contains_key(option), "virtiofsd has no {option}");
        assert!(
            ["same", "better", "different"].contains(&verdict.as_str()),
            "{option}: {verdict}"
        );
    }
}

#[test]
fn each_option_of_theirs_is_one_here_with_its_values() {
    let document = document();
    let mut ours = ferryfs_daemon::command("ferryfsd", "0");
    ours.build();
    for (name, theirs) in stored() {
        let arg = ours
            .get_arguments()
            .find(|arg| match name.strip_prefix("--") {
                Some(long) => {
                    let aliases = arg.get_all_aliases().unwrap_or_default();
                    arg.get_long() == Some(long) || aliases.contains(&long)
                }
                None => arg.get_short() == name.chars().nth(1),
            });
        let Some(arg) = arg else {
            panic!("there is no {name}");
        };
        let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let may_be_bare = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let fits = match theirs.value.as_str() {
            "none" => !takes || may_be_bare,
            "optional" => takes && may_be_bare && arg.is_require_equals_set(),
            "equals" | "word" => takes && !may_be_bare,
            other => panic!("{other}"),
        };
        assert!(fits, "{name} takes its value in another way");
        if document[&name] != "different" {
            let default = arg.get_default_values().first();
            let default = default.map(|value| value.to_string_lossy().into_owned());
            let default = default.filter(|value| value != "false");
            assert_eq!(default, theirs.default, "{name}");
        }
        for value in &theirs.values {
            let word = format!("{name}={value}");
            let parsed = ours.clone().try_get_matches_from(["ferryfsd", &word]);
            assert!(parsed.is_ok(), "{word}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn the_list_is_virtiofsd_s_own() {
    let program = std::env::var_os("VIRTIOFSD").unwrap_or_else(|| "virtiofsd".into());
    let run = |option: &str| {
        let output = Command::new(&program).arg(option).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let (Some(version), Some(help)) = (run("--version"), run("--help")) else {
        println!("skipped: no virtiofsd (set VIRTIOFSD or put it into PATH)");
        return;
    };
    if version.trim() != "virtiofsd 1.14.0" {
        println!(
            "skipped: {} is not the one that the list is of",
            version.trim()
        );
        return;
    }
    assert_eq!(of_help(&help), stored());
}
