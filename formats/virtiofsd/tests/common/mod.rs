//! A guest with files open, for real daemons.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::{spawn, Daemon, FsClient, Vm};

/// virtiofsd by the variable VIRTIOFSD or in PATH; none after saying so.
pub fn virtiofsd() -> Option<PathBuf> {
    let found = spawn::find("VIRTIOFSD", "virtiofsd");
    if found.is_none() {
        println!("skipped: no virtiofsd (set VIRTIOFSD or put it into PATH)");
    }
    found
}

/// A daemon on `share`, whichever it is, with a socket called `name`.
pub fn start(program: &Path, share: &Path, sockets: &Path, name: &str, more: &[&str]) -> Daemon {
    let socket = sockets.join(name);
    let mut args = vec![
        "--socket-path".to_owned(),
        socket.display().to_string(),
        "--shared-dir".to_owned(),
        share.display().to_string(),
        "--sandbox".to_owned(),
        "none".to_owned(),
    ];
    args.extend(more.iter().map(|s| s.to_string()));
    Daemon::start(program, args, &socket).expect("daemon starts")
}

/// What the guest holds.
pub struct Held {
    fs: FsClient,
    file: (u64, u64),
    log: (u64, u64),
    directory: (u64, u64),
    leaf: u64,
    /// What the file must hold.
    text: String,
}

impl Held {
    /// Makes `sub/file.txt`, open for reading and writing; `sub`, open; `log`, open
    /// for appending; and `deep/er/leaf`, of whose directories the guest forgets
    /// both.
    pub fn new(vm: &Vm) -> Held {
        let fs = vm.client();
        let flags = |f: i32| f as u32;
        let sub = fs.mkdir(ROOT_ID, "sub", 0o755).expect("mkdir");
        let (file, opened) = fs
            .create(sub.nodeid, "file.txt", flags(libc::O_RDWR), 0o644)
            .expect("create");
        let (log, append) = fs
            .create(
                ROOT_ID,
                "log",
                flags(libc::O_WRONLY | libc::O_APPEND),
                0o644,
            )
            .expect("create");
        let directory = fs.opendir(sub.nodeid).expect("opendir");
        let deep = fs.mkdir(ROOT_ID, "deep", 0o755).expect("mkdir");
        let er = fs.mkdir(deep.nodeid, "er", 0o755).expect("mkdir");
        let leaf = fs
            .mknod(er.nodeid, "leaf", libc::S_IFREG | 0o644, 0)
            .expect("mknod");
        fs.forget(er.nodeid, 1).expect("forget");
        fs.forget(deep.nodeid, 1).expect("forget");
        let mut held = Held {
            fs,
            file: (file.nodeid, opened.fh),
            log: (log.nodeid, append.fh),
            directory: (sub.nodeid, directory.fh),
            leaf: leaf.nodeid,
            text: String::new(),
        };
        held.go_on("start");
        held
    }

    /// Uses everything that is held.
    pub fn go_on(&mut self, word: &str) {
        let fs = &self.fs;
        let (node, fh) = self.file;
        fs.write(node, fh, self.text.len() as u64, word.as_bytes())
            .expect("write to a file held open");
        self.text += word;
        let read = fs.read(node, fh, 0, 4096).expect("read");
        assert_eq!(String::from_utf8(read).expect("text"), self.text);

        let (node, fh) = self.log;
        let end = fs.getattr(node, None).expect("getattr").attr.size;
        fs.write(node, fh, end, word.as_bytes()).expect("append");

        let (node, fh) = self.directory;
        let names: Vec<_> = fs
            .readdir(node, fh, 0, 4096)
            .expect("readdir")
            .into_iter()
            .map(|e| String::from_utf8_lossy(&e.name).into_owned())
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(names, ["file.txt"]);

        let attr = fs.getattr(self.leaf, None).expect("getattr").attr;
        assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFREG);
        // New inodes and handles get numbers of their own.
        let name = format!("new-{word}");
        let flags = libc::O_RDWR as u32;
        let (new, opened) = fs.create(ROOT_ID, &name, flags, 0o600).expect("create");
        assert_ne!(new.nodeid, self.leaf);
        assert_ne!(opened.fh, self.file.1);
        fs.release(new.nodeid, opened.fh).expect("release");
        fs.forget(new.nodeid, 1).expect("forget");
    }

    /// What is on disk in the end.
    pub fn check(&self, share: &Path) {
        for name in ["sub/file.txt", "log"] {
            let text = std::fs::read_to_string(share.join(name)).expect(name);
            assert_eq!(text, self.text, "{name}");
        }
    }
}
