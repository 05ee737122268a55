//! What is read of a cluster.

use std::{pin::pin, time::Duration};

use eventmesh_crds::EventMesh;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};

use crate::{args::Access, error::Error};

/// A cluster, and the namespace that is meant.
pub struct Cluster {
    client: Client,
    pub namespace: String,
}

impl Cluster {
    pub async fn connect(access: &Access) -> Result<Self, Error> {
        let config = config(access).await?;
        let namespace = access.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| Error::Access(error.to_string()))?;
        Ok(Self { client, namespace })
    }

    pub async fn mesh(&self, name: &str) -> Result<EventMesh, Error> {
        let found = Api::<EventMesh>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await;
        let missing = || Error::NoMesh { namespace: self.namespace.clone(), name: name.to_owned() };
        found.map_err(refused("read the EventMesh"))?.ok_or_else(missing)
    }

    /// Those of the namespace, or of all.
    pub async fn meshes(&self, all: bool) -> Result<Vec<EventMesh>, Error> {
        let api = if all {
            Api::<EventMesh>::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        };
        Ok(api.list(&ListParams::default()).await.map_err(refused("list EventMeshes"))?.items)
    }

    pub async fn secret(&self, name: &str) -> Result<Option<Secret>, Error> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        api.get_opt(name).await.map_err(refused("read the Secret"))
    }

    /// The same, once it is there; none when it does not come.
    pub async fn await_secret(&self, name: &str, patience: Duration) -> Result<Option<Secret>, Error> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let there = pin!(await_condition(api, name, |secret: Option<&Secret>| secret.is_some()));
        match tokio::time::timeout(patience, there).await {
            Err(_) => Ok(None),
            Ok(found) => found.map_err(|error| Error::Refused("watch the Secret", error.to_string())),
        }
    }

    pub async fn service(&self, name: &str) -> Result<Option<Service>, Error> {
        let api = Api::<Service>::namespaced(self.client.clone(), &self.namespace);
        api.get_opt(name).await.map_err(refused("read the Service"))
    }
}

async fn config(access: &Access) -> Result<Config, Error> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let config = match &access.kubeconfig {
        Some(file) => match Kubeconfig::read_from(file) {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
            Err(error) => Err(error),
        },
        None => Config::from_kubeconfig(&options).await,
    };
    config.map_err(|error| Error::Access(error.to_string()))
}

fn refused(what: &'static str) -> impl Fn(kube::Error) -> Error {
    move |error| match error {
        kube::Error::Api(status) => Error::Refused(what, status.message),
        other => Error::Access(other.to_string()),
    }
}
