//! Layers over layers, and what is said of what is wrong in them.

use super::*;
use crate::args::{CachePolicy, Negotiation};

/// Gathers from a command line, variables, and the text of the usual file.
fn gather(line: &str, variables: &[(&str, &str)], text: &str) -> Result<Gathered, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.toml");
    if !text.is_empty() {
        std::fs::write(&file, text).unwrap();
    }
    let sources = Sources {
        words: line.split_whitespace().map(OsString::from).collect(),
        variables: variables
            .iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
        file,
    };
    super::gather("ferryfsd", "0", sources).map_err(|e| match e {
        GatherError::CommandLine(e) => e.to_string(),
        GatherError::Settings(e) => e.to_string().replace(&dir.path().display().to_string(), ""),
    })
}

#[track_caller]
fn args(line: &str, variables: &[(&str, &str)], text: &str) -> Args {
    gather(line, variables, text).unwrap().args
}

#[test]
fn the_command_line_counts_over_variables_and_those_over_the_file() {
    let text = "cache = \"always\"\nxattr = true\nrequest-queues = 0x4\nlog-level = 'warn'";
    let variables = [("FERRYFSD_CACHE", "metadata"), ("FERRYFSD_XATTR", "off")];
    let base = "--shared-dir /x --fd 3";
    let line = format!("{base} --cache never");
    assert_eq!(args(base, &[], "").share.cache, CachePolicy::Auto);
    let a = args(base, &[], text);
    assert_eq!(a.share.cache, CachePolicy::Always);
    assert_eq!(a.connection.request_queues, 4);
    assert!(a.share.xattr);
    let a = args(base, &variables, text);
    assert_eq!(a.share.cache, CachePolicy::Metadata);
    assert!(!a.share.xattr);
    let a = args(&line, &variables, text);
    assert_eq!(a.share.cache, CachePolicy::Never);
    assert!(
        args(&format!("{base} --xattr"), &variables, text)
            .share
            .xattr
    );
    let a = args(&format!("{base} --xattr=false"), &[], text);
    assert!(!a.share.xattr);
    // An older option counts over everything, as it does on the command line.
    let a = args(&format!("{base} -o cache=none"), &variables, text);
    assert_eq!(a.legacy.options, ["cache=none"]);
}

#[test]
fn everything_that_can_be_an_option_can_be_in_a_file() {
    let text = "
        posix-acl = true
        security-label = \"auto\"
        translate-uid = [\"map:0:1000:1\", \"host:0:65534:1\"]
        socket-path = \"/s\"
        shared-dir = \"/x\"
        modcaps = \"-mknod\"
        no-killpriv-v2 = false
        killpriv-v2 = true
        thread-pool-size = 16
    ";
    let a = args("", &[], text);
    assert_eq!(a.share.posix_acl, Negotiation::Always);
    assert_eq!(a.share.security_label, Negotiation::Auto);
    assert_eq!(a.share.translate_uid.len(), 2);
    assert!(a.share.killpriv_v2 && a.safety.modcaps.is_some());
    assert_eq!(a.connection.thread_pool_size, Some(16));
    assert_eq!(a.shared_dir.as_deref(), Some(Path::new("/x")));
    assert_eq!(
        args("--posix-acl=never", &[], text).share.posix_acl,
        Negotiation::Never
    );
    let a = args("", &[("FERRYFSD_POSIX_ACL", "no")], text);
    assert_eq!(a.share.posix_acl, Negotiation::Never);
    // One place has all of an option's values.
    let a = args("--translate-uid guest:5:6:1", &[], text);
    assert_eq!(a.share.translate_uid.len(), 1);
    let two = [("FERRYFSD_TRANSLATE_GID", " map:0:1000:1  host:0:65534:1")];
    assert_eq!(args("", &two, text).share.translate_gid.len(), 2);
}

#[test]
fn what_excludes_each_other_counts_as_one() {
    let text = "socket-path = \"/s\"\nsocket-group = \"kvm\"\nno-announce-submounts = true\n\
                killpriv-v2 = true";
    let a = args("--shared-dir /x --fd 3", &[], text);
    assert_eq!((a.connection.fd, a.connection.socket_path), (Some(3), None));
    assert_eq!(a.connection.socket_group, None);
    assert!(a.share.no_announce_submounts && a.share.killpriv_v2);
    let a = args("--announce-submounts --no-killpriv-v2", &[], text);
    assert!(!a.share.no_announce_submounts && !a.share.killpriv_v2);
    let a = args("--socket /t", &[], "fd = 5");
    assert_eq!(a.connection.fd, None);
}

#[test]
fn a_share_can_have_a_part_of_its_own() {
    let text = "cache = \"always\"\nwriteback = true\n\n[share.\"/srv/data\"]\ncache = \"never\"\n\
                [share.\"/srv/other\"]\nreadonly = true";
    for line in [
        "--shared-dir /srv/data",
        "--shared-dir=/srv//data/",
        "-o cache=auto,source=/srv/data",
    ] {
        let a = args(line, &[], text);
        assert_eq!(a.share.cache, CachePolicy::Never, "{line}");
        assert!(a.share.writeback && !a.share.readonly);
    }
    assert!(
        args("", &[("FERRYFSD_SHARED_DIR", "/srv/other")], text)
            .share
            .readonly
    );
    let a = args("--shared-dir /srv/database", &[], text);
    assert_eq!(a.share.cache, CachePolicy::Always);
    assert!(!a.share.readonly);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, want) in [
        (
            "cahce = \"always\"",
            "/f.toml, line 1: there is no option \"cahce\"; did you mean \"cache\"?",
        ),
        (
            "\n\nshared_dir = \"/x\"",
            "line 3: there is no option \"shared_dir\"; did you mean \"shared-dir\"?",
        ),
        ("colour = 1", "there is no option \"colour\""),
        (
            "cache = \"some\"",
            "cache: \"some\": use one of auto, always, metadata, never",
        ),
        (
            "xattr = \"maybe\"",
            "xattr: \"maybe\": use one of true, false",
        ),
        ("xattrmap = \":ok:\"", "xattrmap: \":ok:\": "),
        ("tag = true", "tag: takes a value"),
        ("cache = [\"auto\"]", "cache: takes one value"),
        ("cache = 1.5", "takes a string"),
        ("uid-map = [true]", "takes a list of strings"),
        ("request-queues = 64", "64 is not in 1..=63"),
        ("print-capabilities = true", "for the command line only"),
        ("config = \"/other\"", "for the command line only"),
        ("share = 1", "[share."),
        ("[share]\n\"/x\" = 1", "line 2: share"),
        ("[share.\"/x\"]\nshared-dir = \"/y\"", "line 2: shared-dir"),
        ("[share.\"/x\"]\ncahce = 1", "line 2: there is no option"),
        ("cache = \"auto\"\ncache =", "line 2: not TOML"),
    ] {
        let error = gather("", &[], text).map(|g| g.args).unwrap_err();
        assert!(
            error.contains(want) && !error.contains('\n'),
            "{text}: {error}"
        );
    }
    for ((key, value), want) in [
        (("FERRYFSD_CAHCE", "auto"), "environment variable FERRYFSD_CAHCE: there is no option \"CAHCE\"; did you mean \"CACHE\"?"),
        (("FERRYFSD_CACHE", "some"), "FERRYFSD_CACHE: cache: \"some\""),
        (("FERRYFSD_XATTR", "maybe"), "FERRYFSD_XATTR: xattr: \"maybe\""),
        (("FERRYFSD_CONFIG", "/absent/f.toml"), "failed to read /absent/f.toml"),
    ] {
        let error = gather("", &[(key, value)], "").map(|g| g.args).unwrap_err();
        assert!(error.contains(want), "{key}: {error}");
    }
    assert!(gather("--config /absent", &[], "").is_err());
    let other = [
        ("FERRYFSDX_CACHE", "x"),
        ("FERRYFSD", "/path"),
        ("CACHE", "x"),
    ];
    assert!(gather("", &other, "").unwrap().origins.0.is_empty());
}

#[test]
fn the_origin_of_what_does_not_go_together_is_said() {
    let text = "posix-acl = true\nmodcaps = \"-mknod\"";
    let gathered = gather("--shared-dir /x", &[("FERRYFSD_TAG", "t")], text).unwrap();
    let said = gathered
        .origins
        .explain("--translate-uid cannot be used with --posix-acl");
    assert!(
        said.contains("; --posix-acl is set by ") && said.contains("line 1"),
        "{said}"
    );
    assert!(!said.contains("modcaps"), "{said}");
    assert_eq!(
        gathered.origins.explain("--posix-acl-x, --tags"),
        "--posix-acl-x, --tags"
    );
    let summary = gathered.origins.summary().unwrap();
    assert!(
        summary.contains("--tag (environment variable FERRYFSD_TAG)"),
        "{summary}"
    );
    assert!(
        summary.contains("--modcaps (") && !summary.contains("shared-dir"),
        "{summary}"
    );
    let plain = gather("--shared-dir /x", &[], "").unwrap();
    assert_eq!(plain.origins.summary(), None);
}

#[test]
fn a_variant_has_variables_of_its_own() {
    let sources = Sources {
        words: Vec::new(),
        variables: vec![("MY_FS_D_CACHE".into(), "never".into())],
        file: PathBuf::from("/absent"),
    };
    let gathered = super::gather("my-fs.d", "0", sources).unwrap();
    assert_eq!(gathered.args.share.cache, CachePolicy::Never);
}
