//! Accounts in the brokers: telling them of new claims over the system account. Brokers keep what they are told on
//! their volumes and pass it on to each other, so nobody who connects has to ask the operator.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{BrokerError, MeshBroker};

/// Tokens that are under way at once.
const BATCH: usize = 128;
/// How long a broker may take for one batch. One that is away learns of it when it is back.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the others are waited for once each token has been taken by one broker.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// An account and its claims.
#[derive(Clone)]
pub struct AccountToken {
    pub account: String,
    pub token: String,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    description: String,
}

impl MeshBroker {
    /// Tells all brokers of these accounts; returns when each token has been taken, by every broker that answers.
    pub async fn push_accounts(&self, accounts: &[AccountToken]) -> Result<(), BrokerError> {
        for batch in accounts.chunks(BATCH) {
            self.push_batch(batch).await?;
        }
        Ok(())
    }

    /// The accounts that a broker knows, whoever told it of them.
    pub async fn list_accounts(&self) -> Result<Vec<String>, BrokerError> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(default)]
            data: Vec<String>,
        }
        let answer = self.system.request("$SYS.REQ.CLAIMS.LIST", Bytes::new()).await.map_err(unavailable)?;
        Ok(serde_json::from_slice::<Listed>(&answer.payload)?.data)
    }

    /// The brokers that run, by name, and since when: one that has restarted may have missed something.
    pub fn running_brokers(&self) -> BTreeMap<String, String> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.brokers.iter().map(|(name, broker)| (name.clone(), broker.started_at.clone())).collect()
    }

    async fn push_batch(&self, batch: &[AccountToken]) -> Result<(), BrokerError> {
        let brokers = self.running_brokers().len().max(1);
        let inbox = self.system.new_inbox();
        let mut answers = self.system.subscribe(format!("{inbox}.*")).await.map_err(unavailable)?;
        for (index, AccountToken { account, token }) in batch.iter().enumerate() {
            let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE");
            let reply = format!("{inbox}.{index}");
            self.system.publish_with_reply(subject, reply, token.clone().into()).await.map_err(unavailable)?;
        }
        self.system.flush().await.map_err(unavailable)?;
        let mut taken = vec![0usize; batch.len()];
        let mut until = Instant::now() + PATIENCE;
        let mut each_once = false;
        while taken.iter().any(|count| *count < brokers) {
            let Ok(Some(answer)) = timeout_at(until, answers.next()).await else { break };
            let index = answer.subject.rsplit('.').next().and_then(|index| index.parse::<usize>().ok());
            let Some(count) = index.and_then(|index| taken.get_mut(index)) else { continue };
            if let Answer { error: Some(Refusal { code, description }) } = serde_json::from_slice(&answer.payload)? {
                return Err(BrokerError::Refused { code, description });
            }
            *count += 1;
            if !each_once && taken.iter().all(|count| *count > 0) {
                each_once = true;
                until = until.min(Instant::now() + STRAGGLERS);
            }
        }
        match taken.iter().filter(|count| **count == 0).count() {
            0 => Ok(()),
            missing => Err(BrokerError::Unavailable(format!("no broker took the claims of {missing} accounts"))),
        }
    }
}

fn unavailable(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Unavailable(error.to_string())
}
