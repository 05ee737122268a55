//! Subscriptions and their durable consumers.

use std::time::Duration;

use anyhow::{Context, Result};
use eventmesh_crds::{Subscription, Topic};
use eventmesh_tests::wait::eventually;
use serde_json::{Value, json};

use crate::{Test, assert_fields, object, shared};

const SOON: Duration = Duration::from_mins(1);

fn subscription(name: &str, topic: &str, more: &str) -> String {
    object("Subscription", name, &format!("  topic: {{name: {topic}}}\n{more}"))
}

impl Test<'_> {
    fn consumer_name(&self, subscription: &str) -> String {
        eventmesh_wire::names::subscription_consumer(&self.ns.name, subscription)
    }

    async fn consumer(&self, topic: &str, subscription: &str) -> Result<Value> {
        let (stream, name) = (self.stream_name(topic), self.consumer_name(subscription));
        self.broker.consumer(&stream, &name).await?.with_context(|| format!("there is no consumer {name}"))
    }

    async fn ready_topic(&self, name: &str, more: &str) -> Result<()> {
        self.ns.apply(&Test::topic(name, more)).await?;
        self.ns.ready::<Topic>(name).await.map(drop)
    }
}

#[test]
fn every_field_is_visible_in_the_broker() -> Result<()> {
    shared("sub-fields", async |test| {
        test.ready_topic("sub-fields", "").await?;
        let more = "
  filter: [sub-fields.a, 'sub-fields.b.*']
  startFrom: {position: Sequence, sequence: 4}
  maxDeliver: 5
  backoff: [1s, 5s, 30s]
  maxInFlight: 123";
        test.ns.apply(&subscription("all", "sub-fields", more)).await?;
        test.ns.apply(&subscription("wait", "sub-fields", "  filter: [sub-fields.c]\n  ackWait: 45s")).await?;
        let time = "  startFrom: {position: Time, time: '2026-01-02T03:04:05Z'}";
        test.ns.apply(&subscription("time", "sub-fields", time)).await?;
        let ready = test.ns.ready::<Subscription>("all").await?;

        let config = &test.consumer("sub-fields", "all").await?["config"];
        assert_fields(
            config,
            &json!({
                "durable_name": test.consumer_name("all"),
                "filter_subjects": ["sub-fields.a", "sub-fields.b.*"],
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": 4,
                "ack_policy": "explicit",
                "max_deliver": 5,
                "backoff": [1_000_000_000_u64, 5_000_000_000_u64, 30_000_000_000_u64],
                "max_ack_pending": 123,
            }),
        );
        let status = ready.status.context("a status")?;
        assert_eq!(status.stream, Some(test.stream_name("sub-fields")));
        assert_eq!(status.consumer, Some(test.consumer_name("all")));

        test.ns.ready::<Subscription>("wait").await?;
        let config = &test.consumer("sub-fields", "wait").await?["config"];
        assert_fields(
            config,
            &json!({"ack_wait": 45_000_000_000_u64, "deliver_policy": "new", "max_ack_pending": 1000}),
        );
        assert!(
            config["filter_subject"] == "sub-fields.c" || config["filter_subjects"] == json!(["sub-fields.c"]),
            "{config:#}"
        );

        test.ns.ready::<Subscription>("time").await?;
        let config = &test.consumer("sub-fields", "time").await?["config"];
        assert_fields(config, &json!({"deliver_policy": "by_start_time", "opt_start_time": "2026-01-02T03:04:05Z"}));
        Ok(())
    })
}

#[test]
fn a_consumer_edited_by_hand_is_put_back() -> Result<()> {
    shared("sub-edited", async |test| {
        test.ready_topic("sub-edited", "").await?;
        test.ns.apply(&subscription("s", "sub-edited", "  maxInFlight: 50")).await?;
        test.ns.ready::<Subscription>("s").await?;
        let (stream, name) = (test.stream_name("sub-edited"), test.consumer_name("s"));
        test.broker.edit_consumer(&stream, &name, |config| config["max_ack_pending"] = json!(9999)).await?;
        eventually("consumer that is as its Subscription says", SOON, async || {
            let info = test.broker.consumer(&stream, &name).await.map_err(|error| error.to_string())?;
            Ok(info.filter(|info| info["config"]["max_ack_pending"] == 50))
        })
        .await?;
        test.ns.ready::<Subscription>("s").await.map(drop)
    })
}

#[test]
fn a_consumer_deleted_by_hand_returns() -> Result<()> {
    shared("sub-deleted", async |test| {
        test.ready_topic("sub-deleted", "").await?;
        test.ns.apply(&subscription("s", "sub-deleted", "")).await?;
        test.ns.ready::<Subscription>("s").await?;
        let (stream, name) = (test.stream_name("sub-deleted"), test.consumer_name("s"));
        test.broker.delete_consumer(&stream, &name).await?;
        eventually("consumer that was deleted by hand", SOON, async || {
            test.broker.consumer(&stream, &name).await.map_err(|error| error.to_string())
        })
        .await
        .map(drop)
    })
}

#[test]
fn a_stream_that_returns_gets_its_consumers_back() -> Result<()> {
    shared("sub-stream", async |test| {
        test.ready_topic("sub-stream", "").await?;
        test.ns.apply(&subscription("s", "sub-stream", "")).await?;
        test.ns.ready::<Subscription>("s").await?;
        let (stream, name) = (test.stream_name("sub-stream"), test.consumer_name("s"));
        test.broker.delete_stream(&stream).await?;
        eventually("consumer of the stream that returned", SOON, async || {
            test.broker.consumer(&stream, &name).await.map_err(|error| error.to_string())
        })
        .await
        .map(drop)
    })
}

#[test]
fn a_filter_outside_the_topic_is_refused_and_healed_by_the_topic() -> Result<()> {
    shared("sub-filter", async |test| {
        test.ready_topic("sub-filter", "").await?;
        test.ns.apply(&subscription("s", "sub-filter", "  filter: [elsewhere.a]")).await?;
        let refused = test.ns.condition::<Subscription>("s", "Accepted", "False", "FilterOutsideTopic").await?;
        assert!(refused.message.contains("elsewhere.a"), "{}", refused.message);
        assert!(test.broker.consumer(&test.stream_name("sub-filter"), &test.consumer_name("s")).await?.is_none());

        test.ns.apply(&Test::topic("sub-filter", "  subjects: [sub-filter, elsewhere.a]")).await?;
        test.ns.ready::<Subscription>("s").await.map(drop)
    })
}

#[test]
fn filters_that_overlap_or_break_the_rules_are_refused() -> Result<()> {
    shared("sub-bad", async |test| {
        test.ready_topic("sub-bad", "").await?;
        test.ns.apply(&subscription("twice", "sub-bad", "  filter: ['sub-bad.>', sub-bad.a]")).await?;
        test.ns.condition::<Subscription>("twice", "Accepted", "False", "InvalidSubject").await?;
        test.ns.apply(&subscription("broken", "sub-bad", "  filter: ['sub-bad..a']")).await?;
        test.ns.condition::<Subscription>("broken", "Accepted", "False", "InvalidSubject").await.map(drop)
    })
}

#[test]
fn a_subscription_waits_for_its_topic() -> Result<()> {
    shared("sub-early", async |test| {
        test.ns.apply(&subscription("s", "sub-early", "  startFrom: {position: All}")).await?;
        test.ns.condition::<Subscription>("s", "ResolvedRefs", "False", "TopicNotFound").await?;
        test.ready_topic("sub-early", "").await?;
        test.ns.ready::<Subscription>("s").await.map(drop)
    })
}

#[test]
fn numbers_of_the_consumer_come_into_the_status() -> Result<()> {
    shared("sub-numbers", async |test| {
        test.ready_topic("sub-numbers", "").await?;
        test.ns.apply(&subscription("s", "sub-numbers", "")).await?;
        test.ns.ready::<Subscription>("s").await?;
        for _ in 0..3 {
            test.broker.publish("sub-numbers.a", "x").await?;
        }
        let pending = |wanted: i64| {
            test.ns.until::<Subscription, _>("s", "a Subscription with events that wait", move |subscription| {
                (subscription.status.as_ref()?.pending == Some(wanted)).then_some(())
            })
        };
        pending(3).await?;
        test.broker.fetch(&test.stream_name("sub-numbers"), &test.consumer_name("s")).await?;
        test.ns
            .until::<Subscription, _>("s", "a Subscription with an event that is not acknowledged", |subscription| {
                let status = subscription.status.as_ref()?;
                (status.ack_pending == Some(1) && status.pending == Some(2)).then_some(())
            })
            .await
    })
}

#[test]
fn a_paused_subscription_gets_nothing_until_it_goes_on() -> Result<()> {
    shared("sub-paused", async |test| {
        test.ready_topic("sub-paused", "").await?;
        test.ns.apply(&subscription("s", "sub-paused", "  paused: true")).await?;
        test.ns.condition::<Subscription>("s", "Ready", "True", "Paused").await?;
        assert_eq!(test.consumer("sub-paused", "s").await?["paused"], true);
        test.ns.apply(&subscription("s", "sub-paused", "  paused: false")).await?;
        test.ns.condition::<Subscription>("s", "Ready", "True", "Ready").await?;
        assert_ne!(test.consumer("sub-paused", "s").await?["paused"], true);
        Ok(())
    })
}

#[test]
fn the_place_is_forgotten_or_kept_as_the_policy_says() -> Result<()> {
    shared("sub-policy", async |test| {
        test.ready_topic("sub-policy", "").await?;
        for (name, policy, stays) in [("kept", "Retain", true), ("gone", "Delete", false)] {
            test.ns.apply(&subscription(name, "sub-policy", &format!("  deletionPolicy: {policy}"))).await?;
            test.ns.ready::<Subscription>(name).await?;
            test.ns.delete_and_wait::<Subscription>(name).await?;
            if !stays {
                let (stream, consumer) = (test.stream_name("sub-policy"), test.consumer_name(name));
                eventually("end of the consumer", test.ns.kube.patience, async || {
                    let found = test.broker.consumer(&stream, &consumer).await.map_err(|error| format!("{error:#}"))?;
                    Ok(found.is_none().then_some(()))
                })
                .await?;
            }
        }
        // What is kept has outlived what is not, and is found again.
        let kept = test.broker.consumer(&test.stream_name("sub-policy"), &test.consumer_name("kept")).await?;
        assert!(kept.is_some());
        assert_eq!(test.stream("sub-policy").await?["config"]["name"], test.stream_name("sub-policy"));
        Ok(())
    })
}
