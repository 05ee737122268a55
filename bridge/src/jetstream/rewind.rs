//! Back to what is not acknowledged.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{PullError, pull};

/// Longer than the requests of a pod that is gone.
const PATIENCE: Duration = Duration::from_secs(1).saturating_add(pull::LASTS);

/// A pod that was killed leaves requests behind, and until they end the consumer gives events to them too: what comes to
/// nobody comes again late, and out of its order.
pub async fn until_nobody_asks(client: &Client, api: &str, stream: &str, consumer: &str) -> Result<(), PullError> {
    let subject = format!("{api}.CONSUMER.INFO.{stream}.{consumer}");
    let asked = async {
        loop {
            let answer = client.request(subject.clone(), Bytes::new()).await;
            let answer = answer.map_err(|error| PullError::blocked(&error.to_string()))?;
            let info: Info = serde_json::from_slice(&answer.payload).map_err(PullError::failed)?;
            match info.num_waiting {
                Some(0) => return Ok(()),
                Some(_) => sleep(Duration::from_millis(100)).await,
                None => return Err(PullError::failed("it is not there")),
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        Err(PullError::blocked("another process reads from it, and `ordering: PerSource` needs it for one"))
    })
}

#[derive(Deserialize)]
struct Info {
    num_waiting: Option<u64>,
}

/// What an earlier pod took and did not acknowledge comes first, and in its place: without this the consumer would give it
/// only when its time to acknowledge has run out, after later ones. What was acknowledged out of order comes again with it.
pub async fn rewind(client: &Client, api: &str, stream: &str, consumer: &str) -> Result<(), PullError> {
    let subject = format!("{api}.CONSUMER.RESET.{stream}.{consumer}");
    let answer = client.request(subject, Bytes::new()).await;
    let answer = answer.map_err(|error| PullError::blocked(&format!("can not be read from its beginning: {error}")))?;
    match serde_json::from_slice::<Answer>(&answer.payload) {
        Ok(Answer { error: None }) => Ok(()),
        Ok(Answer { error: Some(error) }) => Err(PullError::failed(format_args!(
            "{} ({}); `ordering: PerSource` needs brokers of version 2.14 or later",
            error.description, error.code
        ))),
        Err(error) => Err(PullError::failed(error)),
    }
}

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    code: u64,
    #[serde(default)]
    description: String,
}
