//! What the brokers of a mesh need to dial the other sides of its links. Reads Secrets, writes nothing.

use std::collections::BTreeMap;

use eventmesh_crds::conditions::Reason;
use eventmesh_wire::link_secret;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;

use super::{
    credentials,
    plan::{Far, Links, Refused},
    remote::Remote,
    status::Seen,
};
use crate::{
    broker::MeshKey,
    engine::{Context, Error},
    identity::{
        party::Party,
        record::{self, Record},
    },
    mesh::build::{listeners::Listener, names},
};

/// The links that brokers dial, with the files that they need, and what is known of all links.
#[derive(Debug, Default)]
pub struct Dialled {
    pub remotes: Vec<Remote>,
    pub files: BTreeMap<String, ByteString>,
    pub seen: Seen,
}

/// Looks for all that `links` need.
pub async fn resolve(context: &Context, key: &MeshKey, links: &Links) -> Result<Dialled, Error> {
    let mut dialled = Dialled::default();
    if links.is_empty() {
        return Ok(dialled);
    }
    let record = read(context, &key.namespace, &names::identities(&key.name)).await?;
    let record = record.and_then(|data| Record::read(&data.get(record::FILE)?.0).ok()).unwrap_or_default();
    for (name, planned) in links.iter().filter_map(|(name, link)| Some((name, link.as_ref().ok()?))) {
        let Some(account) = record.account_of(&Party::Link { name: name.clone() }) else {
            let message = format!("link {name}: its account is being made");
            dialled.seen.refused.insert(name.clone(), Refused { reason: Reason::LinkPending, message });
            continue;
        };
        dialled.seen.accounts.insert(name.clone(), account.to_owned());
        let Some(far) = &planned.dials else { continue };
        let files = match secret(context, key, name, far).await? {
            Ok(files) => Some(files),
            Err(refused) => {
                dialled.seen.refused.insert(name.clone(), refused);
                let before = read(context, &key.namespace, &names::links(&key.name)).await?;
                before.and_then(|before| credentials::kept(name, &before))
            }
        };
        if let Some(credentials::Files { entries, authority }) = files {
            dialled.remotes.push(Remote {
                link: name.clone(),
                urls: urls(far),
                account: account.to_owned(),
                authority,
            });
            dialled.files.extend(entries);
        }
    }
    Ok(dialled)
}

fn urls(far: &Far) -> Vec<String> {
    match far {
        Far::Mesh { key, tls, .. } => vec![Listener::Leaf.url(key, *tls)],
        Far::Remote { urls, .. } => urls.clone(),
    }
}

async fn secret(
    context: &Context,
    own: &MeshKey,
    link: &str,
    far: &Far,
) -> Result<Result<credentials::Files, Refused>, Error> {
    let ((namespace, name), missing) = match far {
        Far::Mesh { key, link, .. } => ((&key.namespace, link_secret::name(&key.name, link)), Reason::LinkPending),
        Far::Remote { secret, .. } => ((&own.namespace, secret.clone()), Reason::SecretNotFound),
    };
    let place = format!("{namespace}/{name}");
    let Some(data) = read(context, namespace, &name).await? else {
        let message = format!("link {link}: Secret {place} of the other side does not exist; waiting for it");
        return Ok(Err(Refused { reason: missing, message }));
    };
    let tls = urls(far).iter().any(|url| url.starts_with("tls://"));
    Ok(credentials::files(link, &place, &data, tls, context.now().as_second()))
}

async fn read(context: &Context, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, ByteString>>, Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let secret = secrets.get_opt(name).await.map_err(Error::kubernetes("read a Secret of a link"))?;
    Ok(secret.map(|secret| secret.data.unwrap_or_default()))
}
