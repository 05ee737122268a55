//! What an EventMesh refers to, and what its Secrets hold. Everything else is in the cache.

use std::collections::BTreeMap;

use eventmesh_crds::{EventMesh, conditions::Verdict, tls::TlsIssuer};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt};

use super::{
    build::names,
    certificates::{Found, Stored},
};
use crate::{
    cache::namespaced,
    engine::{Context, Error},
    identity,
    pki::Authorities,
};

/// Everything a pass over an EventMesh reads.
pub struct Resolved {
    pub keys: identity::Found,
    pub authorities: Found<Authorities>,
    /// Of the Secret of the authorities, when it is there.
    pub authority_version: Option<String>,
    pub stored: Stored,
    /// The Secret with a certificate from outside, when the spec names one and it is there.
    pub outside: Option<BTreeMap<String, ByteString>>,
}

/// Without keys that may be used there is nothing to build: the verdict says why.
pub async fn run(context: &Context, mesh: &EventMesh) -> Result<Result<Resolved, Verdict>, Error> {
    let (namespace, name) = namespaced(mesh);
    let keys = match identity::resolve_keys(context, mesh).await? {
        Ok(keys) => keys,
        Err(verdict) => return Ok(Err(verdict)),
    };
    let authority = secret(context, &namespace, &names::authority(&name)).await?;
    let authority_version = authority.as_ref().and_then(ResourceExt::resource_version);
    let stored = secret(context, &namespace, &names::broker_tls(&name)).await?;
    let outside = match outside_secret(mesh) {
        Some(name) => secret(context, &namespace, &name).await?.map(|secret| secret.data.unwrap_or_default()),
        None => None,
    };
    Ok(Ok(Resolved {
        keys,
        authorities: match authority.map(|secret| Authorities::read(&secret.data.unwrap_or_default())) {
            None => Found::Absent,
            Some(Ok(authorities)) => Found::Good(authorities),
            Some(Err(problem)) => Found::Unreadable(problem),
        },
        authority_version,
        stored: stored.map(|secret| Stored::read(&secret.data.unwrap_or_default())).unwrap_or_default(),
        outside,
    }))
}

/// The Secret from which a certificate from outside comes.
#[must_use]
pub fn outside_secret(mesh: &EventMesh) -> Option<String> {
    let tls = mesh.spec.tls.as_ref()?;
    match tls.issuer() {
        TlsIssuer::Secret => tls.secret.as_ref().map(|secret| secret.name.clone()),
        TlsIssuer::CertManager => Some(names::cert_manager_tls(&mesh.name_any())),
        TlsIssuer::Managed | TlsIssuer::Disabled => None,
    }
}

async fn secret(context: &Context, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    secrets.get_opt(name).await.map_err(Error::kubernetes("read a Secret of the mesh"))
}
