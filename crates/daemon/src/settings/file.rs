//! Options in a TOML file: at its top those for every share, in
//! `[share."/srv/data"]` those for one.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Known, Origin, Setting, SettingsError, Value};

/// What a file says.
pub(super) struct File {
    /// For every share.
    pub(super) general: Vec<Setting>,
    /// For single ones, by path.
    shares: Vec<(PathBuf, Vec<Setting>)>,
}

/// A file's place and text, to tell lines by.
struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Text<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::File(self.path.to_owned(), self.line(at))
    }
}

impl File {
    /// Reads the file `named`, which must be there, or else `usual`, which need not.
    pub(super) fn read(
        named: Option<&Path>,
        usual: &Path,
        known: &Known,
    ) -> Result<Option<File>, SettingsError> {
        let path = named.unwrap_or(usual);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = path.to_owned();
                return Err(SettingsError::Read { path, source });
            }
        };
        File::parse(path, &text, known).map(Some)
    }

    fn parse(path: &Path, text: &str, known: &Known) -> Result<File, SettingsError> {
        let place = Text { path, text };
        let table = DeTable::parse(text).map_err(|e| SettingsError::Toml {
            path: path.to_owned(),
            line: place.line(e.span().map_or(0, |span| span.start)),
            why: e.message().to_owned(),
        })?;
        let mut file = File {
            general: Vec::new(),
            shares: Vec::new(),
        };
        for (key, value) in table.get_ref() {
            let origin = place.origin(key.span().start);
            if key.get_ref() != "share" {
                let setting = setting(origin, key.get_ref(), value.get_ref(), known)?;
                file.general.push(setting);
                continue;
            }
            let no_table = |origin: Origin| SettingsError::Value {
                origin,
                option: "share".to_owned(),
                why: "write the options of one share below [share.\"/its/path\"]".to_owned(),
            };
            let DeValue::Table(shares) = value.get_ref() else {
                return Err(no_table(origin));
            };
            for (share, value) in shares {
                let DeValue::Table(options) = value.get_ref() else {
                    return Err(no_table(place.origin(share.span().start)));
                };
                let mut settings = Vec::new();
                for (key, value) in options {
                    let origin = place.origin(key.span().start);
                    let name = key.get_ref();
                    if name == "shared-dir" {
                        return Err(SettingsError::Value {
                            origin,
                            option: name.to_string(),
                            why: "this part is for one share already".to_owned(),
                        });
                    }
                    settings.push(setting(origin, name, value.get_ref(), known)?);
                }
                let path = PathBuf::from(share.get_ref().as_ref());
                file.shares.push((path, settings));
            }
        }
        Ok(file)
    }

    /// What counts for `share`, the more particular first.
    pub(super) fn layers(self, share: Option<&Path>) -> Vec<Vec<Setting>> {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let share = share.map(whole);
        let mut layers: Vec<_> = self
            .shares
            .into_iter()
            .filter(|(path, _)| share.as_ref() == Some(&whole(path)))
            .map(|(_, settings)| settings)
            .collect();
        layers.push(self.general);
        layers
    }
}

fn setting(
    origin: Origin,
    name: &str,
    value: &DeValue<'_>,
    known: &Known,
) -> Result<Setting, SettingsError> {
    let option = known.find(&origin, name, str::to_owned)?;
    let wrong = |why: &str| SettingsError::Value {
        origin: origin.clone(),
        option: name.to_owned(),
        why: why.to_owned(),
    };
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(OsString::from(text.as_ref())),
        DeValue::Integer(number) => {
            // Written in any base, and with underscores.
            let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(parsed.to_string().into())
        }
        _ => None,
    };
    let value = match value {
        DeValue::Boolean(on) if option.switch => Value::Switch(*on),
        DeValue::Boolean(_) => return Err(wrong("takes a value, not true or false")),
        DeValue::Array(values) if option.repeated => {
            let values = values.iter().map(|value| one(value.get_ref()));
            let values: Option<Vec<_>> = values.collect();
            Value::Words(values.ok_or_else(|| wrong("takes a list of strings"))?)
        }
        DeValue::Array(_) => return Err(wrong("takes one value, not a list")),
        value => {
            let value = one(value);
            Value::Words(vec![value.ok_or_else(|| {
                wrong("takes a string, a whole number, or true or false")
            })?])
        }
    };
    Ok(Setting {
        option: option.name.clone(),
        value,
        origin,
    })
}
