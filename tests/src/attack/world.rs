//! The mesh that is attacked, those who attack it, and what must be as it was afterwards.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, Subscription, Topic};
use eventmesh_wire::names;
use serde_json::{Value, json};

use super::wire::{Door, Proof, Speech, Trust};
use crate::{
    broker::Broker,
    identity::Login,
    objects::{Kube, Namespace, all_ready},
    wait::eventually,
};

pub const MESH: &str = "m";
pub const OTHER_MESH: &str = "other";
/// Connections that the mesh allows each party.
pub const MAX_CONNECTIONS: usize = 20;
const SOON: Duration = Duration::from_mins(1);
/// Events of the victim, and of the attacker's own Topic: each pull of an attempt takes one.
const VICTIMS_EVENTS: usize = 20;
const OWN_EVENTS: usize = 150;

/// Where the brokers listen: host and port of each.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub nats: String,
    pub websocket: Option<String>,
    pub mqtt: Option<String>,
    pub leaf: Option<String>,
    /// Of brokers among themselves.
    pub routes: Vec<String>,
    pub monitors: Vec<String>,
    /// Of the other mesh.
    pub other: Option<String>,
}

/// Namespaces of the world.
#[derive(Clone)]
pub struct Places {
    pub mesh: Namespace,
    pub victim: Namespace,
    pub attacker: Namespace,
}

/// Who attacks, and by what it may do it.
#[derive(Debug, Clone)]
pub struct Attacker {
    pub name: &'static str,
    pub login: Login,
    /// A subject that it may publish to.
    pub publishes: Option<String>,
    /// Its consumer of the stream of `open`.
    pub reads: Option<String>,
    /// It may ask for the state of the stream of `open`.
    pub inspects: bool,
    /// A subject that it may report on.
    pub reports: Option<String>,
}

/// All that attempts need.
pub struct World {
    pub places: Places,
    pub addresses: Addresses,
    pub trust: Trust,
    pub operator: Login,
    pub system: Login,
    pub auditor: Login,
    pub attackers: Vec<Attacker>,
    /// Of a party whose grant was taken away.
    pub former: Login,
    /// All rights in the other mesh.
    pub stranger: Login,
    /// Token of the client for MQTT, and of another client.
    pub device: Option<String>,
    pub other_device: Option<String>,
    /// The client id that its Secret names.
    pub other_session: Option<String>,
    /// The operator's connections.
    pub broker: Broker,
    pub system_broker: Broker,
    pub other_broker: Option<Broker>,
}

/// Objects of the EventMeshes.
#[must_use]
pub fn meshes(replicas: u32) -> String {
    let brokers = |replicas| {
        format!(
            "brokers: {{replicas: {replicas}, storage: {{size: 256Mi, sync: 10s}}, resources: {{requests: {{cpu: 20m, memory: 64Mi}}}}}}"
        )
    };
    object(
        "EventMesh",
        MESH,
        &format!(
            "  {}\n  listeners: {{mqtt: {{}}, websocket: {{}}, leaf: {{}}}}\n  identities: {{maxConnections: {MAX_CONNECTIONS}}}\n  allowedNamespaces: {{from: All}}\n  clients: [{{name: press-42}}, {{name: press-43}}]",
            brokers(replicas)
        ),
    ) + "---\n"
        + &object("EventMesh", OTHER_MESH, &format!("  {}\n  clients: [{{name: stranger}}]", brokers(1)))
        + "---\n"
        + &object("Topic", "elsewhere", "  mesh: {name: other}\n  grants: [{to: {client: stranger}, allow: [Publish]}]")
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: eventmesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}

fn service_account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")
}

impl Places {
    /// Three namespaces.
    pub async fn make(kube: &Kube) -> Result<Self> {
        Ok(Self {
            mesh: kube.make_namespace("mesh").await?,
            victim: kube.make_namespace("victim").await?,
            attacker: kube.make_namespace("attacker").await?,
        })
    }

    /// Takes them away.
    pub async fn remove(&self) -> Result<()> {
        let api: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(self.mesh.kube.client.clone());
        for namespace in [&self.attacker, &self.victim, &self.mesh] {
            api.delete(&namespace.name, &kube::api::DeleteParams::background()).await?;
        }
        Ok(())
    }

    #[must_use]
    pub fn stream(&self) -> String {
        names::stream(&self.victim.name, "payments")
    }

    #[must_use]
    pub fn own_stream(&self) -> String {
        names::stream(&self.attacker.name, "open")
    }

    #[must_use]
    pub fn auditors(&self) -> String {
        names::subscription_consumer(&self.victim.name, "audit")
    }

    fn mesh_ref(&self) -> String {
        format!("  mesh: {{name: {MESH}, namespace: {}}}", self.mesh.name)
    }

    fn open(&self, former: &str) -> String {
        let grants = "  - {to: {serviceAccount: {name: publisher}}, allow: [Publish], subjects: [open.app.>]}\n  \
             - {to: {serviceAccount: {name: narrow}}, allow: [Publish], subjects: ['open.*.eu', 'open.narrow']}\n  \
             - {to: {client: press-42}, allow: [Publish], subjects: [open.press.>]}\n  \
             - {to: {client: press-42}, allow: [Subscribe], subjects: [open.news.>]}";
        object("Topic", "open", &format!("{}\n  grants:\n{grants}\n{former}", self.mesh_ref()))
    }

    /// Everything that lives in the mesh.
    async fn apply(&self) -> Result<()> {
        let mesh = self.mesh_ref();
        self.victim.apply(&service_account("auditor")).await?;
        self.victim.apply(&object("Topic", "payments", &mesh)).await?;
        let commands = format!("{mesh}\n  grants: [{{to: {{client: press-43}}, allow: [Publish, Subscribe]}}]");
        self.victim.apply(&object("Topic", "commands", &commands)).await?;
        let audit = "  topic: {name: payments}\n  subscriber: {serviceAccount: auditor}\n  startFrom: {position: All}\n  ackWait: 1h";
        self.victim.apply(&object("Subscription", "audit", audit)).await?;
        for account in ["publisher", "reader", "narrow", "former"] {
            self.attacker.apply(&service_account(account)).await?;
        }
        let former = "  - {to: {serviceAccount: {name: former}}, allow: [Publish]}\n";
        self.attacker.apply(&self.open(former)).await?;
        for (name, subscriber) in [
            ("readings", "serviceAccount: reader"),
            ("narrows", "serviceAccount: narrow"),
            ("outside", "client: press-42"),
        ] {
            let spec =
                format!("  topic: {{name: open}}\n  subscriber: {{{subscriber}}}\n  startFrom: {{position: All}}");
            self.attacker.apply(&object("Subscription", name, &spec)).await?;
        }
        let bridge = format!(
            "{mesh}\n  endpoint: {{mqtt: {{url: 'mqtt://192.0.2.1:1883'}}}}\n  inbound: [{{name: in, from: 'site/+', to: 'open.bridge.{{1}}'}}]"
        );
        self.attacker.apply(&object("Bridge", "b", &bridge)).await?;
        all_ready::<Topic>(&self.victim, &["payments", "commands"]).await?;
        all_ready::<Topic>(&self.attacker, &["open"]).await?;
        all_ready::<Subscription>(&self.victim, &["audit"]).await?;
        all_ready::<Subscription>(&self.attacker, &["readings", "narrows", "outside"]).await?;
        // All that is made for it must be there before the state is looked at.
        self.attacker.condition::<Bridge>("b", "Programmed", "True", "Programmed").await.map(drop)
    }

    async fn attackers(&self) -> Result<Vec<Attacker>> {
        let own = format!("{}.{MESH}", self.mesh.name);
        let consumer = |name: &str| Some(names::subscription_consumer(&self.attacker.name, name));
        let plain =
            |name, login| Attacker { name, login, publishes: None, reads: None, inspects: false, reports: None };
        let account = async |name: &str| login(&self.attacker, &format!("{own}.{name}")).await;
        Ok(vec![
            Attacker { publishes: Some("open.app.x".into()), ..plain("publisher", account("publisher").await?) },
            Attacker { reads: consumer("readings"), ..plain("reader", account("reader").await?) },
            Attacker {
                publishes: Some("open.x.eu".into()),
                reads: consumer("narrows"),
                ..plain("publisher and reader", account("narrow").await?)
            },
            Attacker {
                publishes: Some("open.bridge.x".into()),
                inspects: true,
                reports: Some(names::report_subject(&self.attacker.name, "b", "attack")),
                ..plain("bridge", login(&self.attacker, "b-bridge-credentials").await?)
            },
            Attacker {
                publishes: Some("open.press.x".into()),
                reads: consumer("outside"),
                ..plain("client", login(&self.mesh, &format!("{MESH}-client-press-42")).await?)
            },
        ])
    }

    /// A party that had a right, and its credentials of then.
    async fn former(&self, address: &str) -> Result<Login> {
        let secret = format!("{}.{MESH}.former", self.mesh.name);
        let former = login(&self.attacker, &secret).await?;
        connect(address, &former).await.context("before its grant is taken away")?;
        self.attacker.apply(&self.open("")).await?;
        self.attacker.gone::<k8s_openapi::api::core::v1::Secret>(&secret).await?;
        Ok(former)
    }
}

async fn login(namespace: &Namespace, secret: &str) -> Result<Login> {
    eventually(&format!("credentials {secret}"), SOON, async || {
        Login::from_secret(namespace, secret).await.map(Some).map_err(|error| format!("{error:#}"))
    })
    .await
}

async fn connect(address: &str, login: &Login) -> Result<Broker> {
    eventually("connection to the brokers", SOON, async || {
        Broker::connect(&format!("nats://{address}"), login).await.map(Some).map_err(|error| format!("{error:#}"))
    })
    .await
}

impl World {
    /// Makes everything on a mesh that runs.
    pub async fn build(places: Places, addresses: Addresses) -> Result<Self> {
        places.apply().await?;
        let attackers = places.attackers().await?;
        let former = places.former(&addresses.nats).await?;
        let operator = Login::operator(&places.mesh, MESH).await?;
        let system = Login::system(&places.mesh, MESH).await?;
        let stranger = Login::operator(&places.mesh, OTHER_MESH).await?;
        let auditor = login(&places.victim, &format!("{}.{MESH}.auditor", places.mesh.name)).await?;
        let (device, other_device, other_session) = if addresses.mqtt.is_some() {
            let secret =
                async |client: &str, key: &str| places.mesh.secret(&format!("{MESH}-client-{client}"), key).await;
            let other = "press-43";
            (
                Some(secret("press-42", "mqtt-password").await?),
                Some(secret(other, "mqtt-password").await?),
                Some(secret(other, "mqtt-client-id").await?),
            )
        } else {
            (None, None, None)
        };
        let trust = operator.ca.clone().map_or(Trust::Plain, Trust::Authorities);
        let broker = connect(&addresses.nats, &operator).await?;
        let system_broker = connect(&addresses.nats, &system).await?;
        let other_broker = match &addresses.other {
            Some(address) => Some(connect(address, &stranger).await?),
            None => None,
        };
        let world = Self {
            places,
            addresses,
            trust,
            operator,
            system,
            auditor,
            attackers,
            former,
            stranger,
            device,
            other_device,
            other_session,
            broker,
            system_broker,
            other_broker,
        };
        world.store().await?;
        Ok(world)
    }

    /// Events that are there when the attack begins, and one that the auditor has taken and not acknowledged.
    async fn store(&self) -> Result<()> {
        for number in 0..VICTIMS_EVENTS {
            self.broker.publish(&format!("payments.{number}"), "precious").await?;
        }
        // What an attacker stores is handed to it again by a pull: bodies that a consumer takes for an acknowledgement.
        for number in 0..OWN_EVENTS {
            let body = ["+ACK", "+TERM", "+NAK", "+NXT", ""][number % 5];
            self.broker.publish("open.app.x", body).await?;
        }
        let auditor = connect(&self.addresses.nats, &self.auditor).await?;
        eventually("an event for the auditor", SOON, async || {
            let fetched = auditor.fetch(&self.places.stream(), &self.places.auditors()).await;
            let event = fetched.map_err(|error| format!("{error:#}"))?;
            if event.payload.as_ref() == b"precious" { Ok(Some(())) } else { Err(format!("{:?}", event.status)) }
        })
        .await
    }

    #[must_use]
    pub fn door(&self, speech: Speech) -> Option<Door> {
        let address = match speech {
            Speech::Nats => Some(self.addresses.nats.clone()),
            Speech::WebSocket => self.addresses.websocket.clone(),
            Speech::Leaf => self.addresses.leaf.clone(),
        }?;
        Some(Door { address, speech, trust: self.trust.clone() })
    }

    /// The NATS port of the other mesh, which has an authority of its own.
    #[must_use]
    pub fn other_door(&self) -> Option<Door> {
        let trust = self.stranger.ca.clone().map_or(Trust::Plain, Trust::Authorities);
        Some(Door { address: self.addresses.other.clone()?, speech: Speech::Nats, trust })
    }

    /// The subjects under which `$JS.ACK` of the event that the auditor has taken comes.
    #[must_use]
    pub fn acknowledgement(&self, mark: &str) -> String {
        format!("$JS.ACK.{}.{}.1.1.1.{mark}.0", self.places.stream(), self.places.auditors())
    }

    /// What no attempt may change.
    pub async fn state(&self) -> Result<BTreeMap<String, Value>> {
        let mut state = BTreeMap::new();
        let (stream, own, auditors) = (self.places.stream(), self.places.own_stream(), self.places.auditors());
        let info = self.broker.stream(&stream).await?.unwrap_or_default();
        state.insert(
            "the victim's stream".into(),
            stream_facts(&info, &["messages", "last_seq", "first_seq", "num_deleted"]),
        );
        let info = self.broker.consumer(&stream, &auditors).await?.unwrap_or_default();
        state.insert(
            "the auditor's consumer".into(),
            json!({"config": info["config"], "ack_floor": [info["ack_floor"]["stream_seq"], info["ack_floor"]["consumer_seq"]],
                "delivered": [info["delivered"]["stream_seq"], info["delivered"]["consumer_seq"]], "paused": info["paused"],
                "ack_pending": info["num_ack_pending"], "redelivered": info["num_redelivered"], "waiting": info["num_waiting"]}),
        );
        let info = self.broker.stream(&own).await?.unwrap_or_default();
        state.insert(
            "the attacker's stream, beyond its publishes".into(),
            stream_facts(&info, &["first_seq", "num_deleted"]),
        );
        let foreign = self.foreign_subjects(&own).await?;
        state.insert("subjects that nobody may publish".into(), json!(foreign));
        let consumers = self.broker.api(&format!("CONSUMER.NAMES.{stream}"), &Value::Null).await?;
        state.insert("consumers".into(), consumers.unwrap_or_default()["consumers"].clone());
        let streams = self.broker.api("STREAM.NAMES", &Value::Null).await?;
        state.insert("streams".into(), streams.unwrap_or_default()["streams"].clone());
        state.insert("accounts".into(), self.accounts().await?);
        if let Some(other) = &self.other_broker {
            let streams = other.api("STREAM.LIST", &Value::Null).await?.unwrap_or_default();
            let streams: Vec<Value> = streams["streams"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| stream_facts(one, &["messages"]))
                .collect();
            state.insert("the other mesh".into(), json!(streams));
        }
        Ok(state)
    }

    /// Stored subjects of the attacker's own Topic that none of the grants names.
    async fn foreign_subjects(&self, stream: &str) -> Result<Vec<String>> {
        let request = json!({"subjects_filter": ">"});
        let info = self.broker.api(&format!("STREAM.INFO.{stream}"), &request).await?.unwrap_or_default();
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let known = |subject: &String| {
            ["open.app.", "open.press.", "open.bridge.", "open.eu."].iter().any(|own| subject.starts_with(own))
                || subject.split('.').next_back() == Some("eu")
        };
        Ok(subjects.into_iter().map(|(subject, _)| subject).filter(|subject| !known(subject)).collect())
    }

    async fn accounts(&self) -> Result<Value> {
        let answer = self.system_broker.client.request("$SYS.REQ.CLAIMS.LIST", "".into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        let mut accounts: Vec<String> =
            answer["data"].as_array().into_iter().flatten().filter_map(|one| Some(one.as_str()?.to_owned())).collect();
        accounts.sort();
        Ok(json!(accounts))
    }

    /// The key that signs the users of a party, which only the operator has.
    pub async fn signing_key(&self, party: &str) -> Result<(nkeys::KeyPair, String)> {
        let record = self.places.mesh.secret(&format!("{MESH}-identities"), "identities.json").await?;
        let record: Value = serde_json::from_str(&record)?;
        let identity = &record["identities"][party];
        let seed = identity["signing"].as_str().context("a signing key")?;
        Ok((crate::identity::key(seed)?, identity["account"].as_str().context("an account")?.to_owned()))
    }
}

fn stream_facts(info: &Value, facts: &[&str]) -> Value {
    let state: BTreeMap<&str, &Value> = facts.iter().map(|fact| (*fact, &info["state"][*fact])).collect();
    json!({"config": info["config"], "state": state, "leader": info["cluster"]["leader"]})
}

impl Attacker {
    #[must_use]
    pub fn proof(&self) -> Proof {
        proof(&self.login)
    }
}

/// How somebody with a login proves who it is.
#[must_use]
pub fn proof(login: &Login) -> Proof {
    Proof::Token { jwt: login.jwt.clone(), seed: Some(login.seed.clone()) }
}
