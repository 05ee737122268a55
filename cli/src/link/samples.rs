//! A mesh and a Secret that the tests here share. The keys are no secrets: everybody can make them.

use data_encoding::BASE64URL_NOPAD;
use eventmesh_crds::EventMesh;
use nkeys::{KeyPair, KeyPairType};
use rcgen::{CertificateParams, DnType};
use serde_json::{Value, json};

use super::secret::LinkData;

pub const NOW: i64 = 1_795_000_000;
pub const EXPIRES: i64 = NOW + 20 * 86_400;

/// A mesh with a link of each kind.
pub const DIALLED: &str = r#"{
    "brokers": {}, "listeners": {"leaf": {}}, "tls": {"serverNames": ["mesh.example", "*.wild.example"]},
    "links": [
        {"name": "plant", "to": {"remote": {}}, "export": ["orders.>"], "import": ["line.>"]},
        {"name": "office", "to": {"mesh": {"name": "office"}}, "export": ["orders.>"]},
        {"name": "far", "to": {"remote": {"urls": ["tls://far.example:7422"], "secret": {"name": "far"}}}}
    ]
}"#;

pub fn mesh(spec: &str) -> EventMesh {
    serde_json::from_value(json!({
        "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
        "metadata": {"name": "retail", "namespace": "platform"},
        "spec": serde_json::from_str::<Value>(spec).expect("JSON"),
    }))
    .expect("a mesh")
}

/// What the operator's Secret of such a user holds.
pub fn data(user: &str) -> LinkData {
    let account = KeyPair::new_from_raw(KeyPairType::Account, [7; 32]).expect("a key");
    let key = KeyPair::new_from_raw(KeyPairType::User, [8; 32]).expect("a key");
    let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    let claims = json!({
        "iss": account.public_key(), "sub": key.public_key(), "iat": EXPIRES - 30 * 86_400, "exp": EXPIRES, "name": user,
        "nats": {"issuer_account": account.public_key(), "type": "user", "version": 2},
    });
    let content = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let token = format!("{content}.{}", BASE64URL_NOPAD.encode(&account.sign(content.as_bytes()).expect("signed")));
    let seed = key.seed().expect("a seed");
    let creds = format!("-----BEGIN NATS USER JWT-----\n{token}\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n");
    let values = [
        ("jwt", token),
        ("nkey", seed),
        ("nats.creds", creds),
        ("expires", "2026-12-08T11:06:40Z".to_owned()),
        ("uri", "tls://retail-nats.platform.svc:4222".to_owned()),
        ("ca.crt", authority()),
    ];
    LinkData {
        values: values.into_iter().map(|(key, value)| (key.to_owned(), value.into_bytes())).collect(),
        issued_by: Some("platform/retail".to_owned()),
    }
}

fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).expect("params");
    params.distinguished_name.push(DnType::CommonName, "retail");
    params.not_after = rcgen::date_time_ymd(2036, 11, 28);
    params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signed").pem()
}
