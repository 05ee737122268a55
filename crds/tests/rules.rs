//! The CEL rules of the kinds, evaluated without a cluster: what is refused at apply time, and what is not.

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use rstest::rstest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<T: DeserializeOwned>(kind: &str, name: &str, spec: &Value) -> T {
    let value =
        json!({ "apiVersion": "eventmesh.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    serde_json::from_value(value).expect("a well-formed object")
}

/// The messages of the rules that refused, joined; empty when nothing was refused.
fn refusals(result: Result<(), kube::core::cel::ValidationErrors>) -> String {
    result.err().map(|errors| errors.to_string()).unwrap_or_default()
}

fn assert_refused(found: &str, expected: &str) {
    if expected.is_empty() {
        assert_eq!(found, "");
    } else {
        assert!(found.contains(expected), "expected a refusal with `{expected}`, found `{found}`");
    }
}

#[rstest]
#[case("retail", json!({"brokers": {}}), "")]
#[case("retail", json!({"brokers": {"replicas": 5}}), "")]
#[case("retail", json!({"brokers": {"replicas": 2}}), "replicas must be 1, 3, 5 or 7")]
#[case("retail", json!({"brokers": {"settings": {"maxPayload": "128Mi"}}}), "maxPayload must be between")]
#[case("1retail", json!({"brokers": {}}), "DNS label")]
#[case("re.tail", json!({"brokers": {}}), "DNS label")]
#[case("retail", json!({"brokers": {}, "allowedNamespaces": {"from": "Selector"}}), "`selector` must be set")]
#[case("retail", json!({"brokers": {}, "allowedNamespaces": {"from": "All"}}), "")]
fn mesh(#[case] name: &str, #[case] spec: Value, #[case] refusal: &str) {
    let mesh: EventMesh = object("EventMesh", name, &spec);
    assert_refused(&refusals(mesh.validate_cel()), refusal);
}

#[rstest]
#[case(json!({"name": "l", "to": {"mesh": {"name": "b"}}, "export": ["x"]}), "")]
#[case(json!({"name": "l", "to": {"remote": {}}, "import": ["x"]}), "")]
#[case(json!({"name": "l", "to": {"remote": {"urls": ["tls://b:7422"], "secret": {"name": "s"}}}, "import": ["x"]}), "")]
#[case(json!({"name": "l", "to": {}, "export": ["x"]}), "exactly one of `mesh` and `remote`")]
#[case(json!({"name": "l", "to": {"mesh": {"name": "b"}, "remote": {}}, "export": ["x"]}), "exactly one of `mesh` and `remote`")]
#[case(json!({"name": "l", "to": {"remote": {"urls": ["tls://b:7422"]}}, "export": ["x"]}), "set `urls` and `secret`")]
fn mesh_links(#[case] link: Value, #[case] refusal: &str) {
    let mesh: EventMesh = object("EventMesh", "retail", &json!({"brokers": {}, "links": [link]}));
    assert_refused(&refusals(mesh.validate_cel()), refusal);
}

#[rstest]
#[case(json!({}), "")]
#[case(json!({"issuer": "Managed", "certificateLifetime": "1m", "caLifetime": "1m", "caOverlap": "10s"}), "")]
#[case(json!({"issuer": "Disabled"}), "")]
#[case(json!({"issuer": "CertManager"}), "`issuerRef` must be set")]
#[case(json!({"issuer": "CertManager", "issuerRef": {"name": "company", "kind": "ClusterIssuer"}}), "")]
#[case(json!({"issuerRef": {"name": "company"}}), "`issuerRef` must be set")]
#[case(json!({"issuer": "Secret"}), "`secret` must be set")]
#[case(json!({"issuer": "Secret", "secret": {"name": "mine"}}), "")]
#[case(json!({"issuer": "Managed", "secret": {"name": "mine"}}), "`secret` must be set")]
#[case(json!({"certificateLifetime": "59s"}), "certificateLifetime must be at least 1m")]
#[case(json!({"caLifetime": "30s", "caOverlap": "1s"}), "caLifetime must be at least 1m")]
#[case(json!({"caOverlap": "500ms"}), "caOverlap must be at least 1s")]
#[case(json!({"caLifetime": "100h"}), "six times caOverlap")]
#[case(json!({"caLifetime": "100h", "caOverlap": "16h"}), "")]
fn mesh_tls(#[case] tls: Value, #[case] refusal: &str) {
    let mesh: EventMesh = object("EventMesh", "retail", &json!({"brokers": {}, "tls": tls}));
    assert_refused(&refusals(mesh.validate_cel()), refusal);
}

#[rstest]
#[case(json!({"brokers": {}}), json!({"brokers": {"replicas": 3}}), "")]
#[case(json!({"brokers": {}}), json!({"brokers": {"replicas": 5}}), "")]
#[case(json!({"brokers": {}}), json!({"brokers": {"replicas": 1}}), "cannot become a mesh of one broker")]
#[case(json!({"brokers": {"replicas": 5}}), json!({"brokers": {}}), "")]
#[case(json!({"brokers": {"replicas": 1}}), json!({"brokers": {"replicas": 1}}), "")]
#[case(json!({"brokers": {"replicas": 1}}), json!({"brokers": {}}), "cannot grow into a cluster")]
#[case(json!({"brokers": {"storage": {"size": "2Gi"}}}), json!({"brokers": {"storage": {"size": "1Gi"}}}), "cannot shrink")]
#[case(json!({"brokers": {"storage": {"size": "2Gi"}}}), json!({"brokers": {"storage": {"size": "3Gi"}}}), "")]
#[case(json!({"brokers": {"storage": {"size": "1Gi"}}}), json!({"brokers": {"storage": {"size": "1024Mi"}}}), "")]
#[case(json!({"brokers": {"storage": {"size": "1Gi"}}}), json!({"brokers": {}}), "")]
#[case(json!({"brokers": {"storage": {"size": "20Gi"}}}), json!({"brokers": {}}), "by adding or removing `storage`")]
#[case(json!({"brokers": {}}), json!({"brokers": {"storage": {"sync": "Always"}}}), "")]
#[case(json!({"brokers": {"storage": {"className": "a"}}}), json!({"brokers": {"storage": {"className": "b"}}}), "className is immutable")]
fn mesh_update(#[case] old: Value, #[case] new: Value, #[case] refusal: &str) {
    let old: EventMesh = object("EventMesh", "retail", &old);
    let new: EventMesh = object("EventMesh", "retail", &new);
    assert_refused(&refusals(new.validate_cel_update(&old)), refusal);
}

fn topic_spec(fields: &Value) -> Value {
    let mut spec = json!({"mesh": {"name": "retail"}});
    spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    spec
}

#[rstest]
#[case("accounts", json!({}), "")]
#[case("accounts.v1", json!({}), "without dots")]
#[case("accounts", json!({"storage": {"replicas": 2}}), "replicas must be 1, 3 or 5")]
#[case("accounts", json!({"retention": {"discard": "New"}}), "needs maxBytes")]
#[case("accounts", json!({"retention": {"discard": "New", "maxMessages": 10}}), "")]
#[case("accounts", json!({"storage": {"type": "None"}}), "")]
#[case("accounts", json!({"storage": {"type": "None"}, "retention": {"maxAge": "1h"}}), "stores nothing")]
#[case("accounts", json!({"storage": {"type": "None", "replicas": 3}}), "stores nothing")]
#[case("accounts", json!({"storage": {"type": "None"}, "deletionPolicy": "Delete"}), "stores nothing")]
#[case("accounts", json!({"storage": {"type": "None"}, "grants": [{"to": {"client": "c"}, "allow": ["Publish", "Reply"]}]}), "")]
#[case("accounts", json!({"storage": {"type": "None"}, "grants": [{"to": {"namespace": "n"}, "allow": ["Reply"]}]}), "one serviceAccount or client")]
#[case("accounts", json!({"grants": [{"to": {"client": "c"}, "allow": ["Reply"]}]}), "storage.type None only")]
#[case("copy", json!({"mirror": {"link": "l", "topic": {"name": "t"}}}), "")]
#[case("copy", json!({"mirror": {"link": "l", "topic": {"name": "t"}}, "retention": {"policy": "Limits", "maxAge": "1h"}}), "")]
#[case("copy", json!({"mirror": {"link": "l", "topic": {"name": "t"}}, "retention": {"policy": "WorkQueue"}}), "leave out storage.type None and retention.policy")]
#[case("copy", json!({"mirror": {"link": "l", "topic": {"name": "t"}}, "storage": {"type": "None"}}), "leave out storage.type None and retention.policy")]
#[case("copy", json!({"mirror": {"link": "l", "topic": {"name": "t"}}, "grants": [{"to": {"client": "c"}, "allow": ["Subscribe"]}]}), "")]
#[case("copy", json!({"mirror": {"link": "l", "topic": {"name": "t"}}, "grants": [{"to": {"client": "c"}, "allow": ["Subscribe", "Publish"]}]}), "nobody publishes to a copy")]
fn topic(#[case] name: &str, #[case] fields: Value, #[case] refusal: &str) {
    let topic: Topic = object("Topic", name, &topic_spec(&fields));
    assert_refused(&refusals(topic.validate_cel()), refusal);
}

#[rstest]
#[case(json!({}), json!({"mesh": {"name": "other"}}), "mesh is immutable")]
#[case(json!({}), json!({"storage": {"type": "File"}}), "")]
#[case(json!({}), json!({"storage": {"type": "Memory"}}), "storage.type is immutable")]
#[case(json!({}), json!({"storage": {"type": "None"}}), "storage.type is immutable")]
#[case(json!({}), json!({"retention": {"policy": "WorkQueue"}}), "retention.policy is immutable")]
#[case(json!({}), json!({"retention": {"maxAge": "1h"}}), "")]
#[case(json!({}), json!({"mirror": {"link": "l", "topic": {"name": "t"}}}), "mirror cannot be added or changed")]
#[case(json!({"mirror": {"link": "l", "topic": {"name": "t"}}}), json!({"mirror": {"link": "k", "topic": {"name": "t"}}}), "mirror cannot be added or changed")]
#[case(json!({"mirror": {"link": "l", "topic": {"name": "t"}}}), json!({"mirror": {"link": "l", "topic": {"name": "t"}}, "retention": {"maxAge": "1h"}}), "")]
#[case(json!({"mirror": {"link": "l", "topic": {"name": "t"}}}), json!({}), "")]
fn topic_update(#[case] old: Value, #[case] new: Value, #[case] refusal: &str) {
    let old: Topic = object("Topic", "accounts", &topic_spec(&old));
    let new: Topic = object("Topic", "accounts", &topic_spec(&new));
    assert_refused(&refusals(new.validate_cel_update(&old)), refusal);
}

#[rstest]
#[case(json!({"topic": {"name": "accounts"}}), "")]
#[case(json!({"topic": {"name": "accounts"}, "startFrom": {"position": "Time"}}), "`time` must be set")]
#[case(json!({"topic": {"name": "accounts"}, "startFrom": {"position": "New", "sequence": 4}}), "`sequence` must be set")]
#[case(json!({"topic": {"name": "accounts"}, "maxDeliver": 1, "backoff": ["1s", "5s"]}), "backoff must not have more entries")]
#[case(json!({"topic": {"name": "accounts"}, "deadLetter": {"topic": "dead"}}), "deadLetter needs maxDeliver")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080}}), "")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080}, "subscriber": {"serviceAccount": "a"}}), "")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080}, "subscriber": {"client": "c"}}), "push needs a ServiceAccount")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080, "timeout": "2h"}}), "timeout must be between")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080, "timeout": "10ms"}}), "timeout must be between")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080}, "ackWait": "30s"}), "ackWait must be longer than push.timeout")]
#[case(json!({"topic": {"name": "accounts"}, "push": {"port": 8080, "timeout": "5s"}, "ackWait": "6s"}), "")]
#[case(json!({"topic": {"name": "accounts"}, "deadLetter": {"topic": "dead"}, "maxDeliver": 1}), "")]
fn subscription(#[case] spec: Value, #[case] refusal: &str) {
    let subscription: Subscription = object("Subscription", "ledger", &spec);
    assert_refused(&refusals(subscription.validate_cel()), refusal);
}

#[rstest]
#[case(json!({"topic": {"name": "a"}}), json!({"topic": {"name": "b"}}), "topic is immutable")]
#[case(json!({"topic": {"name": "a"}}), json!({"topic": {"name": "a"}, "startFrom": {"position": "All"}}), "startFrom is immutable")]
#[case(json!({"topic": {"name": "a"}}), json!({"topic": {"name": "a"}, "filter": ["a.b"]}), "")]
fn subscription_update(#[case] old: Value, #[case] new: Value, #[case] refusal: &str) {
    let old: Subscription = object("Subscription", "ledger", &old);
    let new: Subscription = object("Subscription", "ledger", &new);
    assert_refused(&refusals(new.validate_cel_update(&old)), refusal);
}

#[rstest]
#[case(json!({}), "")]
#[case(json!({"outbound": [{"name": "o", "from": {"topic": "t"}, "to": "a"}]}), "without `to`")]
#[case(json!({"outbound": [{"name": "o", "from": {"topic": "t"}, "filter": "true"}]}), "without `to`")]
#[case(json!({"inbound": [{"name": "i", "from": "a", "to": "a"}]}), "a link takes copies of Topics")]
#[case(json!({"delivery": {"guarantee": "AtMostOnce"}}), "a copy holds every event")]
#[case(json!({"delivery": {"deadLetter": {"topic": "d"}}}), "a copy holds every event")]
#[case(json!({"delivery": {"maxInFlight": 10}}), "")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://x:1"], "jetstream": {}}}}), "needs an address in `to`")]
fn bridge_over_a_link(#[case] change: Value, #[case] refusal: &str) {
    let mut spec = json!({"mesh": {"name": "m"}, "endpoint": {"link": {"name": "l"}}, "replicas": 1,
        "outbound": [{"name": "o", "from": {"topic": "t"}}]});
    spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    let bridge: Bridge = object("Bridge", "copies", &spec);
    assert_refused(&refusals(bridge.validate_cel()), refusal);
}

fn bridge_spec(fields: &Value) -> Value {
    let mut spec = json!({
        "mesh": {"name": "retail"},
        "endpoint": {"mqtt": {"url": "mqtt://site.example:1883"}},
        "inbound": [{"name": "in", "from": "a/#", "to": "a.{1}"}],
        "replicas": 1,
    });
    spec.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    spec
}

fn listen(authentication: &Value) -> Value {
    json!({"listen": {"authentication": authentication}})
}

fn http(endpoint: &Value) -> Value {
    json!({"endpoint": {"http": endpoint}, "inbound": [{"name": "in", "from": "/a/*", "to": "a.{1}"}]})
}

fn outbound(endpoint: &Value) -> Value {
    let route = json!({"name": "out", "from": {"topic": "t"}, "to": "/b"});
    json!({"endpoint": {"http": endpoint}, "inbound": [], "outbound": [route]})
}

#[rstest]
#[case(json!({}), "")]
#[case(json!({"endpoint": {}}), "exactly one kind of endpoint")]
#[case(json!({"inbound": []}), "at least one route")]
#[case(json!({"outbound": [{"name": "in", "from": {"topic": "t"}, "to": "b"}]}), "route names must be unique")]
#[case(json!({"replicas": 2}), "")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://a:1"], "jetstream": {}}}}), "")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://a:1"]}, "mqtt": {"url": "mqtt://a:1"}}}), "exactly one kind of endpoint")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://a:1"]}}}), "core NATS confirms nothing")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://a:1"]}}, "delivery": {"guarantee": "AtMostOnce"}}), "")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://a:1", "tls://b:1"], "jetstream": {}}}}), "all with nats://")]
#[case(json!({"endpoint": {"nats": {"urls": ["nats://a:1"], "jetstream": {}, "tls": {"secret": {"name": "s"}}}}}), "begin with tls://")]
#[case(json!({"replicas": 0}), "")]
#[case(json!({"replicas": 3, "inbound": [], "outbound": [{"name": "out", "from": {"topic": "t"}, "to": "b"}]}), "")]
#[case(json!({"endpoint": {"mqtt": {"url": "mqtt://a:1", "tls": {"secret": {"name": "s"}}}}}), "begins with mqtts://")]
#[case(json!({"endpoint": {"amqp": {"url": "amqp://a:1/v", "version": "V091"}}}), "")]
#[case(json!({"endpoint": {"amqp": {"url": "amqp://a:1/v", "version": "V1"}}}), "no virtual hosts")]
#[case(json!({"endpoint": {"amqp": {"url": "amqp://a:1", "version": "V1", "tls": {"secret": {"name": "s"}}}}}), "begins with amqps://")]
#[case(json!({"endpoint": {"amqp": {"url": "amqp://a", "version": "V1"}, "mqtt": {"url": "mqtt://a:1"}}}), "exactly one kind of endpoint")]
#[case(json!({"endpoint": {"amqp": {"url": "amqp://a", "version": "V091"}}, "replicas": 2}), "")]
#[case(http(&listen(&json!({"none": {}}))), "")]
#[case(http(&listen(&json!({}))), "exactly one of `none`, `bearer`")]
#[case(http(&listen(&json!({"none": {}, "github": {"secret": {"name": "s"}}}))), "exactly one of `none`, `bearer`")]
#[case(http(&json!({})), "exactly one of `listen` and `target`")]
#[case(http(&json!({"listen": {"authentication": {"none": {}}}, "target": {"url": "http://a"}})), "exactly one of `listen` and `target`")]
#[case(http(&json!({"target": {"url": "http://a.example"}})), "an HTTP target has outbound routes only")]
#[case(outbound(&json!({"target": {"url": "https://a.example/x", "tls": {"secret": {"name": "s"}}}})), "")]
#[case(outbound(&json!({"target": {"url": "http://a.example", "tls": {"secret": {"name": "s"}}}})), "begins with https://")]
#[case(outbound(&json!({"target": {"url": "http://a.example", "authentication": {}}})), "exactly one of `bearer` and `basic`")]
#[case(outbound(&listen(&json!({"none": {}}))), "an HTTP listener has inbound routes only")]
#[case(json!({"endpoint": {"http": listen(&json!({"none": {}})), "mqtt": {"url": "mqtt://a:1"}}}), "exactly one kind of endpoint")]
#[case(json!({"endpoint": {"kafka": {"bootstrapServers": ["a:9092"]}}, "replicas": 3}), "")]
#[case(json!({"endpoint": {"kafka": {"bootstrapServers": ["a:9092"]}, "mqtt": {"url": "mqtt://a:1"}}}), "exactly one kind of endpoint")]
#[case(json!({"outbound": [{"name": "out", "from": {"topic": "t"}, "to": "b", "key": "{1}"}]}), "for Kafka only")]
#[case(
    json!({"endpoint": {"kafka": {"bootstrapServers": ["a:9092"], "tls": {}, "startFrom": "Latest", "credentials": {"secret": {"name": "s"}}}},
        "outbound": [{"name": "out", "from": {"topic": "t"}, "to": "b", "key": "{1}"}]}),
    ""
)]
fn bridge(#[case] fields: Value, #[case] refusal: &str) {
    let bridge: Bridge = object("Bridge", "factory", &bridge_spec(&fields));
    assert_refused(&refusals(bridge.validate_cel()), refusal);
}

#[rstest]
#[case(json!({"mqtt": {"url": "mqtt://x:1"}}), "")]
#[case(json!({"nats": {"urls": ["nats://x:4222"], "jetstream": {}}}), "`retain` is for MQTT only")]
fn only_mqtt_retains(#[case] endpoint: Value, #[case] refusal: &str) {
    let outbound = json!([{"name": "a", "from": {"topic": "t"}, "to": "x", "retain": true}]);
    let spec = json!({"mesh": {"name": "m"}, "endpoint": endpoint, "outbound": outbound});
    let bridge: Bridge = object("Bridge", "b", &spec);
    assert_refused(&refusals(bridge.validate_cel()), refusal);
}
