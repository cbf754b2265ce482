//! What an import writes, held against what it reads: nothing that is there is lost to a slip in a flag.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{is_standard_input, state_path};
use crate::cli::ImportArgs;

/// What is wrong with the files that would be written, in the words of the operator.
pub(super) fn mistakes(args: &ImportArgs) -> Vec<String> {
    let states: Vec<_> = args.files.iter().filter_map(|path| state_path(args, path)).collect();
    let written = args.rejects.iter().map(|path| ("--rejects", path));
    let written = written.chain(states.iter().map(|path| ("the state of the import", path)));
    let mut mistakes = Vec::new();
    for (what, output) in written {
        let mut read = args.files.iter().filter(|path| !is_standard_input(path)).chain(&args.mapping);
        if let Some(input) = read.find(|input| is_same(input, output)) {
            mistakes.push(format!("{what} would be written over {}, which is to be read", input.display()));
        }
    }
    if let Some(rejects) = &args.rejects {
        if states.iter().any(|state| is_same(state, rejects)) {
            mistakes.push("--rejects and the state of the import are one file".to_owned());
        }
        let is_taken = |about: fs::Metadata| about.is_file() && about.len() > 0;
        if args.dry_run && fs::metadata(rejects).is_ok_and(is_taken) {
            mistakes.push(format!(
                "{} holds something, maybe the refused lines of an import: with --dry-run --rejects is a new or empty file",
                rejects.display()
            ));
        }
    }
    mistakes
}

/// Whether two names are of one file, if only once it is there.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
    one == other || file(one).is_some_and(|found| file(other) == Some(found))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: ImportArgs,
    }

    #[track_caller]
    fn check(folder: &Path, flags: &[&str], expected: &[&str]) {
        let in_folder =
            |flag: &&str| if flag.starts_with('-') { (*flag).into() } else { folder.join(flag).into_os_string() };
        let flags = Flags::parse_from(std::iter::once("import".into()).chain(flags.iter().map(in_folder)));
        let found = mistakes(&flags.args);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        found.iter().zip(expected).for_each(|(mistake, words)| assert!(mistake.contains(words), "{mistake}"));
    }

    #[test]
    fn nothing_that_is_read_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in ["a", "mapping", "refused"] {
            fs::write(folder.join(name), "{}\n").unwrap();
        }
        fs::write(folder.join("empty"), "").unwrap();
        fs::hard_link(folder.join("a"), folder.join("again")).unwrap();
        std::os::unix::fs::symlink("a", folder.join("link")).unwrap();
        check(folder, &["a", "--rejects", "refused"], &[]);
        check(folder, &["-", "--rejects", "refused"], &[]);
        for same in ["a", "again", "link", "./a"] {
            check(folder, &["a", "--rejects", same], &["--rejects would be written over"]);
            check(folder, &["a", "--state-file", same], &["the state of the import would be written over"]);
        }
        check(folder, &["a", "--mapping", "mapping", "--rejects", "mapping"], &["which is to be read"]);
        check(folder, &["a", "a.import-state"], &["a.import-state, which is to be read"]);
        check(folder, &["a", "--rejects", "a.import-state"], &["are one file"]);
    }

    #[test]
    fn a_check_empties_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("refused"), "{}\n").unwrap();
        fs::write(folder.join("empty"), "").unwrap();
        check(folder, &["a", "--dry-run", "--rejects", "refused"], &["holds something"]);
        check(folder, &["a", "--dry-run", "--rejects", "empty"], &[]);
        check(folder, &["a", "--dry-run", "--rejects", "new"], &[]);
    }
}
