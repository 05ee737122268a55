//! Programs that a test starts. They end with the test, whatever ends the test.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc},
};

use anyhow::{Context, Result};

/// A running program. It is killed when this is dropped, and by the kernel when the test process ends.
#[derive(Debug)]
pub struct Child {
    process: Mutex<std::process::Child>,
    name: String,
    log: PathBuf,
}

/// How a program is started.
#[derive(Debug)]
pub struct Start {
    command: Command,
    name: String,
    log: PathBuf,
}

impl Start {
    /// `program` with its output in `<folder>/<name>.log`.
    #[must_use]
    pub fn new(program: &Path, folder: &Path) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        // The kernel kills a process whose parent has ended only when it was asked to; setpriv asks.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
        Self { command, name, log }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn spawn(mut self) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        self.command.stderr(log.try_clone()?).stdout(log);
        let process = spawn(self.command).with_context(|| format!("cannot start {}", self.name))?;
        Ok(Child { process: Mutex::new(process), name: self.name, log: self.log })
    }
}

impl Child {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.lock().id()
    }

    /// Seconds of CPU so far.
    pub fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    /// Kibibytes of memory: `VmRSS` now, `VmHWM` at its highest.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    /// The file that its output goes to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// How it ended, or `None` while it runs.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) -> io::Result<()> {
        let mut process = self.lock();
        process.kill()?;
        process.wait().map(drop)
    }

    /// SIGTERM; the program decides when it ends.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// SIGSTOP: it does nothing any more, and everybody's connections to it stand.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT.
    pub fn go_on(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", signal, &self.pid().to_string()]).status()?;
        anyhow::ensure!(status.success(), "cannot signal {}", self.name);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, std::process::Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The last lines of a file; empty when it cannot be read.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A port of the loopback on which nobody listens. Below those that the kernel gives to outgoing connections, one of which
/// could take it before the program that it is for; and never the same twice in a process.
///
/// # Errors
/// When there is none left.
pub fn free_port() -> std::io::Result<u16> {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 14_000;
    static NEXT: std::sync::OnceLock<std::sync::atomic::AtomicU32> = std::sync::OnceLock::new();
    // Processes that run side by side begin in different places.
    let next = NEXT.get_or_init(|| (std::process::id().wrapping_mul(7919) % COUNT).into());
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % COUNT;
        let port = u16::try_from(port).unwrap_or_default();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(std::io::Error::other("no port is free"))
}

type Request = (Command, mpsc::Sender<io::Result<std::process::Child>>);

/// Starts the program from a thread that lives as long as this process: for the kernel the parent is the thread, and a
/// test's own thread ends before others have done with what it started.
fn spawn(command: Command) -> io::Result<std::process::Child> {
    static PARENT: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let parent = PARENT.get_or_init(|| {
        let (requests, received) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (answer, answered) = mpsc::channel();
    parent
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| io::Error::other("the thread that starts programs has ended"))?;
    answered.recv().map_err(|_| io::Error::other("the thread that starts programs has ended"))?
}
