//! Events that Subscriptions give up, and where they go.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use async_nats::{HeaderMap, jetstream::message::StreamMessage};
use eventmesh_crds::{Subscription, Topic};
use eventmesh_tests::{broker::Broker, objects::Namespace, wait::eventually};
use serde_json::json;

use crate::{Test, alone, object, shared};

/// More than the longest pause after a letter could not be stored.
pub const SOON: Duration = Duration::from_mins(2);

/// Two tries, the second soon.
pub const IMPATIENT: &str = "  maxDeliver: 2\n  backoff: [100ms, 100ms]\n";

/// A place for the events of one Subscription, and for those that it gives up.
pub struct Place<'a> {
    pub ns: &'a Namespace,
    pub broker: Broker,
    pub topic: String,
    pub dead: String,
}

impl<'a> Place<'a> {
    /// A Topic `name` with `more` in its spec, and one for dead letters.
    pub async fn make(ns: &'a Namespace, broker: &Broker, name: &str, more: &str) -> Result<Self> {
        let dead = format!("{name}-dead");
        ns.apply(&Test::topic(name, more)).await?;
        ns.apply(&Test::topic(&dead, "")).await?;
        ns.ready::<Topic>(name).await?;
        ns.ready::<Topic>(&dead).await?;
        Ok(Self { ns, broker: broker.clone(), topic: name.to_owned(), dead })
    }

    /// A Subscription whose dead letters go there.
    pub async fn subscribe(&self, name: &str, more: &str) -> Result<()> {
        let spec = format!("  topic: {{name: {}}}\n  deadLetter: {{topic: {}}}\n{more}", self.topic, self.dead);
        self.ns.apply(&object("Subscription", name, &spec)).await?;
        self.ns.ready::<Subscription>(name).await.map(drop)
    }

    fn stream(&self, topic: &str) -> String {
        eventmesh_wire::names::stream(&self.ns.name, topic)
    }

    fn consumer(&self, subscription: &str) -> (String, String) {
        (self.stream(&self.topic), eventmesh_wire::names::subscription_consumer(&self.ns.name, subscription))
    }

    /// Takes what the Subscription has and acknowledges nothing, until the value is dropped.
    pub fn nobody_accepts(&self, subscription: &str) -> eventmesh_tests::broker::Refuser {
        let (stream, consumer) = self.consumer(subscription);
        self.broker.never_acknowledge(&stream, &consumer)
    }

    /// Waits until so many letters are stored, and gives them.
    pub async fn letters(&self, count: usize) -> Result<Vec<StreamMessage>> {
        let stream = self.stream(&self.dead);
        eventually(&format!("{count} letter(s) in {stream}"), SOON, async || {
            let letters = self.broker.stored(&stream).await.map_err(|error| error.to_string())?;
            if letters.len() < count { Err(format!("{} so far", letters.len())) } else { Ok(Some(letters)) }
        })
        .await
    }

    /// Has the broker's word about an event of the Topic said once more.
    pub async fn note_again(&self, subscription: &str, sequence: u64) -> Result<()> {
        let (stream, consumer) = self.consumer(subscription);
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}");
        let note = json!({"type": "io.nats.jetstream.advisory.v1.max_deliver", "stream": stream, "consumer": consumer,
            "stream_seq": sequence, "deliveries": 2});
        self.broker.publish(&subject, note.to_string()).await.map(drop)
    }

    /// Waits until the broker has given up so many events and has no others to deliver.
    pub async fn given_up(&self, subscription: &str, count: u64) -> Result<()> {
        let (stream, consumer) = self.consumer(subscription);
        eventually(&format!("{count} event(s) that are given up and not moved"), SOON, async || {
            let info = self.broker.consumer(&stream, &consumer).await.map_err(|error| error.to_string())?;
            let info = info.ok_or("no consumer")?;
            let done = info["num_pending"] == 0 && info["num_ack_pending"] == 0 && info["num_redelivered"] == count;
            if done { Ok(Some(())) } else { Err(info.to_string()) }
        })
        .await
    }

    async fn left_in_topic(&self) -> Result<u64> {
        let info = self.broker.stream(&self.stream(&self.topic)).await?.context("a stream")?;
        info["state"]["messages"].as_u64().context("a number")
    }

    pub async fn topic_is_emptied(&self) -> Result<()> {
        eventually("empty Topic", SOON, async || match self.left_in_topic().await {
            Ok(0) => Ok(Some(())),
            Ok(left) => Err(format!("{left} left")),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// No note about the Topic waits any more: what the brokers have told of is dealt with. Tests that run beside this one have
    /// notes of their own.
    pub async fn no_notes_are_left(&self) -> Result<()> {
        let ours = json!({"subjects_filter": format!("$JS.EVENT.ADVISORY.CONSUMER.*.{}.*", self.stream(&self.topic))});
        eventually("end of the notes", SOON, async || {
            let info =
                self.broker.api("STREAM.INFO.EM_dead_letters", &ours).await.map_err(|error| error.to_string())?;
            let info = info.ok_or("no stream of notes")?;
            let left = info["state"]["subjects"].as_object().map_or(0, serde_json::Map::len);
            if left == 0 { Ok(Some(())) } else { Err(info["state"]["subjects"].to_string()) }
        })
        .await
    }
}

pub fn header<'a>(letter: &'a StreamMessage, name: &str) -> &'a str {
    letter.headers.get(name).map_or("", |value| value.as_str())
}

/// How often each event is among the letters.
pub fn counted(letters: &[StreamMessage]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for letter in letters {
        *counts.entry(String::from_utf8_lossy(&letter.payload).into_owned()).or_default() += 1;
    }
    counts
}

pub fn once_each(count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (format!("event {number}"), 1)).collect()
}

#[test]
fn an_event_that_nobody_accepts_is_stored_with_the_reason() -> Result<()> {
    shared("dead-letter", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-letter", "").await?;
        place.subscribe("s", IMPATIENT).await?;
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", "41");
        headers.append("tag", "one");
        headers.append("tag", "two");
        headers.insert("Nats-Msg-Id", "the-publishers-own");
        let sent = test.broker.jetstream.publish_with_headers("dead-letter.opened", headers, "no one".into()).await?;
        let sequence = sent.await?.sequence;

        let refuser = place.nobody_accepts("s");
        let letters = place.letters(1).await?;
        let letter = &letters[0];
        assert_eq!(letter.subject.as_str(), format!("{}.{}.s", place.dead, test.ns.name));
        assert_eq!(letter.payload, "no one");
        assert_eq!(header(letter, "ce-id"), "41");
        let raw = test.broker.api(&format!("STREAM.MSG.GET.{}", place.stream(&place.dead)), &json!({"seq": 1})).await?;
        let block = raw.context("a letter")?["message"]["hdrs"].as_str().unwrap_or_default().to_owned();
        let block = String::from_utf8(data_encoding::BASE64.decode(block.as_bytes())?)?;
        ensure!(block.contains("tag: one\r\n") && block.contains("tag: two\r\n"), "both values of a header: {block}");
        assert_eq!(header(letter, "Em-Dead-Cause"), "not acknowledged in 2 tries");
        assert_eq!(header(letter, "Em-Dead-Subscription"), format!("{}/s", test.ns.name));
        assert_eq!(header(letter, "Em-Dead-Tries"), "2");
        assert_eq!(header(letter, "Em-Dead-Origin"), "dead-letter.opened");
        assert_eq!(header(letter, "Em-Dead-Stream"), place.stream("dead-letter"));
        assert_eq!(header(letter, "Em-Dead-Sequence"), sequence.to_string());
        assert_eq!(header(letter, "Em-Dead-Number"), "1");
        ensure!(!header(letter, "Em-Dead-Time").is_empty() && !header(letter, "Em-Dead-Stored").is_empty());

        test.ns
            .until::<Subscription, _>("s", "a Subscription with one dead letter", |subscription| {
                let status = subscription.status.as_ref()?;
                // What it has given up is no longer under way, also in the broker's numbers.
                let done = status.dead_lettered == Some(1) && status.redelivered == Some(0);
                (done && status.last_dead_letter.is_some()).then_some(())
            })
            .await?;
        let told = test.ns.event("DeadLettered").await?;
        ensure!(told.contains("1 in all") && told.contains("not acknowledged in 2 tries"), "{told}");
        place.note_again("s", sequence).await?;
        place.no_notes_are_left().await?;
        assert_eq!(place.letters(1).await?.len(), 1, "a second note about the same event stores nothing");
        assert_eq!(place.left_in_topic().await?, 1, "a Topic with retention Limits keeps its events for others");
        drop(refuser);
        let metrics = test.stack.operator.admin("/metrics").await?;
        ensure!(metrics.contains("eventmesh_operator_dead_letters_total{result=\"moved\"}"), "{metrics}");
        Ok(())
    })
}

#[test]
fn what_the_consumer_terminates_is_a_dead_letter_at_once() -> Result<()> {
    shared("dead-term", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-term", "").await?;
        place.subscribe("s", "  maxDeliver: 100\n").await?;
        test.broker.publish("dead-term.a", "poison").await?;
        let (stream, consumer) = place.consumer("s");
        let event = test.broker.fetch(&stream, &consumer).await?;
        let reply = event.reply.context("a reply subject")?;
        test.broker.client.request(reply, "+TERM no such account".into()).await?;
        let letters = place.letters(1).await?;
        assert_eq!(letters[0].payload, "poison");
        assert_eq!(header(&letters[0], "Em-Dead-Cause"), "terminated by the consumer: no such account");
        assert_eq!(header(&letters[0], "Em-Dead-Tries"), "1");
        Ok(())
    })
}

#[test]
fn what_was_terminated_in_a_work_queue_is_gone_and_it_is_said() -> Result<()> {
    shared("dead-gone", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-gone", "  retention: {policy: WorkQueue}").await?;
        place.subscribe("s", "  maxDeliver: 100\n").await?;
        test.broker.publish("dead-gone.a", "poison").await?;
        let (stream, consumer) = place.consumer("s");
        let event = test.broker.fetch(&stream, &consumer).await?;
        test.broker.client.request(event.reply.context("a reply subject")?, "+TERM".into()).await?;
        let told = test.ns.event("DeadLetterGone").await?;
        ensure!(told.contains(": 1; the last: terminated by the consumer"), "{told}");
        ensure!(test.broker.stored(&place.stream(&place.dead)).await?.is_empty(), "there was nothing to store");
        Ok(())
    })
}

#[test]
fn a_work_queue_is_emptied_of_what_nobody_accepts() -> Result<()> {
    shared("dead-queue", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-queue", "  retention: {policy: WorkQueue}").await?;
        place.subscribe("s", "  maxDeliver: 1\n  ackWait: 100ms\n").await?;
        for number in 0..50 {
            test.broker.publish("dead-queue.a", format!("event {number}")).await?;
        }
        let _refuser = place.nobody_accepts("s");
        assert_eq!(counted(&place.letters(50).await?), once_each(50));
        place.topic_is_emptied().await
    })
}

#[test]
fn an_event_that_others_still_want_stays_for_them() -> Result<()> {
    shared("dead-interest", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-interest", "  retention: {policy: Interest}").await?;
        place.subscribe("gives-up", IMPATIENT).await?;
        place.subscribe("slow", "  maxDeliver: 100\n").await?;
        test.broker.publish("dead-interest.a", "event 0").await?;
        let _refuser = place.nobody_accepts("gives-up");
        assert_eq!(counted(&place.letters(1).await?), once_each(1));
        place.no_notes_are_left().await?;
        assert_eq!(place.left_in_topic().await?, 1, "the other has not read it");
        let (stream, consumer) = place.consumer("slow");
        let event = test.broker.fetch(&stream, &consumer).await?;
        assert_eq!(event.payload, "event 0");
        test.broker.client.request(event.reply.context("a reply subject")?, "+ACK".into()).await?;
        place.topic_is_emptied().await
    })
}

#[test]
fn an_event_with_no_room_for_the_reason_is_kept_in_parts() -> Result<()> {
    shared("dead-large", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-large", "").await?;
        place.subscribe("s", "  maxDeliver: 1\n  ackWait: 100ms\n").await?;
        let payload: Vec<u8> = (0..1_048_570_usize).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect();
        test.broker.publish("dead-large.a", payload.clone()).await?;
        let _refuser = place.nobody_accepts("s");
        let letters = place.letters(2).await?;
        let joined: Vec<u8> = letters.iter().flat_map(|letter| letter.payload.to_vec()).collect();
        ensure!(joined == payload, "{} bytes of {}", joined.len(), payload.len());
        let parts: Vec<&str> = letters.iter().map(|letter| header(letter, "Em-Part")).collect();
        assert_eq!(parts, ["1/2", "2/2"]);
        Ok(())
    })
}

#[test]
fn a_full_dead_letter_topic_holds_letters_back_and_loses_none() -> Result<()> {
    shared("dead-full", async |test| {
        let place = Place::make(test.ns, &test.broker, "dead-full", "  retention: {policy: WorkQueue}").await?;
        let small =
            |most: u32| Test::topic(&place.dead, &format!("  retention: {{maxMessages: {most}, discard: New}}"));
        test.ns.apply(&small(2)).await?;
        test.ns.ready::<Topic>(&place.dead).await?;
        place.subscribe("s", "  maxDeliver: 1\n  ackWait: 100ms\n").await?;
        for number in 0..5 {
            test.broker.publish("dead-full.a", format!("event {number}")).await?;
        }
        let _refuser = place.nobody_accepts("s");
        let waits = test.ns.condition::<Subscription>("s", "Programmed", "False", "DeadLettersWait").await?;
        ensure!(waits.message.contains("maximum messages exceeded"), "{}", waits.message);
        assert_eq!(place.letters(2).await?.len(), 2);
        assert_eq!(place.left_in_topic().await?, 3, "what could not be stored stays where it is");
        test.ns.apply(&small(100)).await?;
        assert_eq!(counted(&place.letters(5).await?), once_each(5));
        test.ns.ready::<Subscription>("s").await?;
        place.topic_is_emptied().await
    })
}

#[test]
fn letters_wait_for_a_dead_letter_topic_that_is_missing() -> Result<()> {
    shared("dead-missing", async |test| {
        let name = "dead-missing";
        test.ns.apply(&Test::topic(name, "")).await?;
        test.ns.ready::<Topic>(name).await?;
        let spec = format!("  topic: {{name: {name}}}\n  deadLetter: {{topic: {name}-dead}}\n{IMPATIENT}");
        test.ns.apply(&object("Subscription", "s", &spec)).await?;
        let missing = test.ns.condition::<Subscription>("s", "ResolvedRefs", "False", "TopicNotFound").await?;
        ensure!(missing.message.contains("dead-missing-dead"), "{}", missing.message);
        let dead = Test::topic(&format!("{name}-dead"), "  deletionPolicy: Delete");
        test.ns.apply(&dead).await?;
        test.ns.ready::<Subscription>("s").await?;

        // It goes while events are given up.
        test.ns.delete_and_wait::<Topic>(&format!("{name}-dead")).await?;
        test.ns.condition::<Subscription>("s", "ResolvedRefs", "False", "TopicNotFound").await?;
        let place =
            Place { ns: test.ns, broker: test.broker.clone(), topic: name.into(), dead: format!("{name}-dead") };
        test.broker.publish("dead-missing.a", "event 0").await?;
        let _refuser = place.nobody_accepts("s");
        place.given_up("s", 1).await?;
        eventually("a try that fails", SOON, async || {
            let metrics = test.stack.operator.admin("/metrics").await.map_err(|error| error.to_string())?;
            Ok(metrics.contains("dead_letters_total{result=\"failed\"}").then_some(()))
        })
        .await?;
        test.ns.apply(&dead).await?;
        assert_eq!(counted(&place.letters(1).await?), once_each(1));
        test.ns.ready::<Subscription>("s").await.map(drop)
    })
}

#[test]
fn places_that_cannot_work_are_refused() -> Result<()> {
    shared("dead-refused", async |test| {
        for name in ["dead-a", "dead-b"] {
            test.ns.apply(&Test::topic(name, "")).await?;
            test.ns.ready::<Topic>(name).await?;
        }
        let subscription = |name: &str, from: &str, dead: &str, more: &str| {
            let spec = format!("  topic: {{name: {from}}}\n  deadLetter: {{topic: {dead}}}\n{more}");
            object("Subscription", name, &spec)
        };
        let refused = test.ns.refused(&subscription("unlimited", "dead-a", "dead-b", "")).await?;
        ensure!(refused.contains("deadLetter needs maxDeliver"), "{refused}");

        test.ns.apply(&subscription("own", "dead-a", "dead-a", IMPATIENT)).await?;
        let own = test.ns.condition::<Subscription>("own", "Accepted", "False", "DeadLetterLoop").await?;
        ensure!(own.message.contains("dead-a"), "{}", own.message);

        let elsewhere = "  mesh: {name: another, namespace: platform}\n";
        test.ns.apply(&object("Topic", "dead-elsewhere", elsewhere)).await?;
        test.ns.apply(&subscription("elsewhere", "dead-a", "dead-elsewhere", IMPATIENT)).await?;
        let other = test.ns.condition::<Subscription>("elsewhere", "ResolvedRefs", "False", "TopicOfOtherMesh").await?;
        ensure!(other.message.contains("platform/another"), "{}", other.message);

        // Of a circle the younger is refused, until the older goes another way.
        test.ns.apply(&subscription("there", "dead-a", "dead-b", IMPATIENT)).await?;
        let there = test.ns.ready::<Subscription>("there").await?;
        let second = there.metadata.creation_timestamp.context("a creation time")?;
        eventually("the next second: ages are told in seconds", SOON, async || {
            Ok((k8s_openapi::jiff::Timestamp::now().as_second() > second.0.as_second()).then_some(()))
        })
        .await?;
        test.ns.apply(&subscription("back", "dead-b", "dead-a", IMPATIENT)).await?;
        let back = test.ns.condition::<Subscription>("back", "Accepted", "False", "DeadLetterLoop").await?;
        ensure!(back.message.contains("dead-a -> ") && back.message.contains("dead-b;"), "{}", back.message);
        test.ns.ready::<Subscription>("there").await?;
        test.ns.delete_and_wait::<Subscription>("there").await?;
        test.ns.ready::<Subscription>("back").await.map(drop)
    })
}

#[test]
fn a_consumer_whose_dead_letters_are_nobodys_costs_no_notes() -> Result<()> {
    shared("dead-none", async |test| {
        // The stream of notes is there because of this one.
        let place = Place::make(test.ns, &test.broker, "dead-none", "").await?;
        place.subscribe("with", IMPATIENT).await?;
        let spec = format!("  topic: {{name: dead-none}}\n{IMPATIENT}");
        test.ns.apply(&object("Subscription", "without", &spec)).await?;
        test.ns.ready::<Subscription>("without").await?;
        test.broker.publish("dead-none.a", json!({}).to_string()).await?;
        let _refusers = (place.nobody_accepts("with"), place.nobody_accepts("without"));
        place.letters(1).await?;
        place.no_notes_are_left().await?;
        assert_eq!(place.letters(1).await?.len(), 1);
        let without = test.ns.get::<Subscription>("without").await?;
        assert_eq!(without.status.context("a status")?.dead_lettered, None);
        Ok(())
    })
}

#[test]
fn the_example_does_what_it_says() -> Result<()> {
    alone("dead-example", async |stack, _| {
        let folder = eventmesh_tests::paths::repository().join("examples/dead-letters").display().to_string();
        stack.api.kubectl(&["apply", "--validate=strict", "-k", &folder]).await?;
        let ns = stack.kube.namespace("billing");
        ns.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}").await?;
        stack.start_broker(&ns, "bills").await?;
        ns.ready::<Subscription>("printer").await?;
        ns.ready::<Subscription>("letters").await?;
        let broker = stack.broker(&ns, "bills").await?;
        let place = Place { ns: &ns, broker: broker.clone(), topic: "invoices".into(), dead: "invoices-dead".into() };
        broker.publish("invoices.new", "event 0").await?;
        let _refuser = place.nobody_accepts("printer");
        let letters = place.letters(1).await?;
        assert_eq!(header(&letters[0], "Em-Dead-Tries"), "3");
        place.topic_is_emptied().await?;
        let (stream, consumer) = (place.stream(&place.dead), "sub_billing_letters");
        assert_eq!(broker.fetch(&stream, consumer).await?.payload, "event 0");
        Ok(())
    })
}
