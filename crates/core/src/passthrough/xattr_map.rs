//! Extended attributes under other names on the host (`--xattrmap`).
//!
//! A map is a list of rules, and the first that matches a name decides. A rule
//! begins with the character that separates its fields, whichever that is, and
//! white space may stand around each rule:
//!
//! - `:prefix:SCOPE:KEY:PREPEND:` a guest's name that begins with KEY gets PREPEND
//!   in front of it on the host; from a host's name that begins with PREPEND, it is
//!   taken away for the guest;
//! - `:ok:SCOPE:KEY:PREPEND:` the name stays as it is;
//! - `:bad:SCOPE:KEY:PREPEND:` the guest gets `EPERM` for a name that begins with
//!   KEY, and does not see a host's name that begins with PREPEND;
//! - `:unsupported:SCOPE:KEY:PREPEND:` the same with `EOPNOTSUPP`;
//! - `:map:KEY:PREPEND:` short for the rules that keep attributes below KEY below
//!   PREPEND+KEY, and each side out of the other's; as the last rule only.
//!
//! SCOPE is `client` (names from the guest), `server` (names from the host) or
//! `all`. An empty KEY or PREPEND matches every name. Some rule has to match
//! whatever comes, in each direction: a map without such a rule is refused.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::str::FromStr;

use crate::errno::{Errno, FsResult};

/// `XATTR_NAME_MAX`, in bytes.
const NAME_MAX: usize = 255;

/// What is done with a name that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Prefix,
    Ok,
    Bad,
    Unsupported,
}

/// Whose names a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scope {
    client: bool,
    server: bool,
}

const CLIENT: Scope = Scope {
    client: true,
    server: false,
};
const SERVER: Scope = Scope {
    client: false,
    server: true,
};
const ALL: Scope = Scope {
    client: true,
    server: true,
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    action: Action,
    scope: Scope,
    key: Vec<u8>,
    prepend: Vec<u8>,
}

/// The rules by which attributes are renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrMap {
    rules: Vec<Rule>,
}

/// Why rules cannot be read. Positions count bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XattrMapError {
    /// There is nothing but white space.
    #[error("a map has at least one rule, such as :ok:all:::")]
    Empty,
    /// A rule has too few fields.
    #[error("the rule at byte {at} ends before its {field}, which {separator:?} has to follow")]
    Cut {
        /// Where the rule begins.
        at: usize,
        /// What is missing.
        field: &'static str,
        /// The rule's first character.
        separator: char,
    },
    /// A word that is none of a rule's kinds.
    #[error("byte {at}: {word:?} is no rule; use prefix, ok, bad, unsupported or map")]
    Kind {
        /// Where the word begins.
        at: usize,
        /// The word.
        word: String,
    },
    /// A word that is no scope.
    #[error("byte {at}: {word:?} is no scope; use client, server or all")]
    Scope {
        /// Where the word begins.
        at: usize,
        /// The word.
        word: String,
    },
    /// No attribute has such a name.
    #[error("byte {at}: a part of a name has no NUL, and at most {NAME_MAX} bytes")]
    Name {
        /// Where the key or prepend begins.
        at: usize,
    },
    /// Something follows a map rule.
    #[error("byte {at}: nothing can follow a map rule, which decides on every name")]
    BehindMap {
        /// Where the next rule begins.
        at: usize,
    },
    /// A name can come that no rule matches.
    #[error(
        "no rule matches every name from the {side}; end the map with a terminating rule, such as \
         :ok:all::: or :bad:all:::"
    )]
    Unterminated {
        /// `guest` or `host`.
        side: &'static str,
    },
}

/// The text being read, with the position in it.
struct Fields<'a> {
    text: &'a str,
    at: usize,
    rule: usize,
    separator: char,
}

impl<'a> Fields<'a> {
    /// The next field, and where it begins.
    fn next(&mut self, field: &'static str) -> Result<(usize, &'a str), XattrMapError> {
        let begin = self.at;
        let rest = &self.text[begin..];
        let Some(len) = rest.find(self.separator) else {
            return Err(XattrMapError::Cut {
                at: self.rule,
                field,
                separator: self.separator,
            });
        };
        self.at = begin + len + self.separator.len_utf8();
        Ok((begin, &rest[..len]))
    }

    fn name(&mut self, field: &'static str) -> Result<Vec<u8>, XattrMapError> {
        let (at, part) = self.next(field)?;
        if part.len() > NAME_MAX || part.contains('\0') {
            return Err(XattrMapError::Name { at });
        }
        Ok(part.as_bytes().to_vec())
    }
}

impl FromStr for XattrMap {
    type Err = XattrMapError;

    fn from_str(text: &str) -> Result<XattrMap, XattrMapError> {
        let mut rules = Vec::new();
        let mut at = 0;
        let mut behind_map = false;
        loop {
            let rest = text[at..].trim_start();
            at = text.len() - rest.len();
            let Some(separator) = rest.chars().next() else {
                break;
            };
            if behind_map {
                return Err(XattrMapError::BehindMap { at });
            }
            let mut fields = Fields {
                text,
                at: at + separator.len_utf8(),
                rule: at,
                separator,
            };
            behind_map = read_rule(&mut fields, &mut rules)?;
            at = fields.at;
        }
        if rules.is_empty() {
            return Err(XattrMapError::Empty);
        }
        if !rules.iter().any(|r| r.scope.client && r.key.is_empty()) {
            return Err(XattrMapError::Unterminated { side: "guest" });
        }
        if !rules.iter().any(|r| r.scope.server && r.prepend.is_empty()) {
            return Err(XattrMapError::Unterminated { side: "host" });
        }
        Ok(XattrMap { rules })
    }
}

/// Reads one rule; answers whether it was a map rule.
fn read_rule(fields: &mut Fields<'_>, rules: &mut Vec<Rule>) -> Result<bool, XattrMapError> {
    let (at, word) = fields.next("type")?;
    let action = match word {
        "prefix" => Action::Prefix,
        "ok" => Action::Ok,
        "bad" => Action::Bad,
        "unsupported" => Action::Unsupported,
        "map" => {
            let (key, prepend) = (fields.name("key")?, fields.name("prepend")?);
            expand_map(key, prepend, rules);
            return Ok(true);
        }
        _ => {
            return Err(XattrMapError::Kind {
                at,
                word: word.to_owned(),
            })
        }
    };
    let (at, word) = fields.next("scope")?;
    let scope = match word {
        "client" => CLIENT,
        "server" => SERVER,
        "all" => ALL,
        _ => {
            return Err(XattrMapError::Scope {
                at,
                word: word.to_owned(),
            })
        }
    };
    rules.push(Rule {
        action,
        scope,
        key: fields.name("key")?,
        prepend: fields.name("prepend")?,
    });
    Ok(false)
}

fn expand_map(key: Vec<u8>, prepend: Vec<u8>, rules: &mut Vec<Rule>) {
    let mut push = |action, scope, key: &[u8], prepend: &[u8]| {
        rules.push(Rule {
            action,
            scope,
            key: key.to_vec(),
            prepend: prepend.to_vec(),
        });
    };
    push(Action::Prefix, ALL, &key, &prepend);
    if key.is_empty() {
        // Everything is below the prefix; the rest is not the guest's.
        push(Action::Bad, ALL, b"", b"");
    } else {
        push(Action::Bad, SERVER, b"", &key);
        push(Action::Bad, CLIENT, &prepend, b"");
        push(Action::Ok, ALL, b"", b"");
    }
}

impl XattrMap {
    /// The host's name of an attribute that the guest names.
    ///
    /// # Errors
    /// `EPERM` and `EOPNOTSUPP` as the rules say, `ERANGE` where the name becomes
    /// too long.
    pub fn to_host<'n>(&self, name: &'n CStr) -> FsResult<Cow<'n, CStr>> {
        let bytes = name.to_bytes();
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.scope.client && bytes.starts_with(&rule.key));
        let Some(rule) = rule else {
            // Not without a terminating rule; and then nothing is allowed.
            return Err(Errno::EPERM);
        };
        match rule.action {
            Action::Ok => Ok(Cow::Borrowed(name)),
            Action::Bad => Err(Errno::EPERM),
            Action::Unsupported => Err(Errno::EOPNOTSUPP),
            Action::Prefix => {
                let name = [&rule.prepend[..], bytes].concat();
                if name.len() > NAME_MAX {
                    return Err(Errno::ERANGE);
                }
                CString::new(name)
                    .map(Cow::Owned)
                    .map_err(|_| Errno::EINVAL)
            }
        }
    }

    /// The guest's name of an attribute that the host lists; `None`: not for the
    /// guest.
    pub fn to_guest<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.scope.server && name.starts_with(&rule.prepend))?;
        match rule.action {
            Action::Ok => Some(name),
            Action::Bad | Action::Unsupported => None,
            // Where nothing is left there is no name.
            Action::Prefix => name
                .strip_prefix(&rule.prepend[..])
                .filter(|name| !name.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(text: &str) -> XattrMap {
        text.parse().unwrap()
    }

    fn host(map: &XattrMap, name: &str) -> FsResult<String> {
        let name = CString::new(name).unwrap();
        let host = map.to_host(&name)?.into_owned();
        Ok(host.into_string().unwrap())
    }

    fn guest<'n>(map: &XattrMap, name: &'n str) -> Option<&'n str> {
        map.to_guest(name.as_bytes())
            .map(|n| std::str::from_utf8(n).unwrap())
    }

    #[test]
    fn everything_below_a_prefix() {
        for text in [
            ":prefix:all::user.virtiofs.::bad:all:::",
            ":map::user.virtiofs.:",
            "  /prefix/all//user.virtiofs./\n\t:bad:all:::\n",
        ] {
            let map = map(text);
            assert_eq!(host(&map, "user.a").unwrap(), "user.virtiofs.user.a");
            assert_eq!(guest(&map, "user.virtiofs.user.a"), Some("user.a"));
            assert_eq!(guest(&map, "user.a"), None);
            assert_eq!(guest(&map, "user.virtiofs."), None);
        }
    }

    #[test]
    fn one_kind_of_attributes_below_a_prefix() {
        for text in [
            "/prefix/all/trusted./user.virtiofs./ /bad/server//trusted./ \
             /bad/client/user.virtiofs.// /ok/all///",
            "/map/trusted./user.virtiofs./",
        ] {
            let map = map(text);
            assert_eq!(host(&map, "trusted.t").unwrap(), "user.virtiofs.trusted.t");
            assert_eq!(guest(&map, "user.virtiofs.trusted.t"), Some("trusted.t"));
            assert_eq!(guest(&map, "trusted.t"), None);
            let direct = host(&map, "user.virtiofs.trusted.t");
            assert_eq!(direct.unwrap_err(), Errno::EPERM);
            assert_eq!(host(&map, "user.a").unwrap(), "user.a");
            assert_eq!(guest(&map, "user.a"), Some("user.a"));
        }
        assert_eq!(
            map("/map/trusted./user.virtiofs./"),
            map("/prefix/all/trusted./user.virtiofs.//bad/server//trusted./\
                 /bad/client/user.virtiofs.///ok/all///")
        );
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let map = map(
            ":unsupported:client:security.selinux:::bad:all:security.:security.::ok:client:::\
             :ok:server:::",
        );
        assert_eq!(
            host(&map, "security.selinux").unwrap_err(),
            Errno::EOPNOTSUPP
        );
        assert_eq!(host(&map, "security.x").unwrap_err(), Errno::EPERM);
        assert_eq!(guest(&map, "security.selinux"), None);
        assert_eq!(host(&map, "user.x").unwrap(), "user.x");
    }

    #[test]
    fn names_that_become_too_long_are_refused() {
        let map = map(":map::user.virtiofs.:");
        let fits = format!("user.{}", "n".repeat(255 - 14 - 5));
        assert_eq!(host(&map, &fits).unwrap().len(), 255);
        let over = format!("{fits}n");
        assert_eq!(host(&map, &over).unwrap_err(), Errno::ERANGE);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, want) in [
            ("", "at least one rule"),
            (" \n", "at least one rule"),
            (":ok:client:user.::", "every name from the guest"),
            (":ok:client:::", "every name from the host"),
            (
                ":ok:client:::  :ok:server::user.:",
                "every name from the host",
            ),
            (":ok:all:::x", "rule at byte 10 ends before its type"),
            (":ok:all::", "rule at byte 0 ends before its prepend"),
            (":okay:all:::", "byte 1: \"okay\" is no rule"),
            (":ok:guest:::", "byte 4: \"guest\" is no scope"),
            (" :ok:every:::", "byte 5: \"every\" is no scope"),
            (":map::user.v.::ok:all:::", "byte 14: nothing can follow"),
            (":map:user.", "ends before its key"),
            (":ok:all:a\0b::", "byte 8: a part of a name"),
        ] {
            let error = text.parse::<XattrMap>().unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
        let long = format!(":ok:all:{}::", "k".repeat(256));
        assert!(long.parse::<XattrMap>().is_err());
    }

    #[test]
    fn any_character_separates_and_names_are_bytes() {
        let map = self::map(";ok;all;;;");
        assert_eq!(guest(&map, "user.ü"), Some("user.ü"));
        let map = self::map("éprefixéallééuser.ü.é ;bad;all;;;");
        assert_eq!(host(&map, "user.a").unwrap(), "user.ü.user.a");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_a_map_knows_every_name(
            text in "[:/;a-z. é]{0,12}|((:(prefix|ok|bad|unsupported):(client|server|all):[a-z.]{0,3}:[a-z.]{0,3}:)| ){0,5}",
            name in "[a-z.]{1,8}",
        ) {
            if let Ok(map) = text.parse::<XattrMap>() {
                let c_name = CString::new(name.clone()).unwrap();
                let client = |r: &Rule| r.scope.client && name.as_bytes().starts_with(&r.key);
                prop_assert!(map.rules.iter().any(client));
                let server = |r: &Rule| r.scope.server && name.as_bytes().starts_with(&r.prepend);
                prop_assert!(map.rules.iter().any(server));
                let _ = map.to_host(&c_name);
                let _ = map.to_guest(name.as_bytes());
            }
        }

        #[test]
        fn a_map_rule_leads_there_and_back(key in "[a-z.]{0,6}", name in "[a-z.]{1,20}") {
            let map = map(&format!(":map:{key}:user.virtiofs.:"));
            if let Ok(host) = host(&map, &name) {
                prop_assert_eq!(guest(&map, &host), Some(&name[..]));
            } else {
                prop_assert!(name.starts_with("user.virtiofs."));
            }
        }
    }
}
