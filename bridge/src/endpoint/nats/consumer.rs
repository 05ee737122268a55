//! The durable consumer of an inbound route at the other system: found or made, never deleted.

use async_nats::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use crate::jetstream::ApiError;
use crate::jetstream::PullError;
use crate::route::inbound::Inbound;

const CONSUMER_NOT_FOUND: u64 = 10_014;
const STREAM_NOT_FOUND: u64 = 10_059;

/// A consumer that can be read.
#[derive(Debug)]
pub(super) struct Consumer {
    pub stream: String,
    pub name: String,
    /// When the stream was made, as it tells itself: one that is made anew under the same name counts from 1 again.
    pub created: String,
    pub pending: u64,
    pub ack_wait: std::time::Duration,
}

/// Where the last reader of this process was, for a consumer that was deleted meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub created: String,
    /// The first event that may not have been handled.
    pub next: u64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<ApiError>,
    #[serde(flatten)]
    rest: Value,
}

/// The name of a route's consumer. `_` is in no name of Kubernetes, so no two bridges of a cluster ever share one.
pub(super) fn name(namespace: &str, bridge: &str, route: &str) -> String {
    let plain = |text: &str| text.replace(['.', ' ', '*', '>', '/', '\\'], "-");
    format!("eventmesh_{}_{}_{}", plain(namespace), plain(bridge), plain(route))
}

/// Finds the consumer, and makes it or brings it up to date where needed.
pub(super) async fn ensure(
    client: &Client,
    shared: &Shared,
    route: &Inbound,
    mark: Option<&Mark>,
) -> Result<Consumer, PullError> {
    let jetstream = shared.endpoint.jetstream.clone().unwrap_or_default();
    let api = Api { client, prefix: jetstream.api() };
    let from = route.config.from.as_str();
    let stream = match jetstream.stream {
        Some(stream) => stream,
        None => find_stream(&api, from).await?,
    };
    let info =
        api.call(&format!("STREAM.INFO.{stream}"), &json!({})).await?.map_err(|error| no_stream(&stream, &error))?;
    let created = info["created"].as_str().unwrap_or_default().to_owned();
    let bridge = &shared.config.bridge;
    let name = name(&bridge.namespace, &bridge.name, &route.config.name);
    let window = shared.config.delivery.max_in_flight;
    let found = match api.call(&format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await? {
        Ok(info) if is_right(&info["config"], from, window) => info,
        Ok(info) => {
            let mut config = info["config"].clone();
            (config["filter_subject"], config["max_ack_pending"]) = (json!(from), json!(window));
            put(&api, &stream, &name, &config, "update").await?
        }
        Err(error) if error.err_code == CONSUMER_NOT_FOUND => {
            let mark = mark.filter(|mark| mark.created == created);
            put(&api, &stream, &name, &config(&name, from, window, mark), "create").await?
        }
        Err(error) => return Err(PullError::failed(said(&error))),
    };
    Ok(Consumer {
        stream,
        name,
        created,
        pending: found["num_pending"].as_u64().unwrap_or_default(),
        ack_wait: std::time::Duration::from_nanos(found["config"]["ack_wait"].as_u64().unwrap_or_default()),
    })
}

fn config(name: &str, from: &str, window: u32, mark: Option<&Mark>) -> Value {
    let mut config = json!({
        "durable_name": name, "name": name, "ack_policy": "explicit", "ack_wait": 30_000_000_000_u64,
        "max_ack_pending": window, "max_deliver": -1, "filter_subject": from, "deliver_policy": "all",
    });
    if let Some(mark) = mark {
        (config["deliver_policy"], config["opt_start_seq"]) = (json!("by_start_sequence"), json!(mark.next));
    }
    config
}

fn is_right(config: &Value, from: &str, window: u32) -> bool {
    config["filter_subject"] == json!(from) && config["max_ack_pending"] == json!(window)
}

async fn put(api: &Api<'_>, stream: &str, name: &str, config: &Value, action: &str) -> Result<Value, PullError> {
    let request = json!({"stream_name": stream, "config": config, "action": action});
    // The one that says its filter in its subject would need another right for each.
    let made = api.call(&format!("CONSUMER.CREATE.{stream}.{name}"), &request).await?;
    let made = made.map_err(|error| {
        PullError::failed(format_args!("can not {action} the consumer `{name}` of stream `{stream}`: {}", said(&error)))
    })?;
    tracing::info!(stream, consumer = name, action, "programmed the consumer at the other system");
    Ok(made)
}

async fn find_stream(api: &Api<'_>, from: &str) -> Result<String, PullError> {
    let found = api.call("STREAM.NAMES", &json!({"subject": from})).await?;
    let found = found.map_err(|error| PullError::failed(said(&error)))?;
    let names: Vec<&str> = found["streams"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(PullError::failed(format_args!(
            "no stream of the other system stores `{from}`; make one there, or name it in endpoint.nats.jetstream.stream"
        ))),
        many => Err(PullError::failed(format_args!(
            "`{from}` is stored by {} streams of the other system (`{}`); name one in endpoint.nats.jetstream.stream",
            many.len(),
            many.join("`, `")
        ))),
    }
}

fn no_stream(stream: &str, error: &ApiError) -> PullError {
    if error.err_code == STREAM_NOT_FOUND {
        return PullError::failed(format_args!(
            "the other system has no stream `{stream}`; make it there; it is tried again"
        ));
    }
    PullError::failed(said(error))
}

fn said(error: &ApiError) -> String {
    format!("{} ({})", error.description, error.err_code)
}

struct Api<'a> {
    client: &'a Client,
    prefix: String,
}

impl Api<'_> {
    /// The answer, or what the other system has against it.
    async fn call(&self, operation: &str, request: &Value) -> Result<Result<Value, ApiError>, PullError> {
        let subject = format!("{}.{operation}", self.prefix);
        let answer = self.client.request(subject, request.to_string().into()).await.map_err(|error| {
            PullError::blocked(&format!(
                "its JetStream API does not answer ({operation}: {error}); is JetStream on there, may the bridge use it, and is the domain right?"
            ))
        })?;
        let answer: Answer = serde_json::from_slice(&answer.payload).map_err(PullError::failed)?;
        Ok(match answer.error {
            Some(error) => Err(error),
            None => Ok(answer.rest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_different_routes_differ() {
        assert_eq!(name("shop", "far", "in"), "eventmesh_shop_far_in");
        assert_ne!(name("a-b", "c", "d"), name("a", "b-c", "d"));
    }

    #[test]
    fn a_consumer_that_is_made_again_begins_where_the_last_ended() {
        let mark = Mark { created: "t".to_owned(), next: 7 };
        assert_eq!(config("c", "a.>", 5, Some(&mark))["opt_start_seq"], json!(7));
        let new = config("c", "a.>", 5, None);
        assert_eq!((&new["deliver_policy"], new.get("opt_start_seq")), (&json!("all"), None));
        assert!(is_right(&new, "a.>", 5) && !is_right(&new, "a.*", 5) && !is_right(&new, "a.>", 6));
    }
}
