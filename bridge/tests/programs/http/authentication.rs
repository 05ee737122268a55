//! Who may send, and how secrets are exchanged without a pause.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, HEXLOWER};
use eventmesh_tests::http::Sender;
use eventmesh_wire::report::RouteState;
use ring::hmac;
use rstest::rstest;
use serde_json::{Value, json};

use super::world::{World, change, client, in_state, listening, problem};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn secret() -> String {
    format!("whsec_{}", BASE64.encode(KEY))
}

fn mac(key: &[u8], content: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), content).as_ref().to_vec()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn webhook(key: &[u8], id: &str, time: u64, body: &str) -> Vec<(String, String)> {
    let signature = BASE64.encode(&mac(key, format!("{id}.{time}.{body}").as_bytes()));
    vec![
        ("webhook-id".to_owned(), id.to_owned()),
        ("webhook-timestamp".to_owned(), time.to_string()),
        ("webhook-signature".to_owned(), format!("v1,{signature}")),
    ]
}

fn github(key: &[u8], body: &str) -> Vec<(String, String)> {
    vec![("X-Hub-Signature-256".to_owned(), format!("sha256={}", HEXLOWER.encode(&mac(key, body.as_bytes()))))]
}

fn authorization(value: &str) -> Vec<(String, String)> {
    vec![("Authorization".to_owned(), value.to_owned())]
}

fn bearer() -> Value {
    json!({"bearer": {"tokens": ["one", "two"]}})
}

fn basic() -> Value {
    json!({"basic": {"username": "u", "passwords": ["p1", "p2"]}})
}

fn webhooks() -> Value {
    json!({"standardWebhooks": {"secrets": [secret()]}})
}

fn githubs() -> Value {
    json!({"github": {"secrets": ["It's a Secret", "another"]}})
}

#[rstest]
#[case::first_token(bearer(), authorization("Bearer one"), 202)]
#[case::second_token(bearer(), authorization("Bearer two"), 202)]
#[case::unknown_token(bearer(), authorization("Bearer three"), 401)]
#[case::no_token(bearer(), vec![], 401)]
#[case::user(basic(), authorization("Basic dTpwMg=="), 202)]
#[case::wrong_password(basic(), authorization("Basic dTpwMw=="), 401)]
#[case::no_user(basic(), authorization("Bearer one"), 401)]
#[case::webhook(webhooks(), webhook(KEY, "m", now(), "x"), 202)]
#[case::another_body(webhooks(), webhook(KEY, "m", now(), "y"), 403)]
#[case::another_key(webhooks(), webhook(b"x", "m", now(), "x"), 403)]
#[case::too_old(webhooks(), webhook(KEY, "m", now() - 400, "x"), 403)]
#[case::of_the_future(webhooks(), webhook(KEY, "m", now() + 400, "x"), 403)]
#[case::unsigned(webhooks(), vec![], 403)]
#[case::github(githubs(), github(b"another", "x"), 202)]
#[case::github_with_another_key(githubs(), github(b"a third", "x"), 403)]
#[case::github_unsigned(githubs(), vec![], 403)]
#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_known_may_send(
    #[case] authentication: Value,
    #[case] headers: Vec<(String, String)>,
    #[case] status: u16,
) {
    let world = World::new().await;
    let mut config = world.listener();
    config["endpoint"]["http"]["listen"]["authentication"] = authentication;
    let (bridge, client) = listening(&config).await;
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = client.post("/orders/7", &headers, b"x").await.unwrap();
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(world.messages("IN").await.len(), usize::from(status == 202));
    if status != 202 {
        let shown = problem(&answer).to_string() + &bridge.child.log_tail(usize::MAX);
        for secret in ["another", "p1", "p2", &secret()] {
            assert!(!shown.contains(&format!("\"{secret}\"")), "a secret shows: {shown}");
        }
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
}

/// Three tokens, one after the other, each known before it is used and for as long as it is.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_exchanged_while_events_flow_and_no_request_is_refused() {
    let world = World::new().await;
    let mut config = world.listener();
    let mut tokens = |known: &[&str]| {
        config["endpoint"]["http"]["listen"]["authentication"] = json!({"bearer": {"tokens": known}});
        config.clone()
    };
    let first = tokens(&["a"]);
    let both = tokens(&["a", "b"]);
    let second = tokens(&["b"]);
    let (bridge, _) = listening(&first).await;
    let pid = bridge.child.pid();
    let (newer, done, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let with = |token: &str| {
        let header = format!("Bearer {token}");
        let url = format!("http://127.0.0.1:{}", super::world::port(&first));
        Sender::new(&url, &[("authorization", &header)]).unwrap()
    };
    let (old, new) = (with("a"), with("b"));
    let flow = async {
        while !done.load(Ordering::Relaxed) {
            let client = if newer.load(Ordering::Relaxed) { &new } else { &old };
            let number = sent.load(Ordering::Relaxed);
            let answer = client.post("/orders/7", &[], number.to_string().as_bytes()).await.unwrap();
            assert_eq!(answer.status, 202, "event {number}: {answer:?}");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let exchange = async {
        change(&bridge, &both).await;
        newer.store(true, Ordering::Relaxed);
        // A request with the old one may be on its way.
        let begun = sent.load(Ordering::Relaxed);
        while sent.load(Ordering::Relaxed) < begun + 5 {
            tokio::task::yield_now().await;
        }
        change(&bridge, &second).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(flow, exchange);
    assert_eq!(old.post("/orders/7", &[], b"x").await.unwrap().status, 401, "the old one is not known any more");
    assert_eq!(client(&first).post("/orders/7", &[], b"x").await.unwrap().status, 401);
    assert_eq!(world.messages("IN").await.len(), sent.load(Ordering::Relaxed));
    assert_eq!(in_state(&bridge, "orders", RouteState::Running).await.restarts, 0);
    assert_eq!(bridge.child.pid(), pid);
}
