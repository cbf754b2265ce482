//! The binary under test, and commands of it that run to their end.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::{Process, clear_environment};
use crate::settings;

/// Path of `inflection-source`: built once per test process before first use, so that it is never stale.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| settings::binary_override().unwrap_or_else(build))
}

/// Builds with the profile and into the target directory of the running test.
fn build() -> PathBuf {
    let test = env::current_exe().expect("a running test has a path");
    // target/<profile>/deps/<test>
    let profile_dir = test.parent().and_then(Path::parent).expect("a test lies in <target>/<profile>/deps");
    let target_dir = profile_dir.parent().expect("a profile lies in a target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} has no profile", profile_dir.display()),
    };
    let output = Command::new(settings::cargo())
        .args(["build", "--quiet", "--package", "inflection-source", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "inflection-source does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    profile_dir.join("inflection-source")
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output and standard error, in the order written.
    pub output: String,
    /// Standard output alone.
    pub stdout: String,
}

/// What a command that asks a running install may take.
const ASK_WAIT: Duration = Duration::from_secs(30);

/// Runs one command that asks a running install, and that must succeed.
#[track_caller]
pub fn ask(arguments: &[&str]) -> Finished {
    let finished = run(arguments, ASK_WAIT);
    assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.output);
    finished
}

/// Runs one command of the binary to its end.
///
/// Panics when it does not end within `limit`.
#[track_caller]
pub fn run(arguments: &[&str], limit: Duration) -> Finished {
    run_of(binary(), arguments, limit)
}

/// The same of another build.
#[track_caller]
pub fn run_of(binary: &Path, arguments: &[&str], limit: Duration) -> Finished {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stdout, stderr) = (folder.path().join("stdout"), folder.path().join("stderr"));
    let mut command = Command::new(binary);
    clear_environment(&mut command);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&stdout).expect("a file for stdout"))
        .stderr(std::fs::File::create(&stderr).expect("a file for stderr"));
    let mut process = Process::adopt(arguments.first().copied().unwrap_or("inflection-source"), &mut command, &stderr);
    let status = process.wait(limit);
    let stdout = std::fs::read_to_string(&stdout).expect("stdout is text");
    let output = format!("{stdout}{}", process.log_text());
    Finished { code: status.code(), output, stdout }
}
