//! What the application sees when the mesh is away, and when its credentials change or are worth nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use async_nats::{ConnectOptions, Event};
use eventmesh_tests::process::nats::stored;
use eventmesh_tests::wait::eventually;

use super::world::{LIMIT, World, broker, sidecar_json};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_back_by_itself_when_the_broker_does() {
    let mut world = World::new().await;
    let (lost, found) = <(Arc<AtomicU32>, Arc<AtomicU32>)>::default();
    let (losses, finds) = (Arc::clone(&lost), Arc::clone(&found));
    let options = ConnectOptions::new().event_callback(move |event| {
        match event {
            Event::Disconnected => drop(losses.fetch_add(1, SeqCst)),
            Event::Connected => drop(finds.fetch_add(1, SeqCst)),
            _ => {}
        }
        async {}
    });
    let client = options.connect(world.sidecar.url()).await.unwrap();
    let context = async_nats::jetstream::new(client.clone());
    context.publish("in.x", "before".into()).await.unwrap().await.unwrap();
    world.nats.kill().unwrap();
    world.sidecar.is(503, "the mesh is not connected").await.unwrap();
    eventually("a loss", LIMIT, async || Ok((lost.load(SeqCst) > 0).then_some(()))).await.unwrap();
    // Whoever connects now is sent away without a word, after a while.
    assert_eq!(world.raw().await.rest().await, "");
    world.nats.start_again().await.unwrap();
    world.sidecar.is(200, "ok").await.unwrap();
    eventually("a stored event", LIMIT, async || {
        let sent = context.publish("in.x", "after".into()).await.map_err(|error| error.to_string())?;
        sent.await.map(Some).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    eventually("word that the client itself has connected again", LIMIT, async || {
        Ok((found.load(SeqCst) >= 2).then_some(()))
    })
    .await
    .unwrap();
    assert!(
        world.sidecar.metric("eventmesh_sidecar_nats_connections_opened_total{result=\"unreachable\"}").await.unwrap()
            >= 1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_may_come_later_than_the_application() {
    let world = World::unbound("").await;
    world.sidecar.is(503, "has no `uri`").await.unwrap();
    assert_eq!(world.sidecar.admin("/livez").await.unwrap().status, 200);
    let waiting = ConnectOptions::new().retry_on_initial_connect().connect(world.sidecar.url()).await.unwrap();
    let answer = world.sidecar.http().unwrap().post("/publish/in.x", &[], b"x").await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(answer.body.contains("waiting for the credentials"), "{answer:?}");
    world.bind(&world.accounts.bridge().unwrap(), None);
    world.sidecar.is(200, "ok").await.unwrap();
    let context = async_nats::jetstream::new(waiting);
    context.publish("in.x", "x".into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_binding_does_not_replace_a_good_one() {
    let world = World::new().await;
    let good = world.accounts.bridge().unwrap();
    let other_key = world.accounts.bridge().unwrap().seed;
    let parts = [("uri", world.uri()), ("jwt", good.jwt.clone()), ("nkey", other_key)];
    // The last line may be about something else by now.
    let said = async |words: &'static str, times: usize| {
        eventually(words, LIMIT, async || {
            let log = world.sidecar.child.log_tail(usize::MAX);
            if log.matches(words).count() >= times { Ok(Some(())) } else { Err(log) }
        })
        .await
        .unwrap();
    };
    for (round, broken) in [&parts[..0], &parts[..2], &parts[..]].into_iter().enumerate() {
        world.sidecar.write(broken).unwrap();
        said("the last good one stays in use", round + 1).await;
        let context = async_nats::jetstream::new(world.application().await);
        context.publish("in.x", "x".into()).await.unwrap().await.unwrap();
        assert_eq!(world.sidecar.http().unwrap().post("/publish/in.x", &[], b"x").await.unwrap().status, 200);
        world.bind(&good, Some(&sidecar_json()));
        // The first is from the beginning.
        said("the binding is taken up", round + 2).await;
    }
    assert_eq!(stored(&world.mesh, "IN").await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_credentials_are_taken_up_before_the_old_ones_end() {
    let world = World::unbound("debug: true").await;
    let begun = Instant::now();
    world.bind(&world.accounts.bridge_for(20).unwrap(), None);
    world.sidecar.is(200, "ok").await.unwrap();
    let (busy, idle) = (world.application().await, world.application().await);
    let http = world.sidecar.http().unwrap();
    let context = async_nats::jetstream::new(busy);
    let mut renewed = false;
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(23) {
        // A connection that is exchanged takes an answer with it; the client sends again, and the event is stored once.
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", sent.to_string().as_str());
        let acknowledged = context.publish_with_headers("in.x", headers, "x".into()).await.unwrap().await;
        sent += u64::from(acknowledged.is_ok());
        let answer = http.post("/publish/in.h", &[], b"x").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        if !renewed && begun.elapsed() > Duration::from_secs(2) {
            world.bind(&world.accounts.bridge().unwrap(), None);
            renewed = true;
        }
    }
    idle.flush().await.unwrap();
    let log = world.nats.log();
    assert!(!log.contains("User Authentication Expired"), "nobody was there when the old token ended: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_never_hears_that_credentials_are_refused() {
    let world = World::unbound("").await;
    world.bind(&world.accounts.forged().unwrap(), None);
    world.sidecar.is(503, "refuses the credentials").await.unwrap();
    let mut client = world.raw().await;
    client.info().await;
    client.say("CONNECT {\"verbose\":false}\r\nPING\r\n").await;
    assert_eq!(client.rest().await, "", "libraries give up for good when they are refused twice");
    assert!(world.sidecar.child.log_tail(usize::MAX).contains("refuses the ServiceAccount's credentials"));
    world.bind(&world.accounts.bridge().unwrap(), None);
    world.sidecar.is(200, "ok").await.unwrap();
    world.application().await.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_of_an_unknown_authority_is_not_believed() {
    let world = World::unbound("").await;
    let mut login = world.accounts.bridge().unwrap();
    login.ca = Some(eventmesh_tests::process::Authority::new().unwrap().pem().to_owned());
    world.sidecar.bind(&world.uri(), &login, None).unwrap();
    assert_eq!(world.raw().await.rest().await, "");
    world.sidecar.is(503, "the mesh is not connected").await.unwrap();
    assert!(!world.nats.log().contains("CONNECT"), "it has not shown its credentials");
    world.bind(&login, None);
    world.sidecar.is(200, "ok").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_has_moved_is_followed() {
    let world = World::new().await;
    let client = world.application().await;
    client.flush().await.unwrap();
    let next = broker(&world.accounts, &world.authority, "").await;
    world.bind_to(&format!("tls://127.0.0.1:{}", next.port), &world.accounts.bridge().unwrap(), None);
    let mut other =
        world.accounts.bridge().unwrap().connect(&next).await.unwrap().subscribe("core.moved").await.unwrap();
    eventually("a message at the new broker", LIMIT, async || {
        client.publish("core.moved", "x".into()).await.map_err(|error| error.to_string())?;
        // Long enough for the connection to be quiet.
        let received = tokio::time::timeout(Duration::from_millis(500), futures::StreamExt::next(&mut other)).await;
        Ok(received.ok().flatten())
    })
    .await
    .unwrap();
    let answer = world.sidecar.http().unwrap().post("/publish/core.moved?wait=none", &[], b"h").await.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}
