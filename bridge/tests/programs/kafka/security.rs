//! Who is let in, how, and what is told to who is not.

use eventmesh_tests::process::kafka::{OTHER_PASSWORD, OTHER_USER, PASSWORD, USER};
use eventmesh_tests::process::{Authority, Kafka};
use eventmesh_wire::report::RouteState;
use krafka::admin::{
    AclBinding, AclOperation, AclPatternType, AclPermissionType, AclResourceType, AlterUserScramCredentialsOptions,
    CreateAclsOptions, ScramCredentialDeletion,
};
use krafka::auth::ScramMechanism;
use rstest::rstest;
use serde_json::{Value, json};

use super::world::{World, complete, says, shared_kafka, start};

fn sasl(mechanism: &str, password: &str) -> Value {
    json!({"mechanism": mechanism, "username": USER, "password": password})
}

fn tls(kafka: &Kafka) -> Value {
    json!({"caPem": kafka.authority().pem()})
}

#[rstest]
#[case("PLAIN", false)]
#[case("SCRAM-SHA-256", false)]
#[case("SCRAM-SHA-512", false)]
#[case("PLAIN", true)]
#[case("SCRAM-SHA-512", true)]
#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_let_in(#[case] mechanism: &str, #[case] with_tls: bool) {
    let kafka = shared_kafka().await;
    let world = World::at(kafka).await;
    let mut config = world.config();
    let endpoint = &mut config["endpoint"]["kafka"];
    endpoint["sasl"] = sasl(mechanism, PASSWORD);
    endpoint["bootstrapServers"] = json!([if with_tls { kafka.sasl_tls() } else { kafka.sasl() }]);
    if with_tls {
        endpoint["tls"] = tls(kafka);
    }
    crosses(&world, &config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_let_in() {
    let kafka = shared_kafka().await;
    let world = World::at(kafka).await;
    let identity = kafka.authority().client("bridge").unwrap();
    let mut config = world.config();
    let endpoint = &mut config["endpoint"]["kafka"];
    endpoint["bootstrapServers"] = json!([kafka.tls()]);
    endpoint["tls"] = tls(kafka);
    endpoint["tls"]["clientCertPem"] = json!(identity.certificate);
    endpoint["tls"]["clientKeyPem"] = json!(identity.key);
    crosses(&world, &config).await;
}

async fn crosses(world: &World, config: &Value) {
    let bridge = world.bridge(config).await;
    world.outside.produce(&world.topic("in"), "i", 0..20, 0).await.unwrap();
    world.publish("out.a", "o", 0..20).await;
    world.holds_all("IN", "i", 20).await;
    world.outside.receives_all(&world.topic("out"), "o", 20).await.unwrap();
    let log = bridge.child.log_tail(usize::MAX);
    assert!(!log.contains(PASSWORD), "no secret is logged");
}

#[derive(Clone, Copy, Debug)]
enum Wrong {
    Password,
    NoUser,
    UnknownAuthority,
    Expired,
    NoCertificate,
    NoTlsThere,
}

#[rstest]
#[case(Wrong::Password, "check user, password and mechanism")]
#[case(Wrong::NoUser, "whether it wants TLS or a user")]
#[case(Wrong::UnknownAuthority, "give that authority's certificate")]
#[case(Wrong::Expired, "its certificate has expired")]
#[case(Wrong::NoCertificate, "it asks for a client certificate")]
#[case(Wrong::NoTlsThere, "does not speak TLS")]
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why(#[case] wrong: Wrong, #[case] words: &str) {
    let kafka = shared_kafka().await;
    let world = World::at(kafka).await;
    let mut config = world.config();
    let endpoint = &mut config["endpoint"]["kafka"];
    let (server, with_tls) = match wrong {
        Wrong::Password => {
            endpoint["sasl"] = sasl("SCRAM-SHA-512", "no-such-password");
            (kafka.sasl(), None)
        }
        Wrong::NoUser => (kafka.sasl(), None),
        Wrong::UnknownAuthority => (kafka.tls(), Some(json!({"caPem": Authority::new().unwrap().pem()}))),
        Wrong::Expired => (kafka.expired(), Some(tls(kafka))),
        Wrong::NoCertificate => (kafka.tls(), Some(tls(kafka))),
        Wrong::NoTlsThere => (kafka.bootstrap(), Some(tls(kafka))),
    };
    endpoint["bootstrapServers"] = json!([server]);
    if let Some(with_tls) = with_tls {
        endpoint["tls"] = with_tls;
    }
    let bridge = start(&config);
    let route = bridge.route("in", "the reason", |route| says(route, words)).await.unwrap();
    assert_ne!(route.state, RouteState::Running);
    assert!(!bridge.child.log_tail(usize::MAX).contains("no-such-password"), "no secret is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_credentials_are_taken_up_without_a_restart_and_nothing_is_lost() {
    let kafka = shared_kafka().await;
    let world = World::at(kafka).await;
    let mut config = world.config();
    config["endpoint"]["kafka"]["sasl"] =
        json!({"mechanism": "SCRAM-SHA-512", "username": OTHER_USER, "password": OTHER_PASSWORD});
    config["endpoint"]["kafka"]["bootstrapServers"] = json!([kafka.sasl()]);
    let bridge = world.bridge(&config).await;
    let process = bridge.child.pid();
    world.outside.produce(&world.topic("in"), "i", 0..1_000, 0).await.unwrap();
    config["endpoint"]["kafka"]["sasl"] = sasl("SCRAM-SHA-512", PASSWORD);
    bridge.write_config(&config.to_string()).unwrap();
    let ended = ScramCredentialDeletion { name: OTHER_USER.to_owned(), mechanism: ScramMechanism::Sha512 };
    let admin = world.outside.admin();
    let changed = admin.alter_user_scram_credentials(vec![ended], vec![], AlterUserScramCredentialsOptions::default());
    changed.await.unwrap().remove(OTHER_USER).unwrap().unwrap();
    world.outside.produce(&world.topic("in"), "i", 1_000..2_000, 0).await.unwrap();
    world.publish("out.a", "o", 0..100).await;
    assert_eq!(world.holds_all("IN", "i", 2_000).await, 0);
    world.outside.receives_all(&world.topic("out"), "o", 100).await.unwrap();
    for route in ["in", "out"] {
        complete(&bridge.route(route, "quiet route", |route| route.counters.in_flight == 0).await.unwrap());
    }
    assert_eq!(bridge.child.pid(), process);
    assert!(bridge.child.exited().is_none());
}

/// Allows one user what is named, and thereby nobody else.
async fn allow(world: &World, kind: AclResourceType, name: &str, user: &str, operation: AclOperation) {
    let acl = AclBinding::new(kind, name, format!("User:{user}"), "*", operation, AclPermissionType::Allow)
        // The client writes the literal pattern as one that only filters may have.
        .with_pattern_type(AclPatternType::Prefixed);
    let made = world.outside.admin().create_acls(vec![acl], CreateAclsOptions::default()).await.unwrap();
    for (_, result) in made {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_taken_up_when_given() {
    let kafka = shared_kafka().await;
    let world = World::at(kafka).await;
    let mut config = world.config();
    config["endpoint"]["kafka"]["sasl"] = sasl("SCRAM-SHA-512", PASSWORD);
    config["endpoint"]["kafka"]["bootstrapServers"] = json!([kafka.sasl()]);
    let (into, out) = (world.topic("in"), world.topic("out"));
    for topic in [&into, &out] {
        allow(&world, AclResourceType::Topic, topic, "someone-else", AclOperation::All).await;
        allow(&world, AclResourceType::Topic, topic, USER, AclOperation::Describe).await;
    }
    allow(&world, AclResourceType::Group, &world.topic("group"), "someone-else", AclOperation::All).await;
    let bridge = start(&config);
    world.outside.produce(&into, "i", 0..20, 0).await.unwrap();
    world.publish("out.a", "o", 0..20).await;
    bridge.route("in", "word about the group", |route| says(route, "Read on the group")).await.unwrap();
    let route = bridge.route("out", "word about writing", |route| says(route, "Write on the topic")).await.unwrap();
    assert_eq!(route.state, RouteState::Blocked);
    allow(&world, AclResourceType::Group, &world.topic("group"), USER, AclOperation::Read).await;
    let route = bridge.route("in", "word about reading", |route| says(route, "Read on it")).await.unwrap();
    assert_eq!(route.state, RouteState::Failed);
    allow(&world, AclResourceType::Topic, &into, USER, AclOperation::Read).await;
    allow(&world, AclResourceType::Topic, &out, USER, AclOperation::Write).await;
    world.holds_all("IN", "i", 20).await;
    assert_eq!(world.outside.receives_all(&out, "o", 20).await.unwrap(), 0);
    for route in ["in", "out"] {
        bridge.route(route, "running route", |route| route.state == RouteState::Running).await.unwrap();
    }
}
