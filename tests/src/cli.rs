//! `kubectl eventmesh` as a person calls it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt as _;

use crate::{apiserver::ADMIN, objects::Namespace, paths, stack::Stack};

/// The program, with the rights of an administrator in one namespace.
pub struct Cli {
    kubeconfig: PathBuf,
    namespace: String,
}

/// What it said.
#[derive(Debug)]
pub struct Said {
    pub good: bool,
    pub out: String,
    pub err: String,
}

impl Cli {
    pub fn new(stack: &Stack, namespace: &Namespace) -> Result<Self> {
        Ok(Self::with(&stack.api.kubeconfig(ADMIN)?, namespace))
    }

    #[must_use]
    pub fn with(kubeconfig: &Path, namespace: &Namespace) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), namespace: namespace.name.clone() }
    }

    /// What it says to this, whatever that is. `input`: what comes to its standard input.
    pub async fn run(&self, args: &[&str], input: &str) -> Result<Said> {
        let mut command = tokio::process::Command::new(paths::release("kubectl-eventmesh")?);
        command.args(args).arg("--kubeconfig").arg(&self.kubeconfig).args(["--namespace", &self.namespace]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("kubectl-eventmesh")?;
        // Who does not read its input may have ended before.
        let mut stdin = process.stdin.take().context("an input")?;
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = process.wait_with_output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { good: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// What it writes, when all is well.
    pub async fn write(&self, args: &[&str]) -> Result<String> {
        let said = self.run(args, "").await?;
        ensure!(said.good, "kubectl eventmesh {}: {}{}", args.join(" "), said.out, said.err);
        Ok(said.out)
    }
}
