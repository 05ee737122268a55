//! Two pods of one bridge, of which one at a time carries events: who takes over when, and that the other one stays out.
//!
//! Each pod maps to subjects and topics of its own, so that each event tells who carried it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{LIMIT, Outside, World, complete};
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{api, create_lease_stream, create_stream, messages};
use eventmesh_tests::process::{Bridge, Nats};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::RouteState;
use serde_json::{Value, json};

async fn world() -> World {
    let world = World::new().await;
    create_lease_stream(&world.client, 1).await.unwrap();
    world
}

/// The configuration of a pod: events in go to `in.<level>.<pod>`, events out to `set/<token>/<pod>`. A machine that stands still for
/// a few seconds does not cost the active pod its lease.
fn config(world: &World, pod: &str) -> Value {
    let mut config = world.config("V5");
    config["lease"] = json!({"ttlMs": 6000});
    config["inbound"][0]["to"] = json!(format!("in.{{1}}.{pod}"));
    config["outbound"][0]["to"] = json!(format!("set/{{1}}/{pod}"));
    config
}

fn start(world: &World, pod: &str) -> Bridge {
    let program = Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge"));
    Bridge::start_pod(program, scratch(&format!("bridge-{pod}")).unwrap(), &config(world, pod), pod).unwrap()
}

async fn is(bridge: &Bridge, state: RouteState) {
    for route in ["in", "out"] {
        bridge.route(route, &format!("{} route", state.label()), |route| route.state == state).await.unwrap();
    }
}

async fn ready(bridge: &Bridge) {
    eventually("ready pod", LIMIT, async || {
        let (status, body) = bridge.get("/readyz").await.map_err(|error| error.to_string())?;
        if status == 200 { Ok(Some(())) } else { Err(body) }
    })
    .await
    .unwrap();
}

/// The marks of the pods that brought the events of stream `IN`, in the order of the stream.
async fn carriers(world: &World) -> Vec<String> {
    marks(&world.messages("IN").await)
}

fn marks(messages: &[async_nats::jetstream::Message]) -> Vec<String> {
    messages.iter().map(|message| message.subject.rsplit('.').next().unwrap().to_owned()).collect()
}

/// How often the active pod was another than for the event before.
fn changes(carriers: &[String]) -> usize {
    carriers.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Once the other pod has carried an event, this one never does again.
fn handed_over_once(carriers: &[String], from: &str, to: &str) {
    let first = carriers.iter().position(|pod| pod == to).expect("the other pod carried something");
    let late = carriers[first..].iter().filter(|pod| *pod == from).count();
    assert_eq!(late, 0, "{from} carried {late} event(s) after {to} had begun: {carriers:?}");
}

async fn carries(world: &World, pod: &str) {
    eventually("event of the other pod", LIMIT, async || {
        Ok(carriers(world).await.iter().any(|carrier| carrier == pod).then_some(()))
    })
    .await
    .unwrap();
}

/// Publishes until it is told to stop, each event acknowledged by the MQTT broker; gives how many.
fn publishing(port: u16) -> (tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<usize>) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut sender = Outside::connect(port, "sender", "none").await;
        let mut count = 0;
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while stopped.try_recv().is_err() {
            tick.tick().await;
            sender.publish("line/7/t", "i", count..count + 1).await;
            count += 1;
        }
        count
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_pod() {
    let world = world().await;
    let a = start(&world, "a");
    is(&a, RouteState::Running).await;
    let b = start(&world, "b");
    is(&b, RouteState::Standby).await;
    ready(&a).await;
    ready(&b).await;
    eventually("word about the active pod", LIMIT, async || {
        let lease = b.report().await.map_err(|error| error.to_string())?.lease.ok_or("no lease")?;
        Ok((!lease.active && lease.holder.as_deref() == Some("a")).then_some(()))
    })
    .await
    .unwrap();
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let (stop, publishing) = publishing(world.mosquitto.port);
    world.publish_mesh("o", 0..200).await;
    carries(&world, "a").await;
    a.child.kill().unwrap();
    let killed = Instant::now();
    carries(&world, "b").await;
    println!("the standby carried its first event {:.2} s after the kill", killed.elapsed().as_secs_f64());
    world.publish_mesh("o", 200..400).await;
    is(&b, RouteState::Running).await;
    stop.send(()).unwrap();
    let count = publishing.await.unwrap();
    world.holds_all("IN", "i", count).await;
    outside.receives_all("o", 400).await;
    println!("nothing was missing {:.2} s after the kill", killed.elapsed().as_secs_f64());
    handed_over_once(&carriers(&world).await, "a", "b");
    for name in ["in", "out"] {
        complete(&b.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_hands_over_at_once() {
    let world = world().await;
    let a = start(&world, "a");
    is(&a, RouteState::Running).await;
    let b = start(&world, "b");
    is(&b, RouteState::Standby).await;
    let (stop, publishing) = publishing(world.mosquitto.port);
    carries(&world, "a").await;
    a.child.terminate().unwrap();
    a.ended().await.unwrap();
    let ended = Instant::now();
    carries(&world, "b").await;
    println!("the standby carried its first event {:.2} s after the other's end", ended.elapsed().as_secs_f64());
    stop.send(()).unwrap();
    let count = publishing.await.unwrap();
    assert_eq!(world.holds_all("IN", "i", count).await, 0, "a hand-over brings nothing twice");
    handed_over_once(&carriers(&world).await, "a", "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_stopped_carries_nothing_when_it_goes_on() {
    let world = world().await;
    let a = start(&world, "a");
    is(&a, RouteState::Running).await;
    let b = start(&world, "b");
    is(&b, RouteState::Standby).await;
    let mut sender = Outside::connect(world.mosquitto.port, "sender", "none").await;
    sender.publish("line/7/t", "i", 0..50).await;
    world.holds_all("IN", "i", 50).await;
    a.route("in", "settled route", |route| route.counters.in_flight == 0).await.unwrap();
    a.child.pause().unwrap();
    // The MQTT broker sends these to the pod that is stopped: they wait in its socket until it goes on.
    sender.publish("line/7/t", "i", 50..60).await;
    is(&b, RouteState::Running).await;
    sender.publish("line/7/t", "i", 60..100).await;
    carries(&world, "b").await;
    a.child.go_on().unwrap();
    is(&a, RouteState::Standby).await;
    sender.publish("line/7/t", "i", 100..150).await;
    world.holds_all("IN", "i", 150).await;
    let carriers = carriers(&world).await;
    handed_over_once(&carriers, "a", "b");
    assert_eq!(carriers.iter().filter(|pod| *pod == "a").count(), 50);
    let route = a.route("in", "settled route", |route| route.counters.in_flight == 0).await.unwrap();
    assert!(route.counters.delivered <= 50, "{route:?}");
    complete(&route);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_s_restart_leaves_one_active_pod() {
    let mut world = world().await;
    let a = start(&world, "a");
    is(&a, RouteState::Running).await;
    let b = start(&world, "b");
    is(&b, RouteState::Standby).await;
    let mut sender = Outside::connect(world.mosquitto.port, "sender", "none").await;
    for round in 0..3 {
        world.nats.kill().unwrap();
        world.mesh_comes_back().await;
        sender.publish("line/7/t", "i", round * 100..round * 100 + 100).await;
        world.holds_all("IN", "i", round * 100 + 100).await;
    }
    let active = eventually("one active pod", LIMIT, async || {
        let (a, b) = (a.report().await.map_err(|e| e.to_string())?, b.report().await.map_err(|e| e.to_string())?);
        let is_active = |report: eventmesh_wire::report::Report| report.lease.is_some_and(|lease| lease.active);
        Ok([("a", is_active(a)), ("b", is_active(b))].iter().filter(|(_, active)| *active).count().eq(&1).then_some(()))
    });
    active.await.unwrap();
    let carriers = carriers(&world).await;
    let changes = changes(&carriers);
    println!("the active pod changed {changes} time(s) in three restarts of the broker");
    // Never in turns: each change is one pod's last event before another's first.
    assert!(changes <= 3, "{carriers:?}");
}

/// Waits until all three copies of each of these streams are up to date.
async fn up_to_date(client: &async_nats::Client, streams: &[&str]) {
    eventually("copies that are up to date", LIMIT, async || {
        for stream in streams {
            let info = api(client, &format!("STREAM.INFO.{stream}"), &json!({})).await;
            let cluster = info.map_err(|error| error.to_string())?["cluster"].take();
            let copies = cluster["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
            if copies.len() != 2 || copies.iter().any(|copy| copy["current"] != true) {
                return Err(format!("{stream}: {cluster}"));
            }
        }
        Ok(Some(()))
    })
    .await
    .unwrap();
}

/// Waits until so many events are in the stream `IN3`, and gives what is there.
async fn all_stored(
    client: &async_nats::Client,
    count: usize,
    pods: [&Bridge; 2],
) -> Vec<async_nats::jetstream::Message> {
    eventually("all events stored", LIMIT, async || {
        let messages = messages(client, "IN3").await.map_err(|error| error.to_string())?;
        let found: BTreeSet<&[u8]> = messages.iter().map(|message| &message.payload[..]).collect();
        let missing = (0..count).filter(|number| !found.contains(format!("i{number}").as_bytes())).count();
        if missing == 0 {
            return Ok(Some(messages));
        }
        let [a, b] = pods;
        Err(format!("{missing} of {count} missing: {:?} {:?}", a.report().await, b.report().await))
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaderless_lease_rests_the_active_pod_and_wakes_no_second() {
    let world = World::new().await;
    let folders = [scratch("nats-0").unwrap(), scratch("nats-1").unwrap(), scratch("nats-2").unwrap()];
    let mut brokers = Nats::cluster(folders, &world.accounts).await.unwrap();
    let client = brokers[0].client().await.unwrap();
    eventually("streams in the cluster", LIMIT, async || {
        let created = create_stream(&client, "IN3", &["in3.>"], &json!({"num_replicas": 3})).await;
        created.map_err(|error| error.to_string())?;
        create_lease_stream(&client, 3).await.map(Some).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let start = |pod: &str| {
        let mut config = config(&world, pod);
        config["mesh"]["servers"] = brokers.iter().map(Nats::url).collect();
        (config["inbound"][0]["stream"], config["outbound"]) = (json!("IN3"), json!([]));
        config["inbound"][0]["to"] = json!(format!("in3.{{1}}.{pod}"));
        let program = Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge"));
        Bridge::start_pod(program, scratch(&format!("bridge-{pod}")).unwrap(), &config, pod).unwrap()
    };
    let a = start("a");
    a.route("in", "active pod", |route| route.state == RouteState::Running).await.unwrap();
    let b = start("b");
    b.route("in", "standby", |route| route.state == RouteState::Standby).await.unwrap();
    let (stop, publishing) = publishing(world.mosquitto.port);
    for _ in 0..2 {
        let leader = eventually("a leader of the leases", LIMIT, async || {
            let living = brokers[0].client().await.map_err(|error| error.to_string())?;
            let info = api(&living, "STREAM.INFO.EM_leases", &json!({})).await.map_err(|error| error.to_string())?;
            let leader = info["cluster"]["leader"].as_str().unwrap_or_default();
            Ok(leader.strip_prefix("test-").and_then(|number| number.parse::<usize>().ok()))
        });
        let leader = leader.await.unwrap();
        let before = (a.report().await.unwrap(), b.report().await.unwrap());
        let delivered = before.0.routes[0].counters.delivered + before.1.routes[0].counters.delivered;
        brokers[leader].kill().unwrap();
        let killed = Instant::now();
        // Some of what comes after the kill is what was under way; a few hundred more are not.
        eventually("events after the kill", LIMIT, async || {
            let (a, b) = (a.report().await.map_err(|e| e.to_string())?, b.report().await.map_err(|e| e.to_string())?);
            let now = a.routes[0].counters.delivered + b.routes[0].counters.delivered;
            if now > delivered + 500 { Ok(Some(())) } else { Err(format!("{now} delivered")) }
        })
        .await
        .unwrap();
        println!("500 events more {:.2} s after the leader of the leases was killed", killed.elapsed().as_secs_f64());
        brokers[leader].start_again().await.unwrap();
        // Without it the second kill could take a majority of the copies that are up to date.
        up_to_date(&brokers[leader].client().await.unwrap(), &["IN3", "EM_leases"]).await;
    }
    stop.send(()).unwrap();
    let count = publishing.await.unwrap();
    let carriers = marks(&all_stored(&brokers[0].client().await.unwrap(), count, [&a, &b]).await);
    println!("the active pod changed {} time(s)", changes(&carriers));
    assert!(changes(&carriers) <= 2, "the pods carried in turns");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stream_of_leases_nobody_carries_and_it_is_said_why() {
    let world = World::new().await;
    let a = start(&world, "a");
    let b = start(&world, "b");
    for bridge in [&a, &b] {
        is(bridge, RouteState::Standby).await;
        eventually("word about the stream", LIMIT, async || {
            let report = bridge.report().await.map_err(|error| error.to_string())?;
            let problem = report.lease.and_then(|lease| lease.problem).unwrap_or_default();
            if problem.contains("no stream `EM_leases`") { Ok(Some(())) } else { Err(problem) }
        })
        .await
        .unwrap();
    }
    create_lease_stream(&world.client, 1).await.unwrap();
    let mut sender = Outside::connect(world.mosquitto.port, "sender", "none").await;
    eventually("an active pod", LIMIT, async || {
        let (a, b) = (a.report().await.map_err(|e| e.to_string())?, b.report().await.map_err(|e| e.to_string())?);
        Ok([a, b].iter().any(|report| report.connected.endpoint).then_some(()))
    })
    .await
    .unwrap();
    sender.publish("line/7/t", "i", 0..20).await;
    world.holds_all("IN", "i", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_writes_its_own_lease_only() {
    let world = world().await;
    let bridge = world.accounts.bridge().unwrap().connect(&world.nats).await.unwrap();
    let write = async |subject: &str, limit: Duration| {
        let request = async_nats::Request::new().payload("x".into()).timeout(Some(limit));
        bridge.send_request(subject.to_owned(), request).await.is_ok()
    };
    assert!(write("$EM.lease.shop.factory", LIMIT).await);
    for subject in [
        "$EM.lease.shop.other",
        "$EM.lease.bank.factory",
        "$JS.API.DIRECT.GET.EM_leases.$EM.lease.shop.other",
        "$JS.API.STREAM.PURGE.EM_leases",
    ] {
        assert!(!write(subject, Duration::from_secs(2)).await, "{subject}");
    }
    let info = api(&world.client, "STREAM.INFO.EM_leases", &json!({})).await.unwrap();
    assert_eq!(info["state"]["messages"], json!(1));
}
