//! Copies over links: what crosses for them, and what does not.

use async_nats::HeaderMap;
use eventmesh_tests::process::nats::api;
use eventmesh_wire::{
    copy::{HEADER_PLACE, event_subject, heard_subject, last_subject, told_subject},
    subject::Pattern,
};

use super::{super::copy::Held, *};

const SOURCE: &str = "plant_orders";
const COPY: &str = "office_copy";

fn sent() -> Carried {
    Carried { copies_out: [SOURCE.to_owned()].into(), ..Carried::default() }
}

fn kept() -> Carried {
    let subjects: Vec<Pattern> = patterns(&["orders.>"]);
    let topic = ("office".to_owned(), "copy".to_owned());
    Carried { copies_in: vec![Held { source: SOURCE.to_owned(), topic, subjects }], ..Carried::default() }
}

async fn linked(brokers: (usize, usize), a_dials: bool, evil: bool) -> Result<(Mesh, Mesh)> {
    let mut a = Mesh::new("a", brokers.0)?.link("b", sent());
    let mut b = Mesh::new("b", brokers.1)?.link("a", kept());
    a.sender = Some((Signed::new(), "b", SOURCE));
    a.evil = evil.then(KeyPair::new_account);
    if a_dials {
        b.start(&[]).await?;
        a.start(&[("b", &b, "a")]).await?;
        a.linked(brokers.0).await?;
    } else {
        a.start(&[]).await?;
        b.start(&[("a", &a, "b")]).await?;
        b.linked(brokers.1).await?;
    }
    Ok((a, b))
}

async fn streams(b: &Mesh, replicas: usize) -> Result<Client> {
    let client = b.store(0).await?;
    for (name, subjects) in [(COPY, "orders.>"), ("office_secret", "secret.>")] {
        let more = json!({"num_replicas": replicas, "allow_direct": true});
        eventually("the stream", SOON, async || {
            create_stream(&client, name, &[subjects], &more).await.map(Some).map_err(|error| error.to_string())
        })
        .await?;
    }
    Ok(client)
}

/// Asks for the last event of the copy; its number, where there is one.
async fn last(sender: &Client) -> Result<Option<u64>> {
    let answer = eventually("an answer", SOON, async || {
        let asked = sender.request(last_subject(SOURCE), r#"{"last_by_subj":">"}"#.into()).await;
        asked.map(Some).map_err(|error| error.to_string())
    });
    let answer = answer.await?;
    let headers = answer.headers.unwrap_or_default();
    Ok(headers.get("Nats-Sequence").and_then(|number| number.as_str().parse().ok()))
}

fn expecting(number: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Sequence", number.to_string());
    headers.insert(HEADER_PLACE, format!("{SOURCE}/t/{}", number + 1));
    headers
}

async fn copied(brokers: (usize, usize), a_dials: bool) -> Result<()> {
    let (a, b) = linked(brokers, a_dials, false).await?;
    let target = streams(&b, brokers.1).await?;
    let mut heard = target.subscribe(heard_subject("*")).await?;
    target.flush().await?;
    let sender = a.client_of(&a.sender.as_ref().context("a sender")?.0, brokers.0 - 1).await?;
    ensure!(last(&sender).await.with_context(|| format!("{}{}", a.logs(), b.logs()))?.is_none());
    // Many on their way at once: each is stored in its place, or refused.
    let inbox = sender.new_inbox();
    let mut answers = sender.subscribe(format!("{inbox}.*")).await?;
    for number in 0..200_u64 {
        let (subject, reply) = (event_subject(SOURCE, "orders.x"), format!("{inbox}.{}", number + 1));
        let payload = number.to_string().into();
        sender.publish_with_reply_and_headers(subject, reply, expecting(number), payload).await?;
    }
    for _ in 0..200 {
        let answer = tokio::time::timeout(SOON, answers.next()).await?.context("an answer")?;
        let told: Value = serde_json::from_slice(&answer.payload)?;
        let wanted = answer.subject.rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        ensure!(told["seq"].as_u64() == wanted, "{wanted:?}: {told}");
    }
    let again = sender.request_with_headers(event_subject(SOURCE, "orders.x"), expecting(199), "again".into()).await?;
    let again: Value = serde_json::from_slice(&again.payload)?;
    ensure!(again["error"]["err_code"] == json!(10_071), "{again}");
    ensure!(stored(&target, COPY).await? == 200);
    let numbers: Vec<String> = messages(&target, COPY)
        .await?
        .iter()
        .map(|event| String::from_utf8_lossy(&event.payload).into_owned())
        .collect();
    ensure!(numbers == (0..200).map(|number| number.to_string()).collect::<Vec<_>>(), "{numbers:?}");
    eventually("the last number", SOON, async || match last(&sender).await {
        Ok(Some(200)) => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await?;
    sender.publish(told_subject(SOURCE), "behind".into()).await?;
    let told = tokio::time::timeout(SOON, heard.next()).await?.context("a word")?;
    ensure!(told.subject.as_str() == heard_subject(COPY) && told.payload == "behind", "{told:?}");
    Ok(())
}

#[test]
fn a_copy_is_written_in_its_order_whoever_dials() {
    run(async {
        for (brokers, a_dials) in [((1, 1), true), ((1, 1), false), ((3, 3), true), ((3, 3), false)] {
            Box::pin(copied(brokers, a_dials)).await.with_context(|| format!("{brokers:?}, a dials: {a_dials}"))?;
        }
        Ok(())
    });
}

/// Brokers that do what they like reach the copy, and nothing else.
async fn attacked(evil_dials: bool) -> Result<()> {
    let (a, b) = linked((1, 1), evil_dials, true).await?;
    let store = streams(&b, 1).await?;
    let mut events = store.subscribe(">").await?;
    publish(&store, "secret.x", 0..1).await?;
    let client = a.evil("b").await?;
    let closed = [
        "orders.x",
        "secret.x",
        "$EM.copy.plant_other.orders.x",
        "$EM.copy.plant_orders.secret.x",
        "$EM.copied.office_copy",
        "$EM.copied.office_other",
        "$EM.report.a.b.c",
        "$EM.last.office_secret",
        "$JS.API.STREAM.DELETE.office_secret",
        "$JS.API.STREAM.DELETE.office_copy",
        "$JS.API.CONSUMER.DURABLE.CREATE.office_copy.theirs",
        "$JS.API.DIRECT.GET.office_secret",
        "$JS.ACK.office_copy.theirs.1.1.1.1.0",
    ];
    for subject in closed {
        client.publish_with_reply(subject, "$JS.API.STREAM.PURGE.office_secret", "{}".into()).await?;
        client.flush().await?;
    }
    // What it may do it may not use for more: answers go back to it, and to no stream of this side.
    for reply in ["$JS.API.STREAM.DELETE.office_secret", "$JS.API.STREAM.PURGE.office_copy", "secret.y"] {
        let wanted = r#"{"last_by_subj":">"}"#;
        client.publish_with_reply(last_subject(SOURCE), reply.to_owned(), wanted.into()).await?;
        client.publish_with_reply(event_subject(SOURCE, "orders.x"), reply.to_owned(), "{}".into()).await?;
        client.publish_with_reply(told_subject(SOURCE), reply.to_owned(), "{}".into()).await?;
    }
    eventually("the last event", SOON, async || {
        client.publish(event_subject(SOURCE, "orders.last"), "x".into()).await.map_err(|error| error.to_string())?;
        let all = messages(&store, COPY).await.map_err(|error| error.to_string())?;
        if all.iter().any(|one| one.subject.as_str() == "orders.last") {
            Ok(Some(()))
        } else {
            Err("not yet".to_owned())
        }
    })
    .await?;
    publish(&store, "secret.z", 0..1).await?;
    ensure!(messages(&store, "office_secret").await?.len() == 2, "the secret stream was touched");
    let consumers = api(&store, &format!("CONSUMER.NAMES.{COPY}"), &json!({})).await?;
    ensure!(
        consumers["total"].as_u64().unwrap_or_default() == 0 || consumers["consumers"][0] != json!("theirs"),
        "{consumers}"
    );
    let mut told = 0;
    loop {
        let next = tokio::time::timeout(SOON, events.next()).await.context("no end")?.context("an event")?;
        match next.subject.as_str() {
            "secret.z" => break,
            subject if subject == heard_subject(COPY) => told += 1,
            subject => ensure!(
                ["orders.", "secret.x", "$JS.", "_INBOX", "_R_"].iter().any(|own| subject.starts_with(own)),
                "heard {next:?}"
            ),
        }
    }
    ensure!(told == 3, "{told} words were heard");
    Ok(())
}

#[test]
fn a_far_side_that_means_no_good_reaches_the_copy_only() {
    run(async {
        for evil_dials in [true, false] {
            Box::pin(attacked(evil_dials)).await.with_context(|| format!("evil dials: {evil_dials}"))?;
        }
        Ok(())
    });
}
