//! The HTTP port: what is stored and asked, and what each status means.

use eventmesh_tests::http::Answer;
use eventmesh_tests::process::nats::{messages, stored};
use futures::StreamExt as _;
use rstest::rstest;
use serde_json::{Value, json};

use super::world::{LIMIT, World, heard};

fn json_of(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).expect(&answer.body)
}

fn is_problem(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = json_of(answer);
    assert_eq!(problem["status"], status);
    assert!(problem["detail"].as_str().unwrap().contains(words), "{answer:?}");
}

const BINARY: [(&str, &str); 5] = [
    ("ce-specversion", "1.0"),
    ("ce-id", "1"),
    ("ce-source", "/s"),
    ("ce-type", "t"),
    ("content-type", "application/json"),
];
const STRUCTURED: &str = r#"{"specversion":"1.0","id":"2","source":"/s","type":"t","data":{"a":1}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_looks_the_same_however_it_was_sent() {
    let world = World::new().await;
    let http = world.sidecar.http().unwrap();
    let answer = http.post("/publish/in.x", &BINARY, br#"{"a":1}"#).await.unwrap();
    assert_eq!((answer.status, json_of(&answer)), (200, json!({"stream": "IN", "sequence": 1})));
    let structured = [("content-type", "application/cloudevents+json")];
    let answer = http.post("/publish/in.x", &structured, STRUCTURED.as_bytes()).await.unwrap();
    assert_eq!(json_of(&answer)["sequence"], 2);
    let stored = messages(&world.mesh, "IN").await.unwrap();
    for (message, id) in stored.iter().zip(["1", "2"]) {
        assert_eq!(message.payload, r#"{"a":1}"#);
        let headers = message.headers.as_ref().unwrap();
        let expected = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
        for (name, value) in expected.into_iter().chain([("content-type", "application/json")]) {
            assert_eq!(headers.get(name).unwrap().as_str(), value);
        }
        assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), format!("/s#{id}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_sent_again_is_stored_once() {
    let world = World::new().await;
    let http = world.sidecar.http().unwrap();
    for headers in [&BINARY[..], &[("nats-msg-id", "own")]] {
        let first = json_of(&http.post("/publish/in.x", headers, b"1").await.unwrap());
        let again = json_of(&http.post("/publish/in.x", headers, b"1").await.unwrap());
        assert_eq!(again, json!({"stream": "IN", "sequence": first["sequence"], "duplicate": true}));
    }
    assert_eq!(stored(&world.mesh, "IN").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_is_answered_at_once() {
    let world = World::new().await;
    let other = world.other().await;
    let mut listening = other.subscribe("core.x").await.unwrap();
    heard(&other).await;
    // Not what it was told, but what the broker allows: nobody waits for the broker here.
    let http = world.sidecar.http().unwrap();
    let answer = http.post("/publish/core.x?wait=none", &[], b"x").await.unwrap();
    is_problem(&answer, 403, "may publish to `in.>`");
    world.bind(&world.accounts.bridge().unwrap(), None);
    eventmesh_tests::wait::eventually("unknown rights", LIMIT, async || {
        let answer = http.post("/publish/core.x?wait=none", &[("shop", "7")], b"x").await.unwrap();
        Ok((answer.status == 202).then_some(()))
    })
    .await
    .unwrap();
    let message = tokio::time::timeout(LIMIT, listening.next()).await.unwrap().unwrap();
    assert_eq!((message.payload.as_ref(), message.headers.unwrap().get("shop").unwrap().as_str()), (&b"x"[..], "7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_with_body_and_headers() {
    let world = World::new().await;
    let other = world.other().await;
    let mut questions = other.subscribe("core.ask").await.unwrap();
    heard(&other).await;
    let http = world.sidecar.http().unwrap();
    let answering = async {
        let question = questions.next().await.unwrap();
        assert_eq!(question.headers.as_ref().unwrap().get("shop").unwrap().as_str(), "7");
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Content-Type", "text/plain");
        headers.insert("Nats-Service-Error-Code", "404");
        let body = [b"re:", question.payload.as_ref()].concat();
        other.publish_with_headers(question.reply.unwrap(), headers, body.into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(http.post("/request/core.ask?timeout=30s", &[("shop", "7")], b"q"), answering);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "re:q"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("nats-service-error-code"), Some("404"));
    // This one nobody answers.
    is_problem(&http.post("/request/core.ask?timeout=50ms", &[], b"q").await.unwrap(), 504, "within 50 ms");
    let nobody = http.post("/request/core.nobody", &[], b"q").await.unwrap();
    is_problem(&nobody, 503, "nobody listens on `core.nobody`");
    assert_eq!(nobody.header("retry-after"), Some("1"));
}

#[rstest]
#[case("/publish/in..x", &[], 400, "empty token")]
#[case("/publish/in.*", &[], 400, "wildcard")]
#[case("/publish/$JS.API.INFO", &[], 400, "reserved")]
#[case("/publish/in/x", &[], 400, "joined by dots")]
#[case("/publish/", &[], 400, "empty")]
#[case("/publish/in.x?wait=maybe", &[], 400, "`stored` or `none`")]
#[case("/request/core.x?timeout=1h", &[], 400, "at most 5m")]
#[case("/publish/in.x", &[("content-type", "application/cloudevents+json")], 400, "no CloudEvent")]
#[case("/publish/in.x", &[("content-type", "application/cloudevents-batch+json")], 415, "one event a request")]
#[case("/publish/in.x", &[("origin", "http://evil.example")], 403, "web pages")]
#[case("/publish/secret.x", &[], 403, "ServiceAccount shop/api may not publish to `secret.x`: it may publish to `in.>`")]
#[case("/request/secret.x", &[], 403, "`spec.grants` of the Topic")]
#[case("/publish/gone.x", &[], 503, "no stream stores `gone.x`")]
#[case("/nothing", &[], 404, "openapi.json")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told(
    #[case] path: &str,
    #[case] headers: &[(&str, &str)],
    #[case] status: u16,
    #[case] words: &str,
) {
    let world = World::new().await;
    let body: &[u8] = if status == 415 { b"[]" } else { b"x" };
    is_problem(&world.sidecar.http().unwrap().post(path, headers, body).await.unwrap(), status, words);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_finds_no_room_is_told() {
    let world = World::new().await;
    let http = world.sidecar.http().unwrap();
    is_problem(&http.post("/publish/in.x", &[], &vec![0; 1_048_577]).await.unwrap(), 413, "1048576 bytes");
    is_problem(&http.post("/publish/in.x", &BINARY, &vec![0; 1_048_570]).await.unwrap(), 413, "headers included");
    is_problem(&http.post("/publish/small.x", &[], &[0; 200]).await.unwrap(), 413, "(10054)");
    assert_eq!(http.post("/publish/full.x", &[], b"1").await.unwrap().status, 200);
    is_problem(&http.post("/publish/full.x", &[], b"2").await.unwrap(), 503, "maximum messages exceeded");
    let answer = http.request("GET", "/publish/in.x", &[], b"").await.unwrap();
    is_problem(&answer, 405, "takes POST");
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_one_connection() {
    let world = World::new().await;
    let http = world.sidecar.http().unwrap();
    let posts = (0..500).map(|_| http.post("/publish/in.x", &[], b"x"));
    let answers = futures::future::join_all(posts).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().status == 200));
    assert_eq!(stored(&world.mesh, "IN").await.unwrap(), 500);
    let log = world.nats.log();
    assert_eq!(log.matches("\"name\":\"sidecar of shop/api\"").count().max(1), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_hangs_is_told_and_one_that_is_away_too() {
    let world = World::new().await;
    let http = world.sidecar.http().unwrap();
    world.nats.pause().unwrap();
    let answer = http.post("/publish/in.x", &BINARY, b"x").await.unwrap();
    world.nats.go_on().unwrap();
    is_problem(&answer, 504, "with the same id");
    world.nats.kill().unwrap();
    world.sidecar.is(503, "the mesh is not connected").await.unwrap();
    let answer = http.post("/publish/in.x", &BINARY, b"x").await.unwrap();
    is_problem(&answer, 503, "the mesh is not connected");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_the_description_are_there() {
    let world = World::new().await;
    let http = world.sidecar.http().unwrap();
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(http.request("GET", path, &[], b"").await.unwrap().status, 200, "{path}");
    }
    // The kubelet's port is open to the cluster, and nobody publishes there.
    is_problem(&world.sidecar.admin("/openapi.json").await.unwrap(), 404, "4380");
}
