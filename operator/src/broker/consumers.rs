//! Making a durable consumer what it should be: shared by Subscriptions and the outbound routes of Bridges.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tracing::info;

use super::{
    BrokerError, MeshBroker,
    api::{Config, ConsumerAction, code},
    overlay::{Difference, overlay},
    view::ConsumerEntry,
};
use crate::leftovers::mark;

/// A consumer as its owner wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedConsumer {
    pub stream: String,
    pub name: String,
    /// Keys that are kept as they should be.
    pub config: Config,
    /// Keys that only matter when the consumer is created, such as where it begins.
    pub at_creation: Config,
    /// Nothing is delivered.
    pub paused: bool,
}

/// Until when a paused consumer is paused: the broker wants a time, and this is one that nobody lives to see.
const PAUSED_UNTIL: &str = "2200-01-01T00:00:00Z";

/// One call, or none. Pure data.
#[derive(Debug, PartialEq)]
pub enum ConsumerPlan {
    Create(Config),
    Update {
        config: Config,
        differences: Vec<Difference>,
    },
    /// Until a time, or no longer.
    Pause(Option<&'static str>),
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

/// Compares what is wanted with what was found. Pure. Where both the configuration and the pause differ, the pause
/// comes in the next pass.
#[must_use]
pub fn plan(found: Option<&Config>, wanted: &WantedConsumer, now: Timestamp) -> ConsumerPlan {
    let Some(found) = found else {
        let mut config = overlay(&Config::new(), &wanted.config).merged;
        config.extend(wanted.at_creation.clone());
        if wanted.paused {
            config.insert("pause_until".into(), json!(PAUSED_UNTIL));
        }
        return ConsumerPlan::Create(config);
    };
    let result = overlay(found, &wanted.config);
    if !result.differences.is_empty() {
        return ConsumerPlan::Update { config: result.merged, differences: result.differences };
    }
    let until = found.get("pause_until").and_then(Value::as_str);
    match (until, wanted.paused) {
        (until, true) if until != Some(PAUSED_UNTIL) => ConsumerPlan::Pause(Some(PAUSED_UNTIL)),
        (Some(until), false) if until.parse::<Timestamp>().is_ok_and(|until| until > now) => ConsumerPlan::Pause(None),
        _ => ConsumerPlan::Nothing,
    }
}

/// Makes the consumer what it should be.
pub async fn ensure(broker: &MeshBroker, wanted: &WantedConsumer) -> Result<ConsumerChange, BrokerError> {
    let mut found = broker.view().consumer(&wanted.stream, &wanted.name).map(ConsumerEntry::config).transpose()?;
    if found.as_ref().is_some_and(|found| mark::is_of_predecessor(found, &wanted.config)) {
        info!(
            stream = wanted.stream,
            consumer = wanted.name,
            "a deleted object of this name has left its place, which goes"
        );
        broker.delete_consumer(&wanted.stream, &wanted.name).await?;
        found = None;
    }
    let (config, action, change) = match plan(found.as_ref(), wanted, Timestamp::now()) {
        ConsumerPlan::Nothing => return Ok(ConsumerChange::None),
        ConsumerPlan::Pause(until) => {
            broker.pause_consumer(&wanted.stream, &wanted.name, until).await?;
            let (found, wanted) = (json!(until.is_none()), json!(until.is_some()));
            return Ok(ConsumerChange::Updated(vec![Difference { key: "paused".into(), found, wanted }]));
        }
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
    use crate::broker::api::object;

    fn wanted() -> WantedConsumer {
        let mut keys = object(json!({"durable_name": "c", "max_ack_pending": 10}));
        put_filter(&mut keys, Some(&["a.b".to_owned()]));
        WantedConsumer {
            stream: "s".into(),
            name: "c".into(),
            config: keys,
            at_creation: object(json!({"deliver_policy": "new"})),
            paused: false,
        }
    }

    fn plan(found: Option<&Config>, wanted: &WantedConsumer) -> ConsumerPlan {
        super::plan(found, wanted, "2026-11-24T00:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn a_pause_is_its_own_call() {
        let mut found = wanted().config;
        let mut paused = wanted();
        paused.paused = true;
        assert_eq!(plan(Some(&found), &paused), ConsumerPlan::Pause(Some(PAUSED_UNTIL)));
        found.insert("pause_until".into(), json!(PAUSED_UNTIL));
        assert_eq!(plan(Some(&found), &paused), ConsumerPlan::Nothing);
        assert_eq!(plan(Some(&found), &wanted()), ConsumerPlan::Pause(None));
        found.insert("pause_until".into(), json!("2020-01-01T00:00:00Z"));
        assert_eq!(plan(Some(&found), &wanted()), ConsumerPlan::Nothing, "a pause that is over is none");
        let ConsumerPlan::Create(created) = plan(None, &paused) else { panic!("a creation is needed") };
        assert_eq!(created["pause_until"], json!(PAUSED_UNTIL));
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
        let found = object(json!({"durable_name": "c", "max_ack_pending": 10, "filter_subject": "a.b"}));
        let mut wanted = wanted();
        put_filter(&mut wanted.config, Some(&["a.b".to_owned(), "a.c".to_owned()]));
        let ConsumerPlan::Update { config, .. } = plan(Some(&found), &wanted) else { panic!("an update is needed") };
        assert_eq!(config.get("filter_subject"), None);
        assert_eq!(config["filter_subjects"], json!(["a.b", "a.c"]));
    }
}
