//! Controllers against a mocked API server: which requests they make, in which order, and what they do with its errors.

use std::sync::{Arc, Mutex};

use eventmesh_crds::{Bridge, EventMesh, Topic};
use eventmesh_operator::{
    bridge::BridgeController,
    broker::Brokers,
    cache::{Cache, Writers},
    dead_letters::Ledger,
    engine::{Class, Context, Controller, Error, Outcome},
    identity::{Keyring, Reports},
    mesh::MeshController,
    metrics::Metrics,
    settings::Images,
    topic::TopicController,
};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::{
    Client,
    client::Body,
    runtime::{
        events::{Recorder, Reporter},
        watcher::Event,
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A request as the mocked API server saw it.
#[derive(Debug, Clone)]
struct Seen {
    /// Method and path, for example `PATCH topics/accounts/status`.
    what: String,
    body: Value,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A client whose requests are answered by `answer` and noted.
fn mocked(answer: impl Fn(&Seen) -> (u16, Value) + Send + 'static) -> (Client, Log) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let log = Log::default();
    let seen = log.clone();
    tokio::spawn(async move {
        while let Some((request, respond)) = handle.next_request().await {
            let path: Vec<&str> =
                request.uri().path().split('/').skip_while(|part| *part != "namespaces").skip(2).collect();
            let what = format!("{} {}", request.method(), path.join("/"));
            let bytes = request.into_body().collect().await.expect("a body").to_bytes();
            let entry = Seen { what, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
            let (status, body) = answer(&entry);
            seen.lock().expect("no panic").push(entry);
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            respond.send_response(response.expect("a response"));
        }
    });
    (Client::new(service, "default"), log)
}

/// Answers a write with what was written, and a read with "not found".
fn agreeable(seen: &Seen) -> (u16, Value) {
    if seen.what.starts_with("PATCH") || seen.what.starts_with("POST") {
        let mut object = seen.body.clone();
        object["metadata"]["name"] = json!("echo");
        // An answer must be readable as the whole object; a patch of a status has no spec.
        if object.get("spec").is_none() {
            object["spec"] = match seen.what.split(['/', ' ']).nth(1) {
                Some("eventmeshes") => json!({"brokers": {}}),
                Some("bridges") => json!({"mesh": {"name": "retail"}, "endpoint": {}}),
                _ => json!({"mesh": {"name": "retail"}}),
            };
        }
        (200, object)
    } else {
        failure(404)
    }
}

fn failure(code: u16) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Test" };
    (code, json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "told to"}))
}

fn context(client: Client) -> (Arc<Context>, Writers) {
    let (cache, writers) = Cache::new();
    let reporter = Reporter { controller: "test".into(), instance: None };
    let context = Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        cache: Arc::new(cache),
        brokers: Arc::new(Brokers::new(CancellationToken::new())),
        keyring: Keyring::default(),
        identities: Reports::default(),
        dead_letters: Ledger::default(),
        metrics: Arc::new(Metrics::default()),
        images: Images { broker: "broker:1".into(), bridge: "bridge:1".into() },
        // Nobody listens here; connecting goes on in the background.
        broker_address: "nats://127.0.0.1:1".into(),
    };
    (Arc::new(context), writers)
}

fn requests(log: &Log) -> Vec<String> {
    log.lock().expect("no panic").iter().map(|seen| seen.what.clone()).collect()
}

fn topic(extra: &Value) -> Topic {
    let mut object = json!({
        "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic",
        "metadata": {"name": "accounts", "namespace": "shop", "uid": "u-1", "generation": 1},
        "spec": {"mesh": {"name": "retail"}},
    });
    object.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    serde_json::from_value(object).expect("a topic")
}

fn mesh() -> EventMesh {
    serde_json::from_value(json!({
        "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
        "metadata": {"name": "retail", "namespace": "shop", "uid": "m-1", "generation": 1},
        "spec": {"brokers": {}},
    }))
    .expect("a mesh")
}

#[tokio::test]
async fn a_topic_without_its_mesh_waits_and_says_so() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let outcome = TopicController::new(context).reconcile(Arc::new(topic(&json!({})))).await.expect("no failure");
    assert_eq!(outcome, Outcome::Waiting);
    assert_eq!(requests(&log), ["PATCH topics/accounts/status"]);
    let status = log.lock().expect("no panic")[0].body["status"].clone();
    assert_eq!(status["observedGeneration"], json!(1));
    let reasons: Vec<&str> =
        status["conditions"].as_array().expect("conditions").iter().filter_map(|c| c["reason"].as_str()).collect();
    assert_eq!(reasons, ["MeshNotFound", "Pending", "MeshNotFound", "Pending"]);
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let controller = TopicController::new(context);
    controller.reconcile(Arc::new(topic(&json!({})))).await.expect("no failure");
    let written = log.lock().expect("no panic")[0].body["status"].clone();
    controller.reconcile(Arc::new(topic(&json!({"status": written})))).await.expect("no failure");
    assert_eq!(requests(&log).len(), 1, "the second pass finds its status as it should be");
}

#[tokio::test]
async fn errors_of_the_api_server_have_classes() {
    for (code, class) in [(409, Class::Conflict), (403, Class::Denied), (500, Class::Unavailable)] {
        let (client, _log) = mocked(move |_| failure(code));
        let (context, _writers) = context(client);
        let result = TopicController::new(context).reconcile(Arc::new(topic(&json!({})))).await;
        assert_eq!(result.as_ref().map_err(Error::class).err(), Some(class), "{code}");
    }
}

#[tokio::test]
async fn a_topic_that_is_gone_needs_no_status() {
    let (client, _log) = mocked(|_| failure(404));
    let (context, _writers) = context(client);
    let outcome = TopicController::new(context).reconcile(Arc::new(topic(&json!({})))).await.expect("no failure");
    assert_eq!(outcome, Outcome::Waiting);
}

#[tokio::test]
async fn a_topic_that_is_being_deleted_is_left_to_others() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let deleted = topic(&json!({
        "metadata": {
            "name": "accounts", "namespace": "shop", "uid": "u-1", "generation": 2, "resourceVersion": "7",
            "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other.dev/keep"],
        },
        "spec": {"mesh": {"name": "retail"}, "deletionPolicy": "Delete"},
    }));
    let outcome = TopicController::new(context).reconcile(Arc::new(deleted)).await.expect("no failure");
    assert_eq!((outcome, requests(&log)), (Outcome::Done, Vec::new()));
}

#[tokio::test]
async fn no_finalizer_is_put_on_what_wants_its_stream_gone() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let topic = topic(&json!({"spec": {"mesh": {"name": "retail"}, "deletionPolicy": "Delete"}}));
    TopicController::new(context).reconcile(Arc::new(topic)).await.expect("no failure");
    assert_eq!(requests(&log), ["PATCH topics/accounts/status"]);
}

#[tokio::test]
async fn what_pods_mount_and_who_reaches_them_comes_before_the_pods() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let outcome = MeshController::new(context).reconcile(Arc::new(mesh())).await.expect("no failure");
    // Until two thirds of the certificate's 90 days are over.
    let Outcome::SettledFor(time) = outcome else { panic!("{outcome:?}") };
    assert_eq!(time.as_secs() / 86400, 59);
    assert_eq!(
        requests(&log),
        [
            "GET secrets/retail-keys",
            "GET secrets/retail-ca",
            "GET secrets/retail-broker-tls",
            "PATCH services/retail-brokers",
            "PATCH services/retail-nats",
            "POST secrets",
            "GET configmaps/retail-members",
            "PATCH secrets/retail-keys",
            "PATCH serviceaccounts/retail-broker",
            "PATCH configmaps/retail-broker",
            "PATCH secrets/retail-broker",
            "PATCH secrets/retail-broker-tls",
            "PATCH poddisruptionbudgets/retail-broker",
            "PATCH networkpolicies/retail-broker",
            "PATCH statefulsets/retail-broker",
            "PATCH eventmeshes/retail/status",
        ]
    );
}

#[tokio::test]
async fn a_pass_that_is_cut_off_does_not_touch_the_pods() {
    let (client, log) =
        mocked(|seen| if seen.what == "PATCH secrets/retail-broker" { failure(500) } else { agreeable(seen) });
    let (context, _writers) = context(client);
    let error =
        MeshController::new(context).reconcile(Arc::new(mesh())).await.expect_err("the Secret could not be written");
    assert_eq!(error.class(), Class::Unavailable);
    assert!(!requests(&log).iter().any(|what| what.contains("statefulsets")), "{:?}", requests(&log));
}

#[tokio::test]
async fn an_authority_that_could_not_be_kept_signs_for_nobody() {
    let (client, log) = mocked(|seen| if seen.what == "POST secrets" { failure(409) } else { agreeable(seen) });
    let (context, _writers) = context(client);
    let error = MeshController::new(context).reconcile(Arc::new(mesh())).await.expect_err("not written");
    assert_eq!(error.class(), Class::Conflict, "another operator has made one: read it and go on");
    assert!(!requests(&log).iter().any(|what| what.contains("retail-broker-tls") && what.contains("PATCH")));
}

#[tokio::test]
async fn a_mesh_without_its_certificate_from_outside_starts_no_broker() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let mut mesh = mesh();
    mesh.spec.tls = serde_json::from_value(json!({"issuer": "Secret", "secret": {"name": "mine"}})).ok();
    MeshController::new(context).reconcile(Arc::new(mesh)).await.expect("no failure");
    assert!(!requests(&log).iter().any(|what| what.contains("statefulsets")), "{:?}", requests(&log));
    let status = log.lock().expect("no panic").last().expect("a request").body["status"].clone();
    let refs = &status["conditions"][2];
    assert_eq!((refs["type"].as_str(), refs["reason"].as_str()), (Some("ResolvedRefs"), Some("SecretNotFound")));
}

#[tokio::test]
async fn a_paused_mesh_is_left_alone() {
    let (client, log) = mocked(agreeable);
    let (context, _writers) = context(client);
    let mut mesh = mesh();
    mesh.spec.paused = Some(true);
    MeshController::new(context).reconcile(Arc::new(mesh)).await.expect("no failure");
    assert_eq!(requests(&log), ["PATCH eventmeshes/retail/status"]);
}

#[tokio::test]
async fn a_bridge_waits_for_its_secret_and_makes_nothing_before() {
    let (client, log) = mocked(agreeable);
    let (context, mut writers) = context(client);
    writers.meshes.apply_watcher_event(&Event::Apply(mesh()));
    let bridge: Bridge = serde_json::from_value(json!({
        "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Bridge",
        "metadata": {"name": "factory", "namespace": "shop", "uid": "b-1", "generation": 1},
        "spec": {
            "mesh": {"name": "retail"}, "replicas": 1,
            "endpoint": {"mqtt": {"url": "mqtt://site.example:1883", "credentials": {"secret": {"name": "site"}}}},
            "inbound": [{"name": "in", "from": "line/+", "to": "factory.{1}"}],
        },
    }))
    .expect("a bridge");
    let factory: Topic = serde_json::from_value(json!({
        "apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "factory", "namespace": "shop"},
        "spec": {"mesh": {"name": "retail"}},
    }))
    .expect("a topic");
    context.cache.change_topic_index(|index| index.put(&factory));
    let outcome = BridgeController::new(context).reconcile(Arc::new(bridge)).await.expect("no failure");
    assert_eq!(outcome, Outcome::Waiting);
    assert_eq!(
        requests(&log),
        [
            "GET secrets/factory-bridge-credentials",
            "GET secrets/retail-broker-tls",
            "GET secrets/site",
            "PATCH bridges/factory/status"
        ]
    );
    let conditions = log.lock().expect("no panic")[3].body["status"]["conditions"].clone();
    assert_eq!(conditions[0]["reason"], json!("SecretNotFound"), "{conditions}");
}
