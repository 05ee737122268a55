//! Start and end of a sidecar, and what it tells of itself.

use std::collections::{BTreeMap, BTreeSet};

use eventmesh_tests::http::Collector;
use eventmesh_tests::paths::repository;
use eventmesh_tests::process::nats::stored;
use eventmesh_tests::wait::eventually;
use futures::StreamExt as _;

use super::world::{LIMIT, World, heard, sidecar_json_with_push};

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_requests_are_answered_and_what_was_written_has_arrived() {
    let world = World::new().await;
    let other = world.other().await;
    let mut questions = other.subscribe("core.slow").await.unwrap();
    heard(&other).await;
    let http = world.sidecar.http().unwrap();
    let asking = tokio::spawn(async move { http.post("/request/core.slow?timeout=20s", &[], b"q").await.unwrap() });
    let question = tokio::time::timeout(LIMIT, questions.next()).await.unwrap().unwrap();
    let mut client = world.raw().await;
    client.info().await;
    client.say("CONNECT {\"verbose\":false}\r\nPING\r\n").await;
    assert_eq!(client.line().await, "PONG");
    client.say(&"PUB in.x 1\r\n1\r\n".repeat(1000)).await;
    world.sidecar.child.terminate().unwrap();
    assert_eq!(client.rest().await, "");
    // The broker has all of it; its stream may still be writing.
    eventually("all that was written", LIMIT, async || {
        let found = stored(&world.mesh, "IN").await.map_err(|error| error.to_string())?;
        if found == 1000 { Ok(Some(())) } else { Err(format!("{found} stored")) }
    })
    .await
    .unwrap();
    other.publish(question.reply.unwrap(), "a".into()).await.unwrap();
    let answer = asking.await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    assert!(world.sidecar.ended().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_loopbacks_are_served() {
    let world = World::new().await;
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // There is only one here.
    }
    let client = async_nats::connect(format!("nats://[::1]:{}", world.sidecar.nats)).await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_metrics_are_those_that_are_promised() {
    let world = World::new().await;
    world.sidecar.http().unwrap().post("/publish/in.x", &[], b"x").await.unwrap();
    let application = Collector::start().await.unwrap();
    world.bind(&world.accounts.bridge().unwrap(), Some(&sidecar_json_with_push(&application)));
    async_nats::jetstream::new(world.mesh.clone()).publish("out.a", "x".into()).await.unwrap().await.unwrap();
    application.until(LIMIT, |received| received.len() == 1).await.unwrap();
    let text = world.sidecar.admin("/metrics").await.unwrap().body;
    let mut given: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(format!("{name}{}", if kind == "counter" { "_total" } else { "" }), kind.to_owned());
        } else if !line.starts_with('#') {
            let series = line.split(' ').next().unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(label, _)| label.to_owned());
            given.insert(name.to_owned(), (kinds[name].clone(), labels.collect()));
        }
    }
    let page = std::fs::read_to_string(repository().join("docs/reference/metrics.md")).unwrap();
    let section = page.split("## Sidecar\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut promised = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        for name in quoted(cells[1]) {
            promised.insert(name, (cells[2].to_owned(), quoted(cells[3]).into_iter().collect()));
        }
    }
    assert_eq!(given, promised, "{text}");
}
