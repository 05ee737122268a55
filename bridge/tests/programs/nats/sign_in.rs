//! As whom the bridge signs in at the other system, and whether it trusts it.

use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::certificates::{Authority, Identity};
use eventmesh_tests::process::nats::create_stream;
use eventmesh_tests::process::{Accounts, Nats};
use eventmesh_wire::report::RouteState;
use rstest::rstest;
use serde_json::{Value, json};

use super::world::Far;
use crate::common::{RIGHTS, running, says, start};

async fn far(other: Nats, outside: async_nats::Client) -> Far {
    create_stream(&outside, "ORDERS", &["orders.>"], &json!({})).await.unwrap();
    create_stream(&outside, "COPY", &["copy.>"], &json!({})).await.unwrap();
    Far::between(other, outside).await
}

/// The bridge is refused with `wrong`, and then carries events with `right`.
async fn refused_then_let_in(far: &Far, wrong: Value, right: Value) {
    let mut config = far.config();
    config["endpoint"]["nats"]["credentials"] = wrong;
    let bridge = start(&config);
    let refused = |route: &eventmesh_wire::report::RouteReport| {
        route.state == RouteState::Failed && says(route, "refuses the credentials")
    };
    bridge.route("in", "word about the credentials", refused).await.unwrap();
    config["endpoint"]["nats"]["credentials"] = right.clone();
    bridge.write_config(&config.to_string()).unwrap();
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 50).await;
    let log = bridge.child.log_tail(usize::MAX);
    for secret in ["tokentoken", "passpass"] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    if let Some(seed) = right["nkey"].as_str() {
        assert!(!log.contains(seed), "a seed is in the log");
    }
}

#[rstest]
#[case(
    "authorization { token: tokentoken }",
    async_nats::ConnectOptions::with_token("tokentoken".into()),
    json!({"token": "no"}),
    json!({"token": "tokentoken"})
)]
#[case(
    "authorization { user: u, password: passpass }",
    async_nats::ConnectOptions::with_user_and_password("u".into(), "passpass".into()),
    json!({"login": {"username": "u", "password": "no"}}),
    json!({"login": {"username": "u", "password": "passpass"}})
)]
#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_or_a_password(
    #[case] settings: &str,
    #[case] options: async_nats::ConnectOptions,
    #[case] wrong: Value,
    #[case] right: Value,
) {
    let other = Nats::start(scratch("other").unwrap(), "2m", settings).await.unwrap();
    let outside = options.connect(other.url()).await.unwrap();
    refused_then_let_in(&far(other, outside).await, wrong, right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key() {
    let (key, stranger) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let settings = format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key());
    let other = Nats::start(scratch("other").unwrap(), "2m", &settings).await.unwrap();
    let seed = |key: &nkeys::KeyPair| key.seed().unwrap();
    let outside = async_nats::ConnectOptions::with_nkey(seed(&key)).connect(other.url()).await.unwrap();
    let far = far(other, outside).await;
    refused_then_let_in(&far, json!({"nkey": seed(&stranger)}), json!({"nkey": seed(&key)})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_credentials_file() {
    let accounts = Accounts::new(RIGHTS);
    let other = Nats::verifying(scratch("other").unwrap(), "2m", "", &accounts).await.unwrap();
    let outside = other.client().await.unwrap();
    let creds = |login: &eventmesh_tests::identity::Login| {
        let (jwt, seed) = (&login.jwt, &login.seed);
        json!({"creds": format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )})
    };
    let (right, wrong) = (accounts.admin().unwrap(), accounts.forged().unwrap());
    refused_then_let_in(&far(other, outside).await, creds(&wrong), creds(&right)).await;
}

fn settings(folder: &std::path::Path, identity: &Identity) -> String {
    std::fs::write(folder.join("tls.crt"), &identity.certificate).unwrap();
    std::fs::write(folder.join("tls.key"), &identity.key).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    format!("allow_non_tls: true\ntls {{ cert_file: \"{}\", key_file: \"{}\" }}", file("tls.crt"), file("tls.key"))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_that_is_good_is_trusted() {
    let authority = Authority::new().unwrap();
    let folder = scratch("certificates").unwrap();
    let expired = authority.server_between(&["127.0.0.1"], 2020, 2021).unwrap();
    let other = Nats::start(scratch("other").unwrap(), "2m", &settings(&folder, &expired)).await.unwrap();
    let outside = other.client().await.unwrap();
    let far = far(other, outside).await;
    let mut config = far.config();
    config["endpoint"]["nats"]["urls"] = json!([format!("tls://127.0.0.1:{}", far.other.port)]);
    config["endpoint"]["nats"]["tls"] = json!({"caPem": authority.pem()});
    let bridge = start(&config);
    let expired =
        |route: &eventmesh_wire::report::RouteReport| route.state == RouteState::Failed && says(route, "xpired");
    bridge.route("in", "word about the certificate", expired).await.unwrap();
    settings(&folder, &authority.server(&["127.0.0.1"]).unwrap());
    far.other.reload().unwrap();
    running(&bridge, &["in", "out"]).await;
    far.carries(&bridge, "x", 50).await;
    let stranger = Authority::new().unwrap();
    config["endpoint"]["nats"]["tls"]["caPem"] = json!(stranger.pem());
    bridge.write_config(&config.to_string()).unwrap();
    let unknown =
        |route: &eventmesh_wire::report::RouteReport| route.restarts == 1 && says(route, "can not be trusted");
    bridge.route("in", "word about the authority", unknown).await.unwrap();
}
