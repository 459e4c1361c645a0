//! Debian's package sources: where the machine gets its packages from, and the
//! entry for backports derived from that.

/// An entry of sources.list or of a deb822 file, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// Repository addresses.
    pub uris: Vec<String>,
    /// Suites, such as `bookworm` and `bookworm-updates`.
    pub suites: Vec<String>,
    /// The key or key ring, where one is named: a path, or lines of a key.
    pub signed_by: Option<String>,
}

/// Entries of a deb822 `.sources` file.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut all = Vec::new();
    // A comment line does not end a stanza.
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    for stanza in text.split("\n\n") {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza.lines() {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
        };
        let words = |name| -> Vec<String> {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        let disabled = field("enabled").is_some_and(|v| v.eq_ignore_ascii_case("no"));
        if !disabled && words("types").iter().any(|t| t == "deb") {
            all.push(Source {
                uris: words("uris"),
                suites: words("suites"),
                signed_by: field("signed-by"),
            });
        }
    }
    all
}

/// Entries of a one-line-style `.list` file.
pub fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    Some(Source {
        uris: vec![words.next()?.to_owned()],
        suites: vec![words.next()?.to_owned()],
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned),
    })
}

/// Where the machine gets `codename` itself.
pub fn of_release<'a>(codename: &str, sources: &'a [Source]) -> Option<&'a Source> {
    sources
        .iter()
        .find(|s| s.suites.iter().any(|suite| suite == codename))
}

/// The deb822 text for the backports of `codename`, from where the machine gets
/// `codename` itself.
pub fn backports(codename: &str, sources: &[Source]) -> Option<String> {
    let main = of_release(codename, sources)?;
    let mut text = format!(
        "Types: deb\nURIs: {}\nSuites: {codename}-backports\nComponents: main\n",
        main.uris.join(" ")
    );
    if let Some(key) = &main.signed_by {
        text.push_str(&format!("Signed-By: {key}\n"));
    }
    Some(text)
}

/// Whether the backports of `codename` are configured already.
pub fn has_backports(codename: &str, sources: &[Source]) -> bool {
    let wanted = format!("{codename}-backports");
    sources.iter().any(|s| s.suites.contains(&wanted))
}

/// The value of `name` in the text of os-release.
pub fn os_release(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# where it was taken from
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/archive.gpg

Types: deb-src
URIs: http://mirror.example/source
Suites: bookworm

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
";

    #[test]
    fn backports_come_from_the_mirror_that_serves_the_release() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 1);
        assert!(!has_backports("bookworm", &sources));
        let text = backports("bookworm", &sources).unwrap();
        assert_eq!(
            text,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n\
             Components: main\nSigned-By: /keys/archive.gpg\n"
        );
        assert!(has_backports("bookworm", &parse_deb822(&text)));
        assert_eq!(backports("trixie", &sources), None);
    }

    #[test]
    fn keys_may_span_lines() {
        let text = "Types: deb\nURIs: u\nSuites: s\nSigned-By:\n -----BEGIN\n .\n -----END\n";
        let source = &parse_deb822(text)[0];
        assert_eq!(
            source.signed_by.as_deref(),
            Some("\n -----BEGIN\n .\n -----END")
        );
        let derived = backports("s", std::slice::from_ref(source)).unwrap();
        assert_eq!(parse_deb822(&derived)[0].signed_by, source.signed_by);
    }

    #[test]
    fn one_line_entries_are_understood() {
        let text = "# a comment\n\
                    deb http://mirror.example/debian bookworm main contrib # why\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://m.example/d bookworm-security main\n\
                    deb-src http://mirror.example/debian bookworm main\n";
        let sources = parse_list(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm"]);
        assert_eq!(sources[0].signed_by, None);
        assert_eq!(sources[1].signed_by.as_deref(), Some("/k.gpg"));
    }

    #[test]
    fn os_release_values_may_be_quoted() {
        let text = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(os_release(text, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_release(text, "ID").as_deref(), Some("debian"));
        assert_eq!(os_release(text, "NAME"), None);
    }
}
