//! One child process: started, watched, stopped, killed, and never left behind.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::wait::{holds, within};

/// Lines of a log that a failed test prints.
const LOG_LINES_SHOWN: usize = 60;

/// A running (or ended) child. It is killed when dropped; when that happens in a failing test, its last lines of log
/// are printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Bytes of the log that are of earlier lives.
    log_start: usize,
    paused: bool,
}

impl Process {
    /// Starts `program`; both its outputs are appended to `log`.
    #[track_caller]
    pub fn spawn(name: &str, program: &Path, arguments: &[String], log: &Path) -> Self {
        Self::spawn_in(name, program, arguments, &[], log)
    }

    /// Starts like [`Process::spawn`], with further environment variables.
    #[track_caller]
    pub fn spawn_in(
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        log: &Path,
    ) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("a log file can be opened");
        let mut command = Command::new(program);
        clear_environment(&mut command);
        command
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file can be shared"))
            .stderr(file);
        Self::adopt(name, &mut command, log)
    }

    /// Starts a prepared command whose log goes to `log`.
    #[track_caller]
    pub fn adopt(name: &str, command: &mut Command, log: &Path) -> Self {
        let written = fs::metadata(log).map_or(0, |file| file.len());
        let log_start = usize::try_from(written).expect("a log fits into memory");
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), log_start, paused: false }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to end with SIGTERM and waits until it has.
    #[track_caller]
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Asks it to end with SIGTERM, and leaves it at that.
    pub fn ask_to_end(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Stops it where it stands with SIGSTOP: it neither works nor answers nor ends until it is resumed, or killed.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// Lets it go on with SIGCONT; of the time between it knows nothing but what its clock says.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let ended = within(limit, || self.ended().ok_or_else(|| "still running".to_owned()));
        ended.unwrap_or_else(|_| panic!("{} did not end within {limit:?}\n{}", self.name, self.log_tail()))
    }

    /// Waits until `look` holds; fails at once, with the log, when the process ends before.
    #[track_caller]
    pub fn until_ready(&mut self, limit: Duration, mut look: impl FnMut() -> bool) {
        let ready = within(limit, || {
            if let Some(status) = self.ended() {
                panic!("{} ended with {status} instead of becoming ready\n{}", self.name, self.log_tail());
            }
            holds(look(), || "not ready".to_owned())
        });
        if ready.is_err() {
            panic!("{} was not ready within {limit:?}\n{}", self.name, self.log_tail());
        }
    }

    /// Everything it has written so far, over all its lives.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    /// Everything it has written so far in this life.
    pub fn life_text(&self) -> String {
        let bytes = self.log_bytes();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// The most memory it has ever held (`VmHWM`), in bytes.
    pub fn memory_peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a living child has a status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a process has a VmHWM");
        let kibibytes = line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
        kibibytes.expect("VmHWM is a number of kB") * 1024
    }

    fn log_bytes(&self) -> Vec<u8> {
        fs::read(&self.log).unwrap_or_default()
    }

    /// Sends a signal, unless it has ended: its process id may be somebody else's by then.
    fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(self.pid(), signal).expect("a child can be signalled");
        }
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a child has a process id")
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default();
        format!("--- {} ({}), end of its log ---\n{}", self.name, self.log.display(), tail.join("\n"))
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the log of the process explains the failure")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        // Ended already or not: either way it is gone afterwards, and there is nobody to tell of an error.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Keeps settings of the test run, and proxies, away from the product.
pub fn clear_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if text.starts_with("INFLECTION_") || text.starts_with("OTEL_") || text.ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
}

/// Raises how many files and sockets this test may have open to what the system permits; returns it.
pub fn raise_open_files_max() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("the soft limit may be raised to the hard one");
    limit.maximum.unwrap_or(u64::MAX)
}
