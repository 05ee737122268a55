//! The example `accounts`: its programs by HTTP, and its story on a cluster.

mod story;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::json;

pub use story::{APPS, Outcome, Story};

use crate::{
    http::{Answer, Sender},
    wait::eventually,
};

/// One request; a connection to a pod that was killed may stay silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a program may be away or behind.
const LIMIT: Duration = Duration::from_mins(4);

/// What a program tells of itself at `/seen`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Seen {
    pub accounts: Vec<String>,
    /// The sum of the deposits of these accounts; only the ledger keeps it.
    #[serde(default)]
    pub balance: i64,
}

impl Seen {
    /// How many of these accounts it has, and fails where it has one twice.
    pub fn count(&self, opened: &BTreeSet<String>) -> Result<usize> {
        let distinct: BTreeSet<&String> = self.accounts.iter().collect();
        ensure!(distinct.len() == self.accounts.len(), "an account is there twice");
        Ok(distinct.into_iter().filter(|id| opened.contains(*id)).count())
    }
}

/// Asks for an account until there is an answer that is not "try again", as a caller does that has to know.
pub async fn open(api: &Sender, id: &str, deposit: i64, credit: i64) -> Result<Answer> {
    let body = json!({"owner": "ada", "deposit": deposit, "credit": credit}).to_string();
    let headers = [("idempotency-key", id), ("content-type", "application/json")];
    eventually(&format!("answer about account {id}"), LIMIT, async || {
        let answer = tokio::time::timeout(PATIENCE, api.post("/accounts", &headers, body.as_bytes())).await;
        let answer = answer.map_err(|_| "silence".to_owned())?.map_err(|error| format!("{error:#}"))?;
        if answer.status == 503 { Err(answer.body) } else { Ok(Some(answer)) }
    })
    .await
}

/// What a program has seen, as soon as it can be asked.
pub async fn seen(program: &Sender) -> Result<Seen> {
    seen_until(program, |_| true).await
}

/// Asks a program what it has seen until that is as wanted.
pub async fn seen_until(program: &Sender, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
    eventually("program that has seen what it should", LIMIT, async || {
        let answer = tokio::time::timeout(PATIENCE, program.request("GET", "/seen", &[], b"")).await;
        let answer = answer.map_err(|_| "silence".to_owned())?.map_err(|error| format!("{error:#}"))?;
        let seen: Seen = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        if wanted(&seen) { Ok(Some(seen)) } else { Err(format!("it has seen {} accounts", seen.accounts.len())) }
    })
    .await
    .context("GET /seen")
}
