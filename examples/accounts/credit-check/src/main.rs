//! Says whether somebody gets credit. It answers requests of the mesh; its pods share them, as one queue group.

use anyhow::Result;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Deserialize)]
struct Request {
    deposit: i64,
    credit: i64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Answer {
    approved: bool,
    reason: &'static str,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // The sidecar has the credentials.
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://localhost:4222".to_owned());
    let options = async_nats::ConnectOptions::new().name("credit-check").retry_on_initial_connect();
    let client = options.connect(url).await?;
    let mut requests = client.queue_subscribe("credit.check", "credit-check".to_owned()).await?;
    let mut stop = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            request = requests.next() => {
                let Some(request) = request else { return Ok(()) };
                if let Some(reply) = request.reply {
                    client.publish(reply, serde_json::to_vec(&judge(&request.payload))?.into()).await?;
                }
            }
            // No more requests come, and those that are here are answered.
            _ = stop.recv() => client.drain().await?,
        }
    }
}

/// No more credit than ten times the deposit.
fn judge(payload: &[u8]) -> Answer {
    match serde_json::from_slice::<Request>(payload) {
        Ok(Request { deposit, credit }) if credit <= deposit.saturating_mul(10) => {
            Answer { approved: true, reason: "good" }
        }
        Ok(_) => Answer { approved: false, reason: "credit is limited to ten times the deposit" },
        Err(_) => Answer { approved: false, reason: "deposit and credit must be whole numbers" },
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn nobody_gets_more_credit_than_ten_times_the_deposit() {
        assert!(judge(br#"{"owner": "ada", "deposit": 100, "credit": 1000}"#).approved);
        assert!(!judge(br#"{"owner": "bob", "deposit": 100, "credit": 1001}"#).approved);
        assert!(!judge(b"garbage").approved);
    }
}
