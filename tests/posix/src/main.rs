//! `ferry-posix DIRECTORY [NAME...]`: does what programs do with files in a
//! directory, and says what came of each step.
//!
//! Nothing here knows what is right. The same steps are taken on a bare file system
//! and on a mount of it, by `cargo xtask posix`, and what is said has to be the same,
//! word for word: outcomes and errors, modes, owners, sizes, contents, the order of
//! events. What may differ between two directories of one file system (inode
//! numbers, the time, the order of names) is not said.
//!
//! Each case is a line `@ NAME`, followed by its steps; the last line is `= END`.

mod cases;
mod record;
mod sys;
mod users;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use world::World;

/// What the runner looks for: nothing is missing.
const END: &str = "= END";

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|a| a == "--quick");
    args.retain(|a| a != "--quick");
    if args.iter().any(|a| a == "--list") {
        for (name, _) in cases::all(quick) {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let Some((dir, filter)) = args.split_first() else {
        eprintln!("usage: ferry-posix [--quick] [--list] DIRECTORY [NAME...]");
        return ExitCode::from(2);
    };
    // What a case makes has the modes that it says.
    rustix::process::umask(rustix::fs::Mode::empty());
    // What a case panics with is part of its outcome.
    std::panic::set_hook(Box::new(|_| {}));
    let dir = PathBuf::from(dir);
    for (name, case) in cases::all(quick) {
        if !filter.is_empty() && !filter.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        println!("@ {name}");
        match World::new(&dir, &name) {
            Ok(world) => print!("{}", world.run(case)),
            Err(e) => {
                eprintln!("{name}: cannot make its directory: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{END}");
    ExitCode::SUCCESS
}
