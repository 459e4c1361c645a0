//! Options as variables of the environment: `--cache` of `ferryfsd` is
//! `FERRYFSD_CACHE`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{Known, Origin, Setting, SettingsError, Value};

/// What begins the names of variables that are for the daemon called `name`.
fn prefix(name: &str) -> String {
    let upper = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    name.chars().map(upper).chain(['_']).collect()
}

/// The options among `variables`, and the file that is named there.
pub(super) fn settings(
    name: &str,
    variables: &[(OsString, OsString)],
    known: &Known,
) -> Result<(Vec<Setting>, Option<PathBuf>), SettingsError> {
    let prefix = prefix(name);
    let (mut settings, mut file) = (Vec::new(), None);
    for (variable, value) in variables {
        let Some(key) = variable.to_str().and_then(|v| v.strip_prefix(&prefix)) else {
            continue;
        };
        if key == "CONFIG" {
            file = Some(PathBuf::from(value));
            continue;
        }
        let origin = Origin::Variable(format!("{prefix}{key}"));
        let spelled = |option: &str| option.to_uppercase().replace('-', "_");
        let option = known.find(&origin, key, spelled)?;
        let switch = option.switch.then(|| switch(value)).flatten();
        let value = match switch {
            Some(on) => Value::Switch(on),
            // Each of several is a word; no such value has blanks in it.
            None if option.repeated => Value::Words(words(value)),
            None => Value::Words(vec![value.clone()]),
        };
        settings.push(Setting {
            option: option.name.clone(),
            value,
            origin,
        });
    }
    // The environment has no order.
    settings.sort_by(|a, b| a.option.cmp(&b.option));
    Ok((settings, file))
}

fn switch(value: &OsStr) -> Option<bool> {
    match value.to_str()?.to_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn words(value: &OsStr) -> Vec<OsString> {
    value
        .as_bytes()
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}
