//! Making a durable consumer what it should be: shared by Subscriptions and the outbound routes of Bridges.

use serde_json::{Value, json};
use tracing::info;

use super::{
    BrokerError, MeshBroker,
    api::{Config, ConsumerAction, code},
    overlay::{Difference, overlay},
};

/// A consumer as its owner wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedConsumer {
    pub stream: String,
    pub name: String,
    /// Keys that are kept as they should be.
    pub config: Config,
    /// Keys that only matter when the consumer is created, such as where it begins.
    pub at_creation: Config,
}

/// One call, or none. Pure data.
#[derive(Debug, PartialEq)]
pub enum ConsumerPlan {
    Create(Config),
    Update { config: Config, differences: Vec<Difference> },
    Nothing,
}

/// What was done.
#[derive(Debug, PartialEq)]
pub enum ConsumerChange {
    None,
    Created,
    Updated(Vec<Difference>),
}

/// The one or many subjects that a consumer filters by, in the broker's words. `None`: everything.
pub fn put_filter(config: &mut Config, filter: Option<&[String]>) {
    let (one, many) = match filter {
        None | Some([]) => (Value::Null, Value::Null),
        Some([subject]) => (json!(subject), Value::Null),
        Some(subjects) => (Value::Null, json!(subjects)),
    };
    config.insert("filter_subject".into(), one);
    config.insert("filter_subjects".into(), many);
}

/// Compares what is wanted with what was found. Pure.
#[must_use]
pub fn plan(found: Option<&Config>, wanted: &WantedConsumer) -> ConsumerPlan {
    let Some(found) = found else {
        let mut config = overlay(&Config::new(), &wanted.config).merged;
        config.extend(wanted.at_creation.clone());
        return ConsumerPlan::Create(config);
    };
    let result = overlay(found, &wanted.config);
    if result.differences.is_empty() {
        ConsumerPlan::Nothing
    } else {
        ConsumerPlan::Update { config: result.merged, differences: result.differences }
    }
}

/// Makes the consumer what it should be.
pub async fn ensure(broker: &MeshBroker, wanted: &WantedConsumer) -> Result<ConsumerChange, BrokerError> {
    let found = broker.view().consumer(&wanted.stream, &wanted.name).map(|entry| entry.config()).transpose()?;
    let (config, action, change) = match plan(found.as_ref(), wanted) {
        ConsumerPlan::Nothing => return Ok(ConsumerChange::None),
        ConsumerPlan::Create(config) => (config, ConsumerAction::Create, ConsumerChange::Created),
        ConsumerPlan::Update { config, differences } => {
            (config, ConsumerAction::Update, ConsumerChange::Updated(differences))
        }
    };
    match broker.put_consumer(&wanted.stream, &wanted.name, &config, action).await {
        Ok(()) => {
            info!(stream = wanted.stream, consumer = wanted.name, ?action, "programmed the consumer");
            Ok(change)
        }
        Err(error) => {
            if error.is_code(code::CONSUMER_EXISTS) || error.is_code(code::CONSUMER_NOT_FOUND) {
                // The view was behind; the next pass decides on what is there.
                broker.reread_consumer(&wanted.stream, &wanted.name).await?;
            }
            Err(error)
        }
    }
}

/// Whether a refusal only tells that the view was behind.
#[must_use]
pub fn is_race(error: &BrokerError) -> bool {
    [code::CONSUMER_EXISTS, code::CONSUMER_NOT_FOUND, code::STREAM_NOT_FOUND].iter().any(|code| error.is_code(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: Value) -> Config {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    fn wanted() -> WantedConsumer {
        let mut keys = config(json!({"durable_name": "c", "max_ack_pending": 10}));
        put_filter(&mut keys, Some(&["a.b".to_owned()]));
        WantedConsumer {
            stream: "s".into(),
            name: "c".into(),
            config: keys,
            at_creation: config(json!({"deliver_policy": "new"})),
        }
    }

    #[test]
    fn the_beginning_counts_only_at_creation() {
        let ConsumerPlan::Create(created) = plan(None, &wanted()) else { panic!("a creation is needed") };
        assert_eq!(created["deliver_policy"], json!("new"));
        assert!(!created.contains_key("filter_subjects"), "an absent key is not sent");
        let mut found = created.clone();
        found.insert("deliver_policy".into(), json!("all"));
        assert_eq!(plan(Some(&found), &wanted()), ConsumerPlan::Nothing);
    }

    #[test]
    fn an_edit_is_put_back_and_keeps_the_beginning() {
        let mut found = wanted().config;
        found.insert("max_ack_pending".into(), json!(99));
        found.insert("deliver_policy".into(), json!("new"));
        let ConsumerPlan::Update { config, differences } = plan(Some(&found), &wanted()) else {
            panic!("an update is needed")
        };
        assert_eq!((differences.len(), &config["deliver_policy"]), (1, &json!("new")));
    }

    #[test]
    fn a_filter_of_many_replaces_a_filter_of_one() {
        let found = config(json!({"durable_name": "c", "max_ack_pending": 10, "filter_subject": "a.b"}));
        let mut wanted = wanted();
        put_filter(&mut wanted.config, Some(&["a.b".to_owned(), "a.c".to_owned()]));
        let ConsumerPlan::Update { config, .. } = plan(Some(&found), &wanted) else { panic!("an update is needed") };
        assert_eq!(config.get("filter_subject"), None);
        assert_eq!(config["filter_subjects"], json!(["a.b", "a.c"]));
    }
}
