//! The identity controller: who may connect to a mesh, and what each may do there.
//!
//! A pass gathers the parties of a mesh and their rights ([`collect`]), keeps the record of their accounts ([`record`]),
//! tells the brokers of what has changed ([`rights`], [`claims`]), and keeps the Secret of each party ([`credentials`]).
//! In this order, so that no Secret names an account that the brokers do not know, and the record knows every account
//! that they do.

pub mod claims;
pub mod collect;
pub mod credentials;
pub mod grants;
mod keyring;
mod keys;
pub mod live;
pub mod party;
mod plan;
pub mod record;
pub mod report;
pub mod rights;
mod sidecar;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use eventmesh_crds::EventMesh;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::{
    broker::{BrokerChange, MeshBroker, MeshKey},
    cache::namespaced,
    engine::{Context, Controller, Error, Outcome, apply},
    mesh::build::{config_file::CLIENT_PORT, listeners::Listener, names, secrets},
    trust,
};

pub use collect::link_subjects;
pub use keyring::{Found, Keyring, resolve as resolve_keys};
pub use keys::MeshKeys;
pub use report::Reports;
pub use sweep::run as sweep;

use credentials::Address;
use party::Party;
use plan::{Known, Plan};
use record::Record;

/// Annotation by which a person asks for new signing keys: each new value is a request.
pub const ROTATE: &str = "eventmesh.dev/rotate-signing-keys";
/// How long changes are gathered before a pass looks. Short: a grant is to hold within two seconds.
const GATHER: Duration = Duration::from_millis(150);
/// When credentials that could not be written are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Secrets that are read or written at once.
const AT_ONCE: usize = 16;

pub struct IdentityController {
    context: Arc<Context>,
    /// What is known of each mesh since the start; by the uid of the EventMesh, so that a new one starts anew.
    known: std::sync::Mutex<BTreeMap<Mesh, Arc<Mutex<Known>>>>,
}

/// A mesh and the uid of its EventMesh.
type Mesh = (MeshKey, Option<String>);

impl IdentityController {
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, known: std::sync::Mutex::default() }
    }

    fn known(&self, key: &MeshKey, uid: Option<String>) -> Arc<Mutex<Known>> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(mesh, of), _| mesh != key || *of == uid);
        all.entry((key.clone(), uid)).or_default().clone()
    }
}

impl Controller for IdentityController {
    type Object = EventMesh;
    const NAME: &'static str = "identity";

    async fn reconcile(&self, mesh: Arc<EventMesh>) -> Result<Outcome, Error> {
        let context = &*self.context;
        if mesh.metadata.deletion_timestamp.is_some() || mesh.spec.paused == Some(true) {
            return Ok(Outcome::Waiting);
        }
        let (namespace, name) = namespaced(&*mesh);
        let key = MeshKey { namespace, name };
        // Made and found good by the mesh controller; the brokers wake this one when they are there.
        let (Some(keys), Some(broker)) = (context.keyring.get(&key), context.brokers.get(&key)) else {
            return Ok(Outcome::Waiting);
        };
        if !broker.is_ready() {
            return Ok(Outcome::Waiting);
        }
        // A hundred Topics that are applied at once are one pass.
        tokio::time::sleep(GATHER).await;
        let known = self.known(&key, mesh.uid());
        let mut known = known.lock().await;
        let record = match read_record(context, &mesh, &key, &mut known).await? {
            Ok(record) => record,
            Err(problem) => {
                tell(context, &broker, &report::Report { identities: 0, problem: Some(problem) });
                return Ok(Outcome::Waiting);
            }
        };
        known.forget_what_restarted_brokers_missed(broker.running_brokers());
        let strangers = strangers(&broker, &known, &record, &keys).await?;
        let parties = collect::run(&context.cache, &key, &mesh);
        let held = read_credentials(context, &key, &known, &parties).await?;
        let address = address(context, &mesh, &key).await?;
        let mqtt_address = collect::speaks_mqtt(&mesh).then(|| Address {
            host: format!("{}.{}.svc", Listener::Mqtt.service(&key.name), key.namespace),
            port: Listener::Mqtt.port(mesh.spec.has_tls()),
            ..address.clone()
        });
        let leaf_address = Address {
            host: format!("{}.{}.svc", Listener::Leaf.service(&key.name), key.namespace),
            port: Listener::Leaf.port(mesh.spec.has_tls()),
            ..address.clone()
        };
        let now = context.now().as_second();
        let plan = Plan::new(&plan::Input {
            mesh: &mesh,
            key: &key,
            keys: &keys,
            parties: &parties,
            record: &record,
            held: &held,
            strangers: &strangers,
            known: &known,
            cache: &context.cache,
            address: &address,
            leaf_address: &leaf_address,
            mqtt_address: mqtt_address.as_ref(),
            now,
        })
        .map_err(|problem| Error::Identity { problem })?;
        execute(context, &mesh, &key, &broker, &mut known, plan, &parties).await
    }
}

/// The record, or what is wrong with it and what to do.
async fn read_record(
    context: &Context,
    mesh: &EventMesh,
    key: &MeshKey,
    known: &mut Known,
) -> Result<Result<Record, String>, Error> {
    let name = names::identities(&key.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &key.namespace);
    let secret = api.get_opt(&name).await.map_err(Error::kubernetes("read the record of identities"))?;
    let problem = match secret.and_then(|secret| secret.data) {
        None if known.record.is_none() => return Ok(Ok(Record::default())),
        None => "it is gone".to_owned(),
        Some(data) => match Record::read(data.get(record::FILE).map_or(&[], |file| file.0.as_slice())) {
            Ok(record) => {
                known.record = Some(record.clone());
                return Ok(Ok(record));
            }
            Err(problem) => problem,
        },
    };
    let Some(last_good) = known.record.take() else {
        return Ok(Err(format!(
            "Secret {name}: {problem}; identities stay as the brokers know them. Put it back from a backup, or delete it to give every party a new identity"
        )));
    };
    context.warn(mesh, "SecretRestored", format!("Secret {name}: {problem}; the last good content is put back")).await;
    // Not what the Secret holds: it is written again.
    known.restore = true;
    Ok(Ok(last_good))
}

/// Accounts that brokers know and the record does not, as after the loss of the record: nobody can say whose they are,
/// so they are closed. Asked once after each start.
async fn strangers(broker: &MeshBroker, known: &Known, record: &Record, keys: &MeshKeys) -> Result<Vec<String>, Error> {
    if known.record_checked {
        return Ok(Vec::new());
    }
    let mut accounts = broker.list_accounts().await.map_err(Error::broker("list the accounts"))?;
    let own = [keys.mesh.public_key(), keys.system.public_key()];
    accounts.retain(|account| {
        !own.contains(account)
            && !record.revoked.contains_key(account)
            && !record
                .identities
                .values()
                .chain(&record.mqtt)
                .chain(&record.live)
                .any(|identity| identity.account == *account)
    });
    Ok(accounts)
}

/// The Secrets of parties that are not as this operator left them, by party, and those that are to tell a sidecar something else:
/// what is in them besides is kept.
async fn read_credentials(
    context: &Context,
    key: &MeshKey,
    known: &Known,
    parties: &collect::Parties,
) -> Result<plan::Held, Error> {
    let unknown = parties.with_secret().filter_map(|party| {
        let (namespace, name) = credentials::place(key, &party);
        let version = context.cache.credentials_version(&namespace, &name);
        let left = known.applied.get(&party);
        let told = sidecar::fingerprint(sidecar::file(key, &party, parties).as_deref());
        // A Secret that was just written may not have reached the cache.
        let differs =
            version.as_ref() != left.map(|left| &left.version) || left.is_some_and(|left| left.sidecar != told);
        differs.then_some((party, namespace, name))
    });
    let unknown: Vec<_> = unknown.collect();
    stream::iter(unknown)
        .map(|(party, namespace, name)| async move {
            let api = Api::<Secret>::namespaced(context.client.clone(), &namespace);
            let secret = api.get_opt(&name).await.map_err(Error::kubernetes("read credentials"))?;
            let version = secret.as_ref().and_then(|secret| secret.metadata.resource_version.clone());
            Ok::<_, Error>(secret.map(|secret| (party, (version.unwrap_or_default(), secret.data.unwrap_or_default()))))
        })
        .buffer_unordered(AT_ONCE)
        .try_filter_map(|found| async { Ok(found) })
        .try_collect()
        .await
}

/// The writes: the record, then the brokers, then the Secrets, and last what is no longer wanted.
async fn execute(
    context: &Context,
    mesh: &EventMesh,
    key: &MeshKey,
    broker: &MeshBroker,
    known: &mut Known,
    plan: Plan,
    parties: &collect::Parties,
) -> Result<Outcome, Error> {
    if known.restore || known.record.as_ref() != Some(&plan.record) {
        let secret = secrets::private(
            mesh,
            names::identities(&key.name),
            [(record::FILE.to_owned(), ByteString(plan.record.write()))].into(),
        );
        apply::child(&context.client, &secret).await?;
        known.record = Some(plan.record.clone());
        known.restore = false;
    }
    // The mesh's own account first: others import from it. That of live events last: it imports from others.
    for accounts in [&plan.mesh_account, &plan.accounts, &plan.live_account] {
        let tokens: Vec<_> = accounts.iter().map(|account| account.token.clone()).collect();
        if !tokens.is_empty() {
            broker.push_accounts(&tokens).await.map_err(Error::broker("tell the brokers of accounts"))?;
            info!(mesh = %key, accounts = tokens.len(), "told the brokers of accounts");
        }
        for account in accounts {
            known.pushed.insert(account.token.account.clone(), (account.fingerprint, account.issued));
        }
    }
    known.record_checked = true;
    // A namespace that takes no Secret, as one that is being deleted, must not keep those of others waiting.
    let written: Vec<(Party, Result<plan::Applied, Error>)> = stream::iter(plan.secrets)
        .map(|wanted| async move {
            let applied = apply::child(&context.client, &wanted.secret).await.map(|applied| plan::Applied {
                version: applied.resource_version().unwrap_or_default(),
                content: wanted.content,
                sidecar: wanted.sidecar,
                renewal: wanted.renewal,
            });
            (wanted.party, applied)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut failed = None;
    for (party, applied) in written {
        match applied {
            Ok(applied) => drop(known.applied.insert(party, applied)),
            Err(error) => {
                warn!(mesh = %key, %party, %error, "could not write credentials; it is tried again");
                failed.get_or_insert(format!("{party}: {error}"));
            }
        }
    }
    known.applied.extend(plan.as_they_are);
    let with_secret: BTreeSet<Party> = parties.with_secret().collect();
    known.applied.retain(|party, _| with_secret.contains(party));
    let wanted: BTreeSet<String> = with_secret.iter().map(ToString::to_string).collect();
    for (namespace, name) in context.cache.credentials_of(key, |party| !wanted.contains(party)) {
        apply::delete::<Secret>(&context.client, &namespace, &name).await?;
    }
    tell(context, broker, &report::Report { identities: known.applied.len(), problem: None });
    if let Some(failed) = failed {
        context.warn(mesh, "CredentialsNotWritten", format!("{failed}; it is tried again")).await;
        return Ok(Outcome::SettledFor(TRY_AGAIN));
    }
    let now = context.now().as_second();
    let next = known.applied.values().map(|applied| applied.renewal).min().unwrap_or(i64::MAX);
    let wait = u64::try_from(next.saturating_sub(now)).unwrap_or_default();
    // Sooner than the next renewal: a replaced signing key loses its hold with time as well.
    Ok(Outcome::SettledFor(Duration::from_secs(wait.clamp(1, 600))))
}

/// How parties inside the cluster reach the brokers.
async fn address(context: &Context, mesh: &EventMesh, key: &MeshKey) -> Result<Address, Error> {
    let tls = mesh.spec.has_tls();
    let ca = if tls { trust::read(context, key).await? } else { None };
    let scheme = if tls { "tls" } else { "nats" };
    Ok(Address { scheme, host: names::client_host(key), port: CLIENT_PORT, ca })
}

fn tell(context: &Context, broker: &MeshBroker, report: &report::Report) {
    if context.identities.put(broker.key(), report) {
        broker.announce(BrokerChange::Health);
    }
}
