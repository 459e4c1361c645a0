//! A guest that keeps a record of what it looked up and opened, and can give it all
//! back.

use std::collections::BTreeMap;
use std::ops::Deref;

use ferryfs_frontend::fuse::{DirEntryPlus, Entry, Opened, ROOT_ID};
use ferryfs_frontend::{Caller, ClientError, FsClient, Vm};

/// A client with the books that a guest's kernel keeps.
#[derive(Debug)]
pub struct Guest {
    client: FsClient,
    lookups: BTreeMap<u64, u64>,
    handles: Vec<(u64, u64, bool)>,
}

impl Deref for Guest {
    type Target = FsClient;

    fn deref(&self) -> &FsClient {
        &self.client
    }
}

impl Guest {
    /// The guest of `vm`.
    pub fn of(vm: &Vm) -> Guest {
        Guest {
            client: vm.client(),
            lookups: BTreeMap::new(),
            handles: Vec::new(),
        }
    }

    /// The guest of `vm`, in which `caller` does everything.
    pub fn of_user(vm: &Vm, caller: Caller) -> Guest {
        Guest {
            client: vm.client().as_caller(caller),
            ..Guest::of(vm)
        }
    }

    /// Books an entry that was answered, and hands it on.
    pub fn entry(&mut self, result: Result<Entry, ClientError>) -> Result<Entry, ClientError> {
        if let Ok(entry) = &result {
            *self.lookups.entry(entry.nodeid).or_default() += 1;
        }
        result
    }

    /// Books the entries of READDIRPLUS.
    pub fn listed(&mut self, entries: &[DirEntryPlus]) {
        for plus in entries.iter().filter(|plus| plus.entry.nodeid != 0) {
            *self.lookups.entry(plus.entry.nodeid).or_default() += 1;
        }
    }

    /// Books a handle on a file of `nodeid`.
    pub fn opened(
        &mut self,
        nodeid: u64,
        result: Result<Opened, ClientError>,
    ) -> Result<u64, ClientError> {
        let opened = result?;
        self.handles.push((nodeid, opened.fh, false));
        Ok(opened.fh)
    }

    /// Books a handle on a directory `nodeid`.
    pub fn opened_dir(
        &mut self,
        nodeid: u64,
        result: Result<Opened, ClientError>,
    ) -> Result<u64, ClientError> {
        let opened = result?;
        self.handles.push((nodeid, opened.fh, true));
        Ok(opened.fh)
    }

    /// Books what CREATE or TMPFILE answered.
    pub fn created(
        &mut self,
        result: Result<(Entry, Opened), ClientError>,
    ) -> Result<(Entry, u64), ClientError> {
        let (entry, opened) = result?;
        *self.lookups.entry(entry.nodeid).or_default() += 1;
        self.handles.push((entry.nodeid, opened.fh, false));
        Ok((entry, opened.fh))
    }

    /// Node ids that are known, each with its lookups.
    pub fn lookups(&self) -> &BTreeMap<u64, u64> {
        &self.lookups
    }

    /// Looks a path up from the root and books each step; the last entry.
    ///
    /// # Panics
    /// When it is not found.
    #[track_caller]
    pub fn walk(&mut self, path: impl AsRef<[u8]>) -> Entry {
        let mut last = Entry {
            nodeid: ROOT_ID,
            ..Entry::default()
        };
        for name in path.as_ref().split(|b| *b == b'/') {
            let found = self.client.lookup(last.nodeid, name);
            last = match self.entry(found) {
                Ok(entry) => entry,
                Err(e) => panic!("\"{}\": {}", name.escape_ascii(), crate::text(&e)),
            };
        }
        last
    }

    /// Looks a file up and opens it; node id and handle.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn open_path(&mut self, path: impl AsRef<[u8]>, flags: i32) -> (u64, u64) {
        let node = self.walk(path).nodeid;
        let opened = self.client.open(node, flags as u32);
        (node, self.opened(node, opened).expect("OPEN"))
    }

    /// Closes every handle and forgets every inode, each as often as it was looked
    /// up.
    ///
    /// # Panics
    /// When the daemon does not know a handle any more.
    #[track_caller]
    pub fn let_go(&mut self) {
        for (node, fh, directory) in self.handles.drain(..) {
            let released = match directory {
                true => self.client.releasedir(node, fh),
                false => self.client.release(node, fh),
            };
            released.expect("RELEASE");
        }
        let forgets: Vec<_> = std::mem::take(&mut self.lookups)
            .into_iter()
            .filter(|(node, _)| *node != ROOT_ID)
            .collect();
        for some in forgets.chunks(100) {
            self.client.batch_forget(some).expect("BATCH_FORGET");
        }
    }
}
