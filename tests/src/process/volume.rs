//! A small volume that only the programs that are started on it see: a mount of their own namespace, gone with them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    child::{Child, Start},
    wait::eventually,
};

const PATIENCE: Duration = Duration::from_mins(1);
/// A file that is nobody's.
const BALLAST: &str = "ballast";

pub struct Volume {
    /// It does nothing but keep the namespace.
    keeper: Child,
    folder: PathBuf,
}

impl Volume {
    /// In place of a folder, with what is in it.
    pub async fn start_with(folder: &Path, bytes: u64) -> Result<Self> {
        let script = "cp -a \"$0\" \"$0.before\" && mount -t tmpfs -o size=$1 tmpfs \"$0\" \
                      && cp -a \"$0.before/.\" \"$0\" && echo mounted && exec sleep infinity";
        let above = folder.parent().context("a folder")?;
        let keeper = Start::new(Path::new("unshare"), above)
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(folder)
            .arg(bytes.to_string())
            .spawn()?;
        eventually("volume", PATIENCE, async || {
            let said = keeper.log_tail(5);
            if said.contains("mounted") { Ok(Some(())) } else { Err(said) }
        })
        .await?;
        Ok(Self { keeper, folder: folder.to_owned() })
    }

    /// How a program is started that sees it.
    #[must_use]
    pub fn start(&self, program: &Path, log: &Path) -> Start {
        Start::new(Path::new("nsenter"), log).arg(self.namespace()).arg(program)
    }

    fn namespace(&self) -> String {
        format!("--mount=/proc/{}/ns/mnt", self.keeper.pid())
    }

    /// Somebody else takes all the room that is left.
    pub fn fill(&self) -> Result<()> {
        let file = self.folder.join(BALLAST);
        let full = self.run(&["dd", "if=/dev/zero", "bs=4k", &format!("of={}", file.display())])?;
        ensure!(full.contains("No space left"), "{full}");
        Ok(())
    }

    /// And gives it back.
    pub fn free(&self) -> Result<()> {
        self.run(&["rm", &self.folder.join(BALLAST).display().to_string()]).map(drop)
    }

    fn run(&self, command: &[&str]) -> Result<String> {
        let output = Command::new("nsenter").arg(self.namespace()).args(command).env("LC_ALL", "C").output()?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
