//! Topics and their streams.

use std::time::Duration;

use anyhow::{Context, Result};
use eventmesh_crds::Topic;
use eventmesh_tests::wait::eventually;
use k8s_openapi::api::events::v1::Event;
use kube::{Resource, api::ListParams};
use serde_json::json;

use crate::{Test, assert_fields, shared};

const SOON: Duration = Duration::from_mins(1);

#[test]
fn every_field_is_visible_in_the_broker() -> Result<()> {
    shared("fields", async |test| {
        let topic = "
  subjects: [fields.a, 'fields.b.*', 'fields.c.>']
  retention:
    policy: Interest
    maxAge: 168h
    maxBytes: 10Mi
    maxMessages: 5000
    maxMessagesPerSubject: 7
    maxMessageSize: 64Ki
    discard: New
  storage: {type: Memory, replicas: 1, compression: None}
  deduplicationWindow: 3m";
        test.ns.apply(&Test::topic("fields", topic)).await?;
        let ready = test.ns.ready::<Topic>("fields").await?;

        let info = test.stream("fields").await?;
        assert_fields(
            &info["config"],
            &json!({
                "subjects": ["fields.a", "fields.b.*", "fields.c.>"],
                "retention": "interest",
                "max_age": 168_u64 * 3600 * 1_000_000_000,
                "max_bytes": 10 * 1024 * 1024,
                "max_msgs": 5000,
                "max_msgs_per_subject": 7,
                "max_msg_size": 64 * 1024,
                "discard": "new",
                "storage": "memory",
                "num_replicas": 1,
                "compression": "none",
                "duplicate_window": 3_u64 * 60 * 1_000_000_000,
            }),
        );
        let metadata = &info["config"]["metadata"];
        assert_eq!(metadata["eventmesh.dev/topic"], format!("{}/fields", test.ns.name));
        assert_eq!(Some(metadata["eventmesh.dev/object-uid"].as_str().context("a uid")?), ready.meta().uid.as_deref());

        let status = ready.status.context("a status")?;
        assert_eq!(status.stream, Some(test.stream_name("fields")));
        assert_eq!(status.replicas, Some(1));
        assert_eq!(status.subjects.unwrap_or_default().len(), 3);
        Ok(())
    })
}

#[test]
fn defaults_are_those_of_the_documentation() -> Result<()> {
    shared("defaults", async |test| {
        test.ns.apply(&Test::topic("defaults", "  storage: {compression: S2}")).await?;
        test.ns.ready::<Topic>("defaults").await?;
        assert_fields(
            &test.stream("defaults").await?["config"],
            &json!({
                "subjects": ["defaults", "defaults.>"],
                "retention": "limits",
                "max_age": 0,
                "max_bytes": -1,
                "max_msgs": -1,
                "max_msgs_per_subject": -1,
                "discard": "old",
                "storage": "file",
                "num_replicas": 1,
                "compression": "s2",
                "duplicate_window": 2_u64 * 60 * 1_000_000_000,
            }),
        );
        Ok(())
    })
}

#[test]
fn a_change_reaches_the_stream_and_keeps_its_events() -> Result<()> {
    shared("change", async |test| {
        test.ns.apply(&Test::topic("change", "  retention: {maxAge: 1h}")).await?;
        test.ns.ready::<Topic>("change").await?;
        test.broker.publish("change.a", "kept").await?;
        test.ns
            .apply(&Test::topic(
                "change",
                "  retention: {maxAge: 2h, maxBytes: 1Mi}\n  subjects: ['change.>', changed]",
            ))
            .await?;
        test.ns.ready::<Topic>("change").await?;
        let info = test.stream("change").await?;
        let wanted =
            json!({"max_age": 7_200_000_000_000_u64, "max_bytes": 1_048_576, "subjects": ["change.>", "changed"]});
        assert_fields(&info["config"], &wanted);
        assert_eq!(info["state"]["messages"], 1);
        Ok(())
    })
}

#[test]
fn numbers_of_the_stream_come_into_the_status() -> Result<()> {
    shared("numbers", async |test| {
        test.ns.apply(&Test::topic("numbers", "")).await?;
        test.ns.ready::<Topic>("numbers").await?;
        for _ in 0..3 {
            test.broker.publish("numbers.a", "x").await?;
        }
        let status = test
            .ns
            .until::<Topic, _>("numbers", "a Topic of 3 messages", |topic| {
                topic.status.clone().filter(|status| status.messages == Some(3))
            })
            .await?;
        assert!(status.bytes > Some(0) && status.first_time.is_some() && status.last_time.is_some(), "{status:?}");
        Ok(())
    })
}

#[test]
fn a_stream_deleted_by_hand_returns() -> Result<()> {
    shared("deleted", async |test| {
        test.ns.apply(&Test::topic("deleted", "  retention: {maxMessages: 11}")).await?;
        test.ns.ready::<Topic>("deleted").await?;
        let name = test.stream_name("deleted");
        test.broker.delete_stream(&name).await?;
        let info = eventually("stream that was deleted by hand", SOON, async || {
            test.broker.stream(&name).await.map_err(|error| error.to_string())
        })
        .await?;
        assert_fields(&info["config"], &json!({"max_msgs": 11, "subjects": ["deleted", "deleted.>"]}));
        test.ns.ready::<Topic>("deleted").await.map(drop)
    })
}

#[test]
fn a_stream_edited_by_hand_is_put_back_and_the_difference_told() -> Result<()> {
    shared("edited", async |test| {
        test.ns.apply(&Test::topic("edited", "  retention: {maxMessages: 12}")).await?;
        test.ns.ready::<Topic>("edited").await?;
        let name = test.stream_name("edited");
        test.broker.publish("edited.a", "kept").await?;
        test.broker
            .edit_stream(&name, |config| {
                config["max_msgs"] = json!(1_000_000);
                config["subjects"] = json!(["edited", "edited.>", "more.edited"]);
            })
            .await?;
        eventually("stream that is as its Topic says", SOON, async || {
            let info = test.broker.stream(&name).await.map_err(|error| error.to_string())?;
            Ok(info.filter(|info| info["config"]["max_msgs"] == 12 && info["state"]["messages"] == 1))
        })
        .await?;
        eventually("Event with the difference", SOON, async || {
            let events =
                test.ns.api::<Event>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let notes: Vec<String> = events.into_iter().filter_map(|event| event.note).collect();
            let told = notes.iter().any(|note| note.contains("max_msgs") || note.contains("maxMessages"));
            if told { Ok(Some(())) } else { Err(format!("{notes:?}")) }
        })
        .await
    })
}

#[test]
fn deletion_keeps_events_and_the_same_topic_finds_them() -> Result<()> {
    shared("kept", async |test| {
        let yaml = Test::topic("kept", "");
        test.ns.apply(&yaml).await?;
        test.ns.ready::<Topic>("kept").await?;
        test.broker.publish("kept.a", "precious").await?;
        test.ns.delete_and_wait::<Topic>("kept").await?;
        assert_eq!(test.stream("kept").await?["state"]["messages"], 1);

        test.ns.apply(&yaml).await?;
        let again = test.ns.ready::<Topic>("kept").await?;
        let info = test.stream("kept").await?;
        assert_eq!(info["state"]["messages"], 1, "{info:#}");
        assert_eq!(info["config"]["metadata"]["eventmesh.dev/object-uid"].as_str(), again.meta().uid.as_deref());
        Ok(())
    })
}

#[test]
fn deletion_policies() -> Result<()> {
    shared("policies", async |test| {
        for (name, policy, events, stays) in [
            ("policies-a", "DeleteIfEmpty", 1, true),
            ("policies-b", "Retain", 0, true),
            ("policies-c", "DeleteIfEmpty", 0, false),
            ("policies-d", "Delete", 1, false),
        ] {
            test.ns.apply(&Test::topic(name, &format!("  deletionPolicy: {policy}"))).await?;
            test.ns.ready::<Topic>(name).await?;
            for _ in 0..events {
                test.broker.publish(&format!("{name}.x"), "x").await?;
            }
            test.ns.delete_and_wait::<Topic>(name).await?;
            if !stays {
                eventually(
                    &format!("end of the stream: {policy} with {events} events"),
                    test.ns.kube.patience,
                    async || {
                        let found =
                            test.broker.stream(&test.stream_name(name)).await.map_err(|error| format!("{error:#}"))?;
                        Ok(found.is_none().then_some(()))
                    },
                )
                .await?;
            }
        }
        // They have outlived those after them.
        for kept in ["policies-a", "policies-b"] {
            assert!(test.broker.stream(&test.stream_name(kept)).await?.is_some(), "{kept}");
        }
        Ok(())
    })
}

#[test]
fn the_older_of_two_that_overlap_wins_until_it_is_deleted() -> Result<()> {
    shared("overlap", async |test| {
        test.ns.apply(&Test::topic("overlap-a", "  subjects: ['overlap.>']\n  deletionPolicy: Delete")).await?;
        test.ns.ready::<Topic>("overlap-a").await?;
        // Kubernetes tells ages in whole seconds; only another second makes one of them the older.
        tokio::time::sleep(Duration::from_secs(1)).await;
        test.ns.apply(&Test::topic("overlap-b", "  subjects: ['overlap.*.a']")).await?;
        let refused = test.ns.condition::<Topic>("overlap-b", "Accepted", "False", "SubjectOverlap").await?;
        assert!(refused.message.contains("overlap-a"), "{}", refused.message);
        test.ns.condition::<Topic>("overlap-b", "Ready", "False", "SubjectOverlap").await?;
        assert!(test.broker.stream(&test.stream_name("overlap-b")).await?.is_none());
        test.ns.ready::<Topic>("overlap-a").await?;

        test.ns.delete_and_wait::<Topic>("overlap-a").await?;
        test.ns.ready::<Topic>("overlap-b").await?;
        assert_eq!(test.stream("overlap-b").await?["config"]["subjects"], json!(["overlap.*.a"]));
        Ok(())
    })
}

#[test]
fn bad_subjects_and_replicas_are_refused_with_the_reason() -> Result<()> {
    shared("bad", async |test| {
        for (name, more, reason) in [
            ("bad-reserved", "  subjects: ['$JS.API.x']", "InvalidSubject"),
            ("bad-all", "  subjects: ['>']", "InvalidSubject"),
            ("bad-token", "  subjects: ['bad..token']", "InvalidSubject"),
            ("bad-wildcard", "  subjects: ['bad.x*']", "InvalidSubject"),
            ("bad-replicas", "  storage: {replicas: 3}", "InvalidReplicas"),
        ] {
            test.ns.apply(&Test::topic(name, more)).await?;
            let condition = test.ns.condition::<Topic>(name, "Accepted", "False", reason).await?;
            assert!(!condition.message.is_empty(), "{name}");
            assert!(test.broker.stream(&test.stream_name(name)).await?.is_none(), "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_bad_change_leaves_the_good_stream_as_it_is() -> Result<()> {
    shared("good", async |test| {
        test.ns.apply(&Test::topic("good", "  retention: {maxMessages: 5}")).await?;
        test.ns.ready::<Topic>("good").await?;
        test.ns.apply(&Test::topic("good", "  retention: {maxMessages: 6}\n  subjects: ['good..x']")).await?;
        test.ns.condition::<Topic>("good", "Ready", "False", "InvalidSubject").await?;
        assert_fields(&test.stream("good").await?["config"], &json!({"max_msgs": 5, "subjects": ["good", "good.>"]}));
        Ok(())
    })
}

#[test]
fn an_unmanaged_topic_reports_and_never_changes() -> Result<()> {
    shared("unmanaged", async |test| {
        let yaml =
            Test::topic("unmanaged", "  managed: false\n  deletionPolicy: Delete\n  retention: {maxMessages: 5}");
        test.ns.apply(&yaml).await?;
        test.ns.condition::<Topic>("unmanaged", "Ready", "False", "StreamNotFound").await?;

        let name = test.stream_name("unmanaged");
        let config = json!({"name": name, "subjects": ["unmanaged.by-hand"], "storage": "file", "max_msgs": 77});
        test.broker.create_stream(&config).await?;
        test.broker.publish("unmanaged.by-hand", "x").await?;
        test.ns.ready::<Topic>("unmanaged").await?;
        test.ns.condition::<Topic>("unmanaged", "Programmed", "True", "Observed").await?;
        test.ns
            .until::<Topic, _>("unmanaged", "a Topic of 1 message", |topic| {
                (topic.status.as_ref()?.messages == Some(1)).then_some(())
            })
            .await?;
        assert_fields(
            &test.stream("unmanaged").await?["config"],
            &json!({"max_msgs": 77, "subjects": ["unmanaged.by-hand"]}),
        );

        test.ns.delete_and_wait::<Topic>("unmanaged").await?;
        assert_eq!(test.stream("unmanaged").await?["state"]["messages"], 1);
        Ok(())
    })
}

#[test]
fn a_stream_made_by_hand_is_not_taken_over() -> Result<()> {
    shared("conflict", async |test| {
        let name = test.stream_name("conflict");
        let config = json!({"name": name, "subjects": ["conflict.by-hand"], "storage": "file", "max_msgs": 3});
        test.broker.create_stream(&config).await?;
        test.ns.apply(&Test::topic("conflict", "")).await?;
        test.ns.condition::<Topic>("conflict", "Ready", "False", "StreamConflict").await?;
        assert_fields(
            &test.stream("conflict").await?["config"],
            &json!({"max_msgs": 3, "subjects": ["conflict.by-hand"]}),
        );

        test.broker.delete_stream(&name).await?;
        test.ns.ready::<Topic>("conflict").await.map(drop)
    })
}

#[test]
fn a_full_stream_with_discard_new_refuses_and_keeps() -> Result<()> {
    shared("full", async |test| {
        test.ns.apply(&Test::topic("full", "  retention: {maxMessages: 2, discard: New}")).await?;
        test.ns.ready::<Topic>("full").await?;
        test.broker.publish("full.a", "1").await?;
        test.broker.publish("full.a", "2").await?;
        let refused = test.broker.publish("full.a", "3").await;
        assert!(refused.is_err(), "a third event was stored");
        assert_eq!(test.stream("full").await?["state"]["messages"], 2);
        Ok(())
    })
}
