//! The Secret by which a party connects, laid out as the Service Binding specification for Kubernetes says. Pure.

use std::collections::BTreeMap;

use eventmesh_wire::{config::sidecar::SIDECAR_FILE, link_secret};
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use nkeys::{KeyPair, KeyPairType};

use super::{
    claims::{self, ClaimsError, User},
    party::Party,
};
use crate::{broker::MeshKey, labels};

/// Keys of the Secret.
pub use eventmesh_wire::link_secret::{CREDS, EXPIRES, JWT};
pub const SEED: &str = "nkey";
const MQTT_USERNAME: &str = "mqtt-username";
const MQTT_PASSWORD: &str = "mqtt-password";

/// How to reach the brokers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub scheme: &'static str,
    pub host: String,
    pub port: i32,
    /// Certificate authorities to trust, in PEM; none without TLS.
    pub ca: Option<String>,
}

/// A user and how long it is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub token: String,
    pub seed: String,
    pub expires: i64,
}

impl Credentials {
    /// A new user of an account.
    pub fn issue(
        signing: &KeyPair,
        account: &str,
        party: &Party,
        now: i64,
        lifetime: i64,
    ) -> Result<Self, ClaimsError> {
        let user = KeyPair::new_user();
        let expires = now.saturating_add(lifetime);
        let claims = User::scoped(account.to_owned());
        // Clocks differ: a token must not be one of the future for a broker that is a little behind.
        let token = claims::sign(signing, &user.public_key(), &party.to_string(), now - 60, Some(expires), &claims)?;
        let seed = user.seed().map_err(|error| ClaimsError::Key(error.to_string()))?;
        Ok(Self { token, seed, expires })
    }

    /// What a Secret holds, if it is a user whom this key has signed.
    #[must_use]
    pub fn read(data: &BTreeMap<String, ByteString>, signing: &KeyPair, account: &str) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let (token, seed) = (text(JWT)?, text(SEED)?);
        let claims = claims::read::<User>(&token).ok()?;
        let user = KeyPair::from_seed(&seed).ok()?;
        let ours = claims.iss == signing.public_key()
            && claims.nats.issuer_account == account
            && user.key_pair_type() == KeyPairType::User
            && user.public_key() == claims.sub;
        ours.then_some(Self { token, seed, expires: claims.exp? })
    }

    /// What a Secret holds for MQTT, if it is a user whom this key has signed. A device proves nothing but the token.
    #[must_use]
    pub fn read_mqtt(data: &BTreeMap<String, ByteString>, signing: &KeyPair, account: &str) -> Option<Self> {
        let token = String::from_utf8(data.get(MQTT_PASSWORD)?.0.clone()).ok()?;
        let claims = claims::read::<User>(&token).ok()?;
        let ours = claims.iss == signing.public_key() && claims.nats.issuer_account == account;
        ours.then_some(Self { token, seed: String::new(), expires: claims.exp? })
    }

    /// When it is to be renewed: after two thirds of its life.
    #[must_use]
    pub fn renewal(&self, lifetime: i64) -> i64 {
        self.expires - lifetime / 3
    }
}

/// Name and namespace of the Secret of a party. Namespaces and names of meshes hold no dot, so no two parties share one.
#[must_use]
pub fn place(mesh: &MeshKey, party: &Party) -> (String, String) {
    match party {
        Party::ServiceAccount { namespace, name } => {
            (namespace.clone(), cut(format!("{}.{}.{name}", mesh.namespace, mesh.name)))
        }
        Party::Bridge { namespace, name } => (namespace.clone(), bridge_secret(name)),
        // What a client needs for MQTT is in the same Secret.
        Party::Client { name } | Party::Mqtt { name } => {
            (mesh.namespace.clone(), format!("{}-client-{name}", mesh.name))
        }
        Party::Link { name } => (mesh.namespace.clone(), link_secret::name(&mesh.name, name)),
    }
}

/// Name of the Secret of a Bridge.
#[must_use]
pub fn bridge_secret(bridge: &str) -> String {
    format!("{bridge}-bridge-credentials")
}

/// Names of Secrets have at most 253 characters; a longer one ends with a fingerprint of the whole.
fn cut(name: String) -> String {
    const LONGEST: usize = 253;
    if name.len() <= LONGEST {
        return name;
    }
    let mark = eventmesh_wire::config_hash(name.as_bytes());
    format!("{}-{}", &name[..LONGEST - 13], &mark[..12])
}

/// The Secret. `sidecar`: what the sidecar of a ServiceAccount's pods is told. `mqtt`: how to reach the MQTT listener, the token
/// that a device shows there as its password, and the name of its session.
#[must_use]
pub fn secret(
    mesh: &MeshKey,
    party: &Party,
    owner: OwnerReference,
    address: &Address,
    credentials: &Credentials,
    sidecar: Option<&str>,
    mqtt: Option<(&Address, &Credentials, &str)>,
) -> Secret {
    let (namespace, name) = place(mesh, party);
    let Address { scheme, host, port, ca } = address;
    let mut entries = vec![
        ("type", "nats".to_owned()),
        ("provider", "eventmesh".to_owned()),
        ("uri", format!("{scheme}://{host}:{port}")),
        ("host", host.clone()),
        ("port", port.to_string()),
        (CREDS, claims::creds_file(&credentials.token, &credentials.seed)),
        (JWT, credentials.token.clone()),
        (SEED, credentials.seed.clone()),
        (EXPIRES, timestamp(credentials.expires)),
    ];
    if let Some(ca) = ca {
        entries.push(("ca.crt", ca.clone()));
        entries.push(("certificates", ca.clone()));
    }
    entries.extend(sidecar.map(|file| (SIDECAR_FILE, file.to_owned())));
    if let Some((mqtt, token, session)) = mqtt {
        entries.push(("mqtt-host", mqtt.host.clone()));
        entries.push(("mqtt-port", mqtt.port.to_string()));
        // Any name will do; the token tells who it is.
        entries.push((MQTT_USERNAME, party.to_string().replace("client/", "")));
        entries.push((MQTT_PASSWORD, token.token.clone()));
        // Who knows a device's client id can take its session over, so it is no name that others can guess.
        entries.push(("mqtt-client-id", session.to_owned()));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            labels: Some(BTreeMap::from([
                (labels::COMPONENT.to_owned(), labels::CREDENTIALS.to_owned()),
                (labels::PART_OF.to_owned(), labels::PART_OF_VALUE.to_owned()),
                (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned()),
                (labels::MESH.to_owned(), mesh.name.clone()),
                (labels::MESH_NAMESPACE.to_owned(), mesh.namespace.clone()),
            ])),
            annotations: Some(BTreeMap::from([(labels::PARTY.to_owned(), party.to_string())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("servicebinding.io/nats".to_owned()),
        data: Some(entries.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect()),
        ..Secret::default()
    }
}

fn timestamp(seconds: i64) -> String {
    k8s_openapi::jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party() -> Party {
        Party::ServiceAccount { namespace: "shop".into(), name: "ledger".into() }
    }

    fn mesh() -> MeshKey {
        MeshKey { namespace: "platform".into(), name: "retail".into() }
    }

    fn data(credentials: &Credentials) -> BTreeMap<String, ByteString> {
        let address = Address { scheme: "tls", host: "h".into(), port: 1, ca: None };
        secret(&mesh(), &party(), OwnerReference::default(), &address, credentials, None, None).data.expect("data")
    }

    #[test]
    fn what_was_issued_is_recognised_and_nothing_else() {
        let (key, other) = (KeyPair::new_account(), KeyPair::new_account());
        let issued = Credentials::issue(&key, "AACC", &party(), 1000, 300).expect("issued");
        let mut data = data(&issued);
        assert!(Credentials::read(&data, &key, "AACC").is_some_and(|read| read == issued));
        assert!(Credentials::read(&data, &other, "AACC").is_none(), "signed by another key");
        assert!(Credentials::read(&data, &key, "AOTHER").is_none(), "of another account");
        data.insert(SEED.into(), ByteString(KeyPair::new_user().seed().expect("a seed").into_bytes()));
        assert!(Credentials::read(&data, &key, "AACC").is_none(), "the seed of somebody else");
        data.insert(SEED.into(), ByteString(b"rubbish".to_vec()));
        assert!(Credentials::read(&data, &key, "AACC").is_none());
    }

    #[test]
    fn it_is_renewed_after_two_thirds() {
        let credentials = Credentials { token: String::new(), seed: String::new(), expires: 1300 };
        assert_eq!(credentials.renewal(300), 1200);
    }

    #[test]
    fn places_differ_and_fit() {
        let long = Party::ServiceAccount { namespace: "n".into(), name: "a".repeat(253) };
        let longer = Party::ServiceAccount { namespace: "n".into(), name: format!("{}b", "a".repeat(252)) };
        let (one, other) = (place(&mesh(), &long).1, place(&mesh(), &longer).1);
        assert!(one.len() <= 253 && one != other);
        assert_eq!(place(&mesh(), &party()), ("shop".into(), "platform.retail.ledger".into()));
    }
}
