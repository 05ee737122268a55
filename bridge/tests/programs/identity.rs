//! A bridge in an account of its own: what it does when its credentials are renewed, end or are revoked, and what crosses
//! accounts in a cluster.

use std::time::{Duration, Instant};

use crate::common::{LIMIT, Outside, World, complete, running, says, start};
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{api, create_consumer, create_stream};
use eventmesh_tests::process::{Bridge, Nats};
use eventmesh_tests::wait::eventually;
use eventmesh_wire::report::{RouteReport, RouteState};
use rstest::rstest;
use serde_json::{Value, json};

fn refused(route: &RouteReport) -> bool {
    route.state == RouteState::Failed && says(route, "refuses the credentials")
}

/// Gives the bridge credentials, and waits until it says that it runs with them.
async fn renew(bridge: &Bridge, config: &mut Value, credentials: Value) {
    config["mesh"]["credentials"] = credentials;
    let text = config.to_string();
    bridge.write_config(&text).unwrap();
    let hash = eventmesh_wire::config_hash(text.as_bytes());
    eventually("new configuration", LIMIT, async || {
        let report = bridge.report().await.map_err(|error| error.to_string())?;
        Ok((report.config_hash == hash).then_some(()))
    })
    .await
    .unwrap();
}

#[rstest]
#[case("Single")]
#[case("Atomic")]
#[case("Fast")]
#[tokio::test(flavor = "multi_thread")]
async fn renewed_credentials_are_taken_up_while_events_flow(#[case] ingest: &str) {
    let world = World::with("debug: true", "").await;
    let mut config = world.config("V5");
    config["inbound"][0]["ingest"] = json!(ingest);
    config["mesh"]["credentials"] = world.accounts.bridge_for(20).unwrap().as_config();
    let begun = Instant::now();
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let mut sender = Outside::connect(world.mosquitto.port, "sender", "none").await;
    let (mut inwards, mut outwards) = (0, 0);
    // Across four renewals, and past the end of the first token.
    let mut renewed = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    while begun.elapsed() < Duration::from_secs(23) {
        pace.tick().await;
        sender.publish("line/7/t", "i", inwards..inwards + 200).await;
        world.publish_mesh("o", outwards..outwards + 50).await;
        (inwards, outwards) = (inwards + 200, outwards + 50);
        if begun.elapsed() > Duration::from_millis(1_500) * (renewed + 1) && renewed < 4 {
            config["mesh"]["credentials"] = world.accounts.bridge().unwrap().as_config();
            bridge.write_config(&config.to_string()).unwrap();
            renewed += 1;
        }
    }
    renew(&bridge, &mut config, world.accounts.bridge().unwrap().as_config()).await;
    assert_eq!(world.holds_all("IN", "i", inwards).await, 0, "nothing is there twice");
    assert_eq!(outside.receives_all("o", outwards).await, 0, "nothing came twice");
    for name in ["in", "out"] {
        let route = bridge.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap();
        complete(&route);
        assert_eq!((route.restarts, route.retries), (0, 0), "{route:?}");
    }
    let log = world.nats.log();
    assert!(!log.contains("User Authentication Expired"), "it left before the old token ended: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_is_told_and_new_credentials_help() {
    let world = World::with("debug: true", "").await;
    let mut config = world.config("V5");
    config["mesh"]["credentials"] = world.accounts.bridge_for(12).unwrap().as_config();
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    let port = world.mosquitto.port;
    let publishing = tokio::spawn(async move {
        let mut sender = Outside::connect(port, "sender", "none").await;
        for hundred in 0..60 {
            sender.publish("line/7/t", "i", hundred * 100..hundred * 100 + 100).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    bridge.route("in", "word about the end", refused).await.unwrap();
    assert!(world.nats.log().contains("User Authentication Expired"), "the broker cut a connection in use");
    world.publish_mesh("o", 0..100).await;
    publishing.await.unwrap();
    renew(&bridge, &mut config, world.accounts.bridge().unwrap().as_config()).await;
    running(&bridge, &["in", "out"]).await;
    world.holds_all("IN", "i", 6_000).await;
    assert_eq!(outside.receives_all("o", 100).await, 0);
    for name in ["in", "out"] {
        let route = bridge.route(name, "settled route", |route| route.counters.in_flight == 0).await.unwrap();
        complete(&route);
        assert_eq!(route.restarts, 0, "{route:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_bridge_is_told_and_new_credentials_help() {
    let mut world = World::new().await;
    let mut config = world.config("V5");
    let bridge = start(&config);
    running(&bridge, &["in", "out"]).await;
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "set/#").await;
    world.accounts.revoke_bridge(&world.nats).await.unwrap();
    bridge.route("in", "word about the revocation", refused).await.unwrap();
    outside.publish("line/7/t", "i", 0..100).await;
    world.publish_mesh("o", 0..100).await;
    assert_eq!(world.stored("IN").await.len(), 0, "a revoked bridge brings nothing in");
    world.accounts.reinstate_bridge(&world.nats).await.unwrap();
    renew(&bridge, &mut config, world.accounts.bridge().unwrap().as_config()).await;
    running(&bridge, &["in", "out"]).await;
    assert_eq!(world.holds_all("IN", "i", 100).await, 0);
    assert_eq!(outside.receives_all("o", 100).await, 0);
}

/// What a bridge may not do must not get through, also where no broker checks it: as a reply subject.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_reaches_nothing_but_what_it_was_given() {
    let world = World::new().await;
    create_stream(&world.client, "SECRET", &["secret.>"], &json!({})).await.unwrap();
    let bridge = world.accounts.bridge().unwrap().connect(&world.nats).await.unwrap();
    bridge.publish_with_reply("in.a", "secret.a", "x".into()).await.unwrap();
    bridge.publish("secret.b", "x".into()).await.unwrap();
    bridge.publish_with_reply("$JS.API.STREAM.INFO.SECRET", "in.b", "".into()).await.unwrap();
    bridge.flush().await.unwrap();
    eventually("the allowed event", LIMIT, async || Ok((world.stored("IN").await.len() == 1).then_some(())))
        .await
        .unwrap();
    assert!(world.stored("SECRET").await.is_empty());
}

/// Three brokers with the streams `IN3` and `OUT3` (`in3.>`, `out3.>`), three copies each, and a world beside them.
struct Clustered {
    world: World,
    brokers: [Nats; 3],
    client: async_nats::Client,
}

impl Clustered {
    async fn new() -> Self {
        let world = World::new().await;
        let folders = ["nats-0", "nats-1", "nats-2"].map(|name| scratch(name).unwrap());
        let brokers = Nats::cluster(folders, &world.accounts).await.unwrap();
        let client = brokers[0].client().await.unwrap();
        let copies = json!({"num_replicas": 3});
        for (name, subjects) in [("IN3", "in3.>"), ("OUT3", "out3.>")] {
            eventually("a stream in the cluster", LIMIT, async || {
                let created = create_stream(&client, name, &[subjects], &copies).await;
                created.map(Some).map_err(|error| error.to_string())
            })
            .await
            .unwrap();
        }
        create_consumer(&client, "OUT3", "c", 30).await.unwrap();
        Self { world, brokers, client }
    }

    /// The brokers, the leader of the consumer last.
    async fn leader_last(&self) -> [usize; 3] {
        let leader = eventually("a leader", LIMIT, async || {
            let info =
                api(&self.client, "CONSUMER.INFO.OUT3.c", &json!({})).await.map_err(|error| error.to_string())?;
            let leader = info["cluster"]["leader"].as_str().unwrap_or_default();
            Ok(leader.strip_prefix("test-").and_then(|number| number.parse::<usize>().ok()))
        })
        .await
        .unwrap();
        [(leader + 1) % 3, (leader + 2) % 3, leader]
    }

    fn config(&self, ingest: &str, brokers: &[usize]) -> Value {
        let mut config = self.world.config("V5");
        config["mesh"]["servers"] = brokers.iter().map(|broker| self.brokers[*broker].url()).collect();
        config["inbound"][0]["to"] = json!("in3.{1}");
        config["inbound"][0]["stream"] = json!("IN3");
        config["inbound"][0]["ingest"] = json!(ingest);
        config["outbound"][0]["stream"] = json!("OUT3");
        config["outbound"][0]["subjects"] = json!(["out3.*"]);
        config
    }

    async fn publish(&self, numbers: std::ops::Range<usize>) {
        let context = async_nats::jetstream::new(self.client.clone());
        for number in numbers {
            // A stream whose leader is being chosen takes nothing.
            eventually("a stored event", LIMIT, async || {
                let sent = context.publish("out3.a", format!("o{number}").into()).await;
                let stored = async { sent?.await }.await;
                stored.map(Some).map_err(|error| error.to_string())
            })
            .await
            .unwrap();
        }
    }

    /// Waits until the consumer knows that so many events were handled; gives what it says.
    async fn acknowledged(&self, count: usize) -> Value {
        eventually("acknowledged events", LIMIT, async || {
            let info =
                api(&self.client, "CONSUMER.INFO.OUT3.c", &json!({})).await.map_err(|error| error.to_string())?;
            let floor = info["ack_floor"]["stream_seq"].as_u64().unwrap_or_default();
            if floor >= count as u64 { Ok(Some(info)) } else { Err(info.to_string()) }
        })
        .await
        .unwrap()
    }

    async fn stored(&self, count: usize) {
        eventually("stored events", LIMIT, async || {
            let info = api(&self.client, "STREAM.INFO.IN3", &json!({})).await.map_err(|error| error.to_string())?;
            let messages = info["state"]["messages"].as_u64().unwrap_or_default();
            if messages >= count as u64 { Ok(Some(())) } else { Err(format!("{messages} stored")) }
        })
        .await
        .unwrap();
    }
}

#[rstest]
#[case("Single")]
#[case("Atomic")]
#[case("Fast")]
#[tokio::test(flavor = "multi_thread")]
async fn events_cross_accounts_and_brokers_and_survive_the_loss_of_leaders(#[case] ingest: &str) {
    let mut clustered = Clustered::new().await;
    let [near, other, leader] = clustered.leader_last().await;
    // The bridge and the tests are each at a broker that stays, and the leader is another.
    clustered.client = clustered.brokers[other].client().await.unwrap();
    let bridge = start(&clustered.config(ingest, &[near]));
    running(&bridge, &["in", "out"]).await;
    let mut outside = Outside::connect(clustered.world.mosquitto.port, "outside", "set/#").await;
    let port = clustered.world.mosquitto.port;
    let publishing = tokio::spawn(async move {
        let mut sender = Outside::connect(port, "sender", "none").await;
        sender.publish("line/7/t", "i", 0..3_000).await;
    });
    clustered.publish(0..300).await;
    bridge.route("in", "events on their way", |route| route.counters.delivered > 200).await.unwrap();
    clustered.brokers[leader].kill().unwrap();
    publishing.await.unwrap();
    let delivered = |route: &RouteReport| route.counters.delivered == 3_000 && route.counters.in_flight == 0;
    complete(&bridge.route("in", "delivered events", delivered).await.unwrap());
    clustered.stored(3_000).await;
    clustered.brokers[leader].start_again().await.unwrap();
    // Now the broker that the bridge is at.
    clustered.brokers[near].kill().unwrap();
    clustered.leader_last().await;
    clustered.publish(300..400).await;
    outside.publish("line/7/t", "j", 0..100).await;
    clustered.stored(3_100).await;
    outside.receives_all("o", 400).await;
    clustered.brokers[near].start_again().await.unwrap();
}

/// Brokers do not notice across accounts that nobody listens any more, so a request must not outlive its bridge.
#[rstest]
#[case::ends(true)]
#[case::is_killed(false)]
#[tokio::test(flavor = "multi_thread")]
async fn no_event_goes_to_a_bridge_that_is_no_more(#[case] ends: bool) {
    let clustered = Clustered::new().await;
    let [near, ..] = clustered.leader_last().await;
    let mut bridge = start(&clustered.config("Atomic", &[near]));
    running(&bridge, &["out"]).await;
    let mut outside = Outside::connect(clustered.world.mosquitto.port, "outside", "set/#").await;
    clustered.publish(0..10).await;
    outside.receives_all("o", 10).await;
    // What the outside has, the consumer need not know yet.
    clustered.acknowledged(10).await;
    if ends {
        bridge.child.terminate().unwrap();
        bridge.ended().await.unwrap();
    } else {
        bridge.child.kill().unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    clustered.publish(10..200).await;
    bridge.start_again().unwrap();
    // One that went to the dead would be given again after its 30 s, and be counted twice.
    let info = clustered.acknowledged(200).await;
    assert_eq!(info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"], "{info}");
}
