//! The accounts of a mesh without an operator: what brokers that verify tokens are configured with, and who may log in.
//!
//! Shaped as the operator shapes them (`operator/src/identity/rights.rs`): the streams are in the mesh's account; a bridge
//! has an account of its own, which imports what it may do.

use anyhow::{Context as _, Result, ensure};
use eventmesh_wire::names;
use jiff::Timestamp;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::Nats;
use crate::identity::{self, Login};

/// What a bridge may do in the mesh.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The subjects of streams that it may publish to.
    pub publish: &'static [&'static str],
    /// Stream and consumer.
    pub consume: &'static [(&'static str, &'static str)],
    /// Streams that it may ask about.
    pub inspect: &'static [&'static str],
    /// Namespace and name of the bridge.
    pub reports_as: (&'static str, &'static str),
}

/// The keys of one mesh with one bridge.
pub struct Accounts {
    operator: KeyPair,
    system: KeyPair,
    mesh: KeyPair,
    bridge: KeyPair,
    /// Signs the users of the bridge's account.
    signing: KeyPair,
    rights: Rights,
    /// Subjects of its own account on which it may publish and subscribe, besides.
    own: &'static [&'static str],
    connections: i64,
}

/// Where a request for the figures of one's account goes: to nobody.
const NOBODY: &str = "$EM.nobody";

impl Accounts {
    #[must_use]
    pub fn new(rights: Rights) -> Self {
        let account = KeyPair::new_account;
        let (system, mesh, bridge, signing) = (account(), account(), account(), account());
        let operator = KeyPair::new_operator();
        Self { operator, system, mesh, bridge, signing, rights, own: &[], connections: 5 }
    }

    /// For an application instead of a bridge: it talks to others of its account, over more connections.
    #[must_use]
    pub fn of_application(rights: Rights, own: &'static [&'static str], connections: i64) -> Self {
        Self { own, connections, ..Self::new(rights) }
    }

    /// What a broker's configuration needs.
    pub fn config(&self) -> Result<String> {
        let operator = json!({"type": "operator", "version": 2, "system_account": self.system.public_key()});
        let limits = json!({"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        let accounts = [
            (&self.system, json!({"limits": limits_with(&json!({}))})),
            (&self.mesh, json!({"limits": limits_with(&limits), "exports": self.exports()})),
            (&self.bridge, self.bridge_account()),
        ];
        let preload: Vec<String> = accounts
            .iter()
            .map(|(key, claims)| Ok(format!("{}: \"{}\"", key.public_key(), self.account(key, claims)?)))
            .collect::<Result<_>>()?;
        Ok(format!(
            "operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{}\n}}\n",
            self.token(&self.operator, &operator)?,
            self.system.public_key(),
            preload.join("\n"),
        ))
    }

    /// A user with all rights in the mesh's account.
    pub fn admin(&self) -> Result<Login> {
        unlimited(&self.mesh)
    }

    /// A new user of the bridge's account.
    pub fn bridge(&self) -> Result<Login> {
        identity::user(&self.signing, &self.bridge.public_key(), &json!({}), &json!({}))
    }

    /// As [`Accounts::bridge`], for some seconds only.
    pub fn bridge_for(&self, seconds: i64) -> Result<Login> {
        let ends = json!({"exp": Timestamp::now().as_second() + seconds});
        identity::user(&self.signing, &self.bridge.public_key(), &ends, &json!({}))
    }

    /// A user that says it is of the bridge's account and was signed by somebody else.
    pub fn forged(&self) -> Result<Login> {
        identity::user(&KeyPair::new_account(), &self.bridge.public_key(), &json!({}), &json!({}))
    }

    /// Lets nobody into the bridge's account any more; who is in is thrown out.
    pub async fn revoke_bridge(&self, nats: &Nats) -> Result<()> {
        let none = json!({"conn": 0, "leaf": 0, "imports": 0, "exports": 0, "subs": 0});
        self.tell(nats, &json!({"limits": limits_with(&none)})).await
    }

    /// Undoes [`Accounts::revoke_bridge`] for users that are signed from now on.
    pub async fn reinstate_bridge(&mut self, nats: &Nats) -> Result<()> {
        self.signing = KeyPair::new_account();
        self.tell(nats, &self.bridge_account()).await
    }

    async fn tell(&self, nats: &Nats, claims: &Value) -> Result<()> {
        let client = unlimited(&self.system)?.connect(nats).await?;
        let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", self.bridge.public_key());
        let answer = client.request(subject, self.account(&self.bridge, claims)?.into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(answer["data"]["code"] == 200, "the broker does not take the account: {answer}");
        Ok(())
    }

    fn account(&self, key: &KeyPair, claims: &Value) -> Result<String> {
        let mut claims = claims.clone();
        (claims["type"], claims["version"]) = (json!("account"), json!(2));
        self.token(key, &claims)
    }

    fn token(&self, subject: &KeyPair, nats: &Value) -> Result<String> {
        // Any text that no other token has.
        let id = KeyPair::new_user().public_key();
        let claims = json!({"jti": id, "iat": Timestamp::now().as_second(), "iss": self.operator.public_key(),
            "name": "test", "sub": subject.public_key(), "nats": nats});
        identity::sign(&self.operator, &claims)
    }

    fn exports(&self) -> Vec<Value> {
        let export = |subject: &str, kind: &str, answers: Option<&str>| {
            let mut export = json!({"name": subject, "subject": subject, "type": kind});
            if let Some(answers) = answers {
                export["response_type"] = json!(answers);
            }
            export
        };
        let one = Some("Singleton");
        let mut exports = vec![export("$JS.API.CONSUMER.MSG.NEXT.*.*", "service", Some("Stream"))];
        let services = [
            "$JS.API.CONSUMER.INFO.*.*",
            "$JS.API.CONSUMER.RESET.*.*",
            "$JS.API.STREAM.INFO.*",
            "$JS.ACK.*.*.>",
            "$EM.report.*.*.*",
            "$EM.lease.*.*",
            "$JS.API.DIRECT.GET.EM_leases.$EM.lease.*.*",
            NOBODY,
        ];
        exports.extend(services.map(|subject| export(subject, "service", one)));
        for subject in self.rights.publish {
            exports.push(export(subject, "service", one));
            exports.push(export(subject, "stream", None));
        }
        exports
    }

    fn own_subjects(&self) -> Vec<String> {
        let mut subjects: Vec<String> = self.rights.publish.iter().map(|subject| (*subject).to_owned()).collect();
        for (stream, consumer) in self.rights.consume {
            subjects.push(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"));
            subjects.push(format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"));
            subjects.push(format!("$JS.API.CONSUMER.RESET.{stream}.{consumer}"));
            subjects.push(format!("$JS.ACK.{stream}.{consumer}.>"));
        }
        subjects.extend(self.rights.inspect.iter().map(|stream| format!("$JS.API.STREAM.INFO.{stream}")));
        let (namespace, name) = self.rights.reports_as;
        subjects.push(format!("$EM.report.{namespace}.{name}.*"));
        subjects.push(names::lease_subject(namespace, name));
        subjects.push(names::lease_read_subject(namespace, name));
        subjects
    }

    fn bridge_account(&self) -> Value {
        let subjects = self.own_subjects();
        let import = |subject: &str| json!({"name": subject, "subject": subject, "account": self.mesh.public_key(), "type": "service"});
        let mut imports: Vec<Value> = subjects.iter().map(|subject| import(subject)).collect();
        let mut nobody = import(NOBODY);
        nobody["local_subject"] = json!("$JS.API.INFO");
        imports.push(nobody);
        let mut publish = subjects;
        publish.push("_INBOX.>".to_owned());
        publish.extend(self.own.iter().map(|subject| (*subject).to_owned()));
        let subscribe: Vec<&str> = ["_INBOX.>"].into_iter().chain(self.own.iter().copied()).collect();
        let template = json!({"pub": {"allow": publish}, "sub": {"allow": subscribe}, "subs": 10_000, "data": -1,
            "payload": -1});
        let scope =
            json!({"kind": "user_scope", "key": self.signing.public_key(), "role": "bridge", "template": template});
        let limits = json!({"subs": 50_000, "exports": 0, "conn": self.connections, "leaf": 0});
        json!({"limits": limits_with(&limits), "imports": imports, "signing_keys": [scope]})
    }
}

impl Login {
    /// As `mesh.credentials` of a bridge's configuration.
    #[must_use]
    pub fn as_config(&self) -> Value {
        json!({"jwt": self.jwt, "seed": self.seed})
    }

    /// A connection as this user.
    pub async fn connect(&self, nats: &Nats) -> Result<async_nats::Client> {
        self.options()?.connect(nats.url()).await.context("cannot connect to the broker")
    }
}

/// A user who may do everything in an account.
fn unlimited(account: &KeyPair) -> Result<Login> {
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1});
    identity::user(account, &account.public_key(), &json!({}), &unlimited)
}

/// No limits and no storage, but for what is said.
fn limits_with(more: &Value) -> Value {
    let mut limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0});
    identity::merge(&mut limits, more);
    limits
}
