//! The EventMesh controller: the brokers of a mesh as a StatefulSet and what belongs to it.

mod apply;
mod availability;
pub mod build;
pub mod certificates;
mod clocks;
mod members;
mod replace;
mod resolve;
mod roll;
mod scale;
mod status;
pub mod take_up;
pub mod validate;
mod volumes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eventmesh_crds::{EventMesh, conditions::Verdict};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;
use tracing::debug;

use crate::{
    broker::{ConnectSpec, MeshKey},
    cache::namespaced,
    engine::{Context, Controller, Error, Outcome},
    identity::MeshKeys,
    leftovers,
    link::{
        self, dial,
        plan::{self, Links},
    },
    pki::Authorities,
    service_mesh,
};
use build::{Desired, names};
use certificates::{Files, Found, Plan, Seen, plan::until};
use resolve::Resolved;
use status::Reached;
use take_up::TakeUp;
use validate::ValidMesh;

pub use resolve::outside_secret;

pub struct MeshController {
    context: Arc<Context>,
    /// The authorities that were last good, by mesh and its uid: a Secret that is spoilt is written back from here.
    remembered: Mutex<BTreeMap<MeshKey, (Option<String>, Authorities)>>,
}

impl MeshController {
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, remembered: Mutex::default() }
    }
}

impl Controller for MeshController {
    type Object = EventMesh;
    const NAME: &'static str = "mesh";

    async fn reconcile(&self, mesh: Arc<EventMesh>) -> Result<Outcome, Error> {
        let context = &*self.context;
        let (namespace, name) = namespaced(&*mesh);
        let key = MeshKey { namespace, name };
        if mesh.metadata.deletion_timestamp.is_some() {
            self.remembered().remove(&key);
            return Ok(Outcome::Done);
        }
        if mesh.spec.paused == Some(true) {
            status::write(context, &mesh, status::paused(), Reached::default()).await?;
            return Ok(Outcome::Settled);
        }
        let resolved = match resolve::run(context, &mesh).await? {
            Ok(resolved) => resolved,
            Err(verdict) => {
                status::write(context, &mesh, status::unresolved(verdict), Reached::default()).await?;
                return Ok(Outcome::Waiting);
            }
        };
        tell_restored(context, &mesh, &resolved).await;
        let mut valid = match validate::run(&mesh, &context.images) {
            Ok(valid) => valid,
            Err(verdict) => {
                status::write(context, &mesh, status::rejected(verdict), Reached::default()).await?;
                return Ok(Outcome::Rejected);
            }
        };
        let proxies = context.cache.proxies(valid.service_mesh, &valid.key.namespace);
        service_mesh::keep_out(&mut valid.pod_template, proxies);
        let scale = scale::run(context, &mesh, &mut valid).await?;
        let volumes = volumes::run(context, &mut valid, scale.is_settled()).await?;
        if volumes.is_replacing() {
            // The next pass makes the StatefulSet anew, when this one is gone.
            return Ok(Outcome::Progressing);
        }
        let links = plan::of(&context.cache, &mesh);
        let dialled = dial::resolve(context, &key, &links).await?;
        (valid.remotes, valid.link_files) = (dialled.remotes, dialled.files);
        let plan = self.certificates(&mesh, &valid, &resolved).await?;
        let Some(files) = &plan.files else {
            let reached = Reached { certificates: Some(&plan), ..Reached::default() };
            status::write(context, &mesh, status::without_certificates(&plan), reached).await?;
            return Ok(settled(context, &plan));
        };
        let configuration = build::config_file::revisions(&valid, &resolved.keys.keys);
        let desired = desired(context, &mesh, &mut valid, &resolved.keys.keys, files);
        let listed = members::read(context, &valid).await?;
        let applied = Box::pin(apply::run(context, &desired)).await?;
        forget_links(context, &mesh, &valid).await?;
        connect(context, &valid, resolved.keys.keys, files).await?;
        let take_up = take_up(context, &valid, files, &configuration, &desired.stateful_set).await?;
        let observed = mesh.status.as_ref().and_then(|status| status.observed_generation);
        if context.brokers.is_starting(&valid.key) && observed.is_some() && observed == mesh.metadata.generation {
            return Ok(Outcome::Progressing);
        }
        let roll = roll::run(context, &valid, &applied.stateful_set).await?;
        let replace = replace::run(context, &mesh, &valid, listed).await?;
        let scale = scale.act(context, &valid, &roll).await?;
        let seen = heard(context, &key, &links, dialled.seen).await;
        let under_way = replace.verdict().or_else(|| volumes.verdict()).or_else(|| scale.verdict());
        let verdicts = status::programmed(context, &mesh, &plan, &take_up, &roll, under_way);
        tell(context, &mesh, &roll, &verdicts).await;
        let verdicts = verdicts.into_iter().chain(link::status::linked(&links, &seen)).collect();
        let (restart, links) = (roll.restart.as_ref(), Some((&links, &seen)));
        status::write(context, &mesh, verdicts, Reached { certificates: Some(&plan), restart, links }).await?;
        // After the status: what is done is always written down.
        roll::execute::run(context, &valid.key, &roll).await?;
        leftovers::run(context, &valid.key, &mesh).await?;
        let slow = volumes.is_growing() || !take_up.behind().is_empty() || plan.moving && take_up.is_complete();
        let slow = [slow.then_some(Outcome::Progressing), replace.outcome(), roll.outcome(), scale.outcome()];
        Ok(slow.into_iter().flatten().next().unwrap_or_else(|| settled(context, &plan)))
    }
}

impl MeshController {
    fn remembered(&self) -> MutexGuard<'_, BTreeMap<MeshKey, (Option<String>, Authorities)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Services first, then what certificates the mesh should have, and the authority's keys into their Secret: before
    /// anybody is given a certificate that they have signed.
    async fn certificates(&self, mesh: &EventMesh, valid: &ValidMesh, resolved: &Resolved) -> Result<Plan, Error> {
        let context = &*self.context;
        let services = build::services(valid);
        let addresses = apply::services(context, valid, &services).await?;
        let names = names::certificate_names(
            &valid.key,
            services.iter().map(ResourceExt::name_any),
            addresses.into_iter().chain(valid.tls.server_names.iter().cloned()),
        );
        let request = build::certificate::certificate(valid, &names);
        let issuer_before = mesh.status.as_ref().and_then(|status| status.certificates.as_ref());
        let was_asked = apply::was_asked(issuer_before.map(|before| before.issuer.as_str()));
        let answer = apply::certificate(context, valid, request.as_ref(), was_asked).await?;
        // Of another object of the same name nothing is remembered.
        let remembered = self.remembered().get(&valid.key).filter(|(uid, _)| *uid == mesh.metadata.uid).cloned();
        let stored = &resolved.stored;
        let plan = certificates::plan::run(&Seen {
            key: &valid.key,
            issuer: valid.tls.issuer,
            policy: valid.tls.policy,
            names,
            request: &valid.tls.request,
            authorities: &resolved.authorities,
            remembered: remembered.as_ref().map(|(_, authorities)| authorities),
            stored,
            outside: validate::outside(mesh, valid, resolved, answer, context.now()),
            taken_up: take_up::observe(context, &valid.key, stored.revision().as_deref(), valid.replicas).is_complete(),
            now: context.now(),
        })?;
        if let Some(authorities) = &plan.authorities {
            if resolved.authorities != Found::Good(authorities.clone()) {
                let secret = build::authority(valid, authorities);
                apply::authority(context, &secret, resolved.authority_version.as_deref()).await?;
            }
            self.remembered().insert(valid.key.clone(), (mesh.metadata.uid.clone(), authorities.clone()));
        }
        for note in &plan.notes {
            if note.warning {
                context.warn(mesh, note.reason, note.text.clone()).await;
            } else {
                context.note(mesh, note.reason, note.text.clone()).await;
            }
        }
        Ok(plan)
    }
}

/// What the mesh consists of. On the heap: together these objects are larger than a task should carry.
fn desired(
    context: &Context,
    object: &EventMesh,
    valid: &mut ValidMesh,
    keys: &MeshKeys,
    files: &Files,
) -> Box<Desired> {
    valid.lacks_copies = replace::lacks_copies(context, object, valid);
    let mut desired = Box::new(build::run(object, valid, keys, files));
    build::volume_check::keep(&mut desired.stateful_set, &apply::made_from(context, valid));
    desired
}

/// Until the next certificate is due.
fn settled(context: &Context, plan: &Plan) -> Outcome {
    Outcome::SettledFor(until(plan.look_again, context.now()))
}

/// Events of what this pass has found out.
async fn tell(context: &Context, mesh: &EventMesh, roll: &roll::Roll, verdicts: &[Verdict]) {
    roll::tell(context, mesh, roll).await;
    clocks::tell(context, mesh, verdicts).await;
}

async fn tell_restored(context: &Context, mesh: &EventMesh, resolved: &Resolved) {
    if let Some(problem) = &resolved.keys.spoiled {
        context.warn(mesh, "SecretRestored", format!("{problem}; the keys are put back")).await;
    }
}

/// Makes the brokers that run use the certificates and the configuration that they should.
async fn take_up(
    context: &Context,
    valid: &ValidMesh,
    files: &Files,
    configuration: &[String],
    set: &StatefulSet,
) -> Result<TakeUp, Error> {
    let wanted = take_up::Wanted {
        certificates: &files.revision(),
        configuration,
        started_with: build::stateful_set::started_with(set),
    };
    take_up::run(context, valid, &wanted).await
}

/// What the brokers say of their links; nobody asks them where there are none.
async fn heard(context: &Context, key: &MeshKey, links: &Links, seen: link::status::Seen) -> link::status::Seen {
    let Some(broker) = context.brokers.get(key) else { return seen };
    broker.hear_ends(&seen.accounts.values().cloned().collect());
    if links.is_empty() {
        broker.forget_leafs();
    } else if broker.leafs().is_none()
        && let Err(error) = broker.ask_leafs().await
    {
        debug!(mesh = %key, %error, "could not ask the brokers of their links");
    }
    link::status::Seen { leafs: broker.leafs(), ends: broker.ends(), ..seen }
}

/// Removes what a mesh needs to dial, when it dials nobody any more.
async fn forget_links(context: &Context, mesh: &EventMesh, valid: &ValidMesh) -> Result<(), Error> {
    let mut before = mesh.status.iter().flat_map(|status| status.links.iter().flatten());
    if valid.remotes.is_empty() && before.any(|link| link.dials == Some(true)) {
        apply::no_links(context, valid).await?;
    }
    Ok(())
}

async fn connect(context: &Context, valid: &ValidMesh, keys: Arc<MeshKeys>, files: &Files) -> Result<(), Error> {
    let spec = ConnectSpec {
        address: names::address(&context.broker_address, &valid.key),
        keys,
        trust: files.authority.clone().filter(|_| valid.tls.has_tls()),
    };
    context.brokers.ensure(&valid.key, spec).await.map_err(Error::broker("connect to the brokers"))?;
    context.metrics.meshes(context.brokers.len());
    Ok(())
}
