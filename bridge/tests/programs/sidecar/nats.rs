//! What an unmodified client can do through the sidecar: all that it can do with a broker, as far as its ServiceAccount may.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::PullConsumer;
use eventmesh_tests::process::nats::{produce, stored};
use eventmesh_tests::wait::eventually;
use futures::StreamExt as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::world::{LIMIT, World, heard};

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_headers_go_both_ways() {
    let world = World::new().await;
    let (application, other) = (world.application().await, world.other().await);
    let mut inward = application.subscribe("core.in").await.unwrap();
    let mut outward = other.subscribe("core.out").await.unwrap();
    heard(&application).await;
    heard(&other).await;
    let mut headers = HeaderMap::new();
    headers.insert("shop", "7");
    for (from, subject, to) in [(&application, "core.out", &mut outward), (&other, "core.in", &mut inward)] {
        from.publish_with_headers(subject, headers.clone(), vec![7; 200_000].into()).await.unwrap();
        let message = tokio::time::timeout(LIMIT, to.next()).await.unwrap().unwrap();
        assert_eq!(message.payload.len(), 200_000);
        assert_eq!(message.headers.unwrap().get("shop").unwrap().as_str(), "7");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_and_a_queue_group_shares_them() {
    let world = World::new().await;
    let (application, other) = (world.application().await, world.other().await);
    let asked = std::sync::Arc::new([const { std::sync::atomic::AtomicU32::new(0) }; 2]);
    for (index, member) in [application.clone(), other.clone()].into_iter().enumerate() {
        let mut questions = member.queue_subscribe("core.ask", "group".to_owned()).await.unwrap();
        heard(&member).await;
        let asked = asked.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                asked[index].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let answer = [b"re:", question.payload.as_ref()].concat();
                member.publish(question.reply.unwrap(), answer.into()).await.unwrap();
            }
        });
    }
    let asking = world.application().await;
    for number in 0..100 {
        let answer = asking.request("core.ask", number.to_string().into()).await.unwrap();
        assert_eq!(answer.payload, format!("re:{number}"));
    }
    let counts = asked.each_ref().map(|count| count.load(std::sync::atomic::Ordering::SeqCst));
    assert!(counts[0] + counts[1] == 100 && counts[0] > 0 && counts[1] > 0, "{counts:?}");
    let nobody = asking.request("core.nobody", "".into()).await.unwrap_err();
    assert_eq!(nobody.kind(), async_nats::RequestErrorKind::NoResponders);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_pulled_and_acknowledged() {
    let world = World::new().await;
    let application = world.application().await;
    produce(&application, "in.x", "i", 0..2_000).await.unwrap();
    assert_eq!(stored(&world.mesh, "IN").await.unwrap(), 2_000);
    produce(&world.mesh, "out.x", "o", 0..2_000).await.unwrap();
    let context = async_nats::jetstream::new(application);
    let mut consumer: PullConsumer = context.get_consumer_from_stream("c", "OUT").await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    for number in 0..2_000 {
        let message = tokio::time::timeout(LIMIT, messages.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload, format!("o{number}"));
        message.double_ack().await.unwrap();
    }
    let info = consumer.info().await.unwrap();
    assert_eq!((info.num_pending, info.num_ack_pending), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greeting_asks_for_nothing_and_names_no_other_broker() {
    let world = World::new().await;
    let info = world.raw().await.info().await;
    for absent in ["auth_required", "tls_required", "tls_available", "nonce", "connect_urls", "client_ip"] {
        assert!(info.get(absent).is_none(), "{info}");
    }
    assert_eq!((&info["headers"], &info["max_payload"]), (&json!(true), &json!(1_048_576)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verbose_and_pedantic_client_is_answered_as_it_asks() {
    let world = World::new().await;
    let mut client = world.raw().await;
    client.info().await;
    client.say("CONNECT {\"verbose\":true,\"pedantic\":true,\"echo\":true,\"protocol\":1}\r\n").await;
    assert_eq!(client.line().await, "+OK");
    client.say("PING\r\n").await;
    assert_eq!(client.line().await, "PONG");
    client.say("SUB core.a 1\r\nPUB core.a 2\r\nhi\r\n").await;
    let mut lines = [client.line().await, client.line().await, client.line().await, client.line().await];
    lines.sort();
    assert_eq!(lines, ["+OK", "+OK", "MSG core.a 1 2", "hi"]);
    client.say("PUB core.* 0\r\n\r\n").await;
    let mut lines = [client.line().await, client.line().await];
    lines.sort();
    assert_eq!(lines, ["+OK", "-ERR 'Invalid Publish Subject'"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_nats_is_told_and_sent_away() {
    let world = World::new().await;
    let long = format!("CONNECT {{\"name\":\"{}\"}}\r\n", "x".repeat(10_000));
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
        ("PING\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
        ("CONNECT {\"verbose\":\r\n", "-ERR 'Parser Error'\r\n"),
        (&long, "-ERR 'Maximum Control Line Exceeded'\r\n"),
    ];
    for (said, answer) in cases {
        let mut client = world.raw().await;
        client.info().await;
        client.say(said).await;
        assert_eq!(client.rest().await, answer);
    }
    // It says for itself what is wrong with options.
    let mut client = world.raw().await;
    client.info().await;
    client.say("CONNECT {\"no_responders\":true,\"headers\":false}\r\n").await;
    assert_eq!(client.rest().await.to_lowercase(), "-err 'no responders requires headers support'\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_told_by_the_broker_and_the_connection_stands() {
    let world = World::new().await;
    let mut client = world.raw().await;
    client.info().await;
    client.say("CONNECT {\"verbose\":false}\r\nPUB secret.a 0\r\n\r\nSUB secret.b 1\r\nPING\r\n").await;
    assert_eq!(client.line().await, "-ERR 'Permissions Violation for Publish to \"secret.a\"'");
    assert_eq!(client.line().await, "-ERR 'Permissions Violation for Subscription to \"secret.b\"'");
    assert_eq!(client.line().await, "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_not_say_who_it_is() {
    let world = World::new().await;
    let mut client = world.raw().await;
    client.info().await;
    client
        .say("CONNECT {\"verbose\":false,\"user\":\"root\",\"pass\":\"x\",\"jwt\":\"x\",\"sig\":\"x\",\"nkey\":\"x\"}\r\nPING\r\n")
        .await;
    assert_eq!(client.line().await, "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_closing_is_stored() {
    let world = World::new().await;
    for round in 1..=3 {
        let mut client = world.raw().await;
        client.info().await;
        let event = format!("PUB in.x 1000\r\n{}\r\n", "e".repeat(1000));
        let text = format!("CONNECT {{\"verbose\":false}}\r\n{}", event.repeat(5_000));
        client.0.write_all(text.as_bytes()).await.unwrap();
        client.0.flush().await.unwrap();
        // It does not wait for anything.
        drop(client);
        eventually("all events", LIMIT, async || {
            let found = stored(&world.mesh, "IN").await.unwrap();
            if found == round * 5_000 { Ok(Some(())) } else { Err(format!("{found} stored")) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_connections_carry_at_once() {
    let world = World::new().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(world.application().await);
    }
    let work = clients.iter().enumerate().map(async |(number, client)| {
        produce(client, "in.x", &format!("{number}-"), 0..100).await.unwrap();
    });
    futures::future::join_all(work).await;
    assert_eq!(stored(&world.mesh, "IN").await.unwrap(), 10_000);
    assert!(world.sidecar.metric("eventmesh_sidecar_nats_connections").await.unwrap() >= 100.0);
    drop(clients);
    eventually("an end of all", LIMIT, async || {
        let left = world.sidecar.metric("eventmesh_sidecar_nats_connections").await.unwrap();
        if left == 0.0 { Ok(Some(())) } else { Err(format!("{left} left")) }
    })
    .await
    .unwrap();
}
