//! Takes out of the brokers what is left of objects that are gone and wanted it gone with them.
//!
//! No object carries a finalizer, so none can hang, whatever is uninstalled first. What has to go is found by the mark on
//! it and by the absence of its object, also when nobody saw the object go.

mod find;
pub mod mark;

use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use kube::{Api, runtime::reflector::ObjectRef};
use tracing::info;

use crate::{
    broker::{BrokerChange, MeshBroker, MeshKey},
    cache::Cache,
    engine::{Context, Error},
};
use find::{Kind, Leftover, Owner};

/// Looks through one mesh, once the view of it is complete.
pub async fn run(context: &Context, key: &MeshKey, mesh: &EventMesh) -> Result<(), Error> {
    let Some(broker) = context.brokers.get(key).filter(|broker| broker.is_ready()) else { return Ok(()) };
    let Some(uid) = &mesh.metadata.uid else { return Ok(()) };
    let found = find::run(&broker.view(), uid, |owner| is_known(&context.cache, owner));
    for leftover in found {
        // The cache may be behind, and nothing is taken away for that.
        if !is_there(context, &leftover.owner).await? {
            remove(&broker, &leftover).await?;
        }
    }
    Ok(())
}

fn is_known(cache: &Cache, Owner { kind, namespace, name }: &Owner) -> bool {
    match kind {
        Kind::Topic => cache.topic(namespace, name).is_some(),
        Kind::Subscription => cache.subscriptions.get(&ObjectRef::new(name).within(namespace)).is_some(),
        Kind::Bridge => cache.bridge(namespace, name).is_some(),
    }
}

async fn is_there(context: &Context, Owner { kind, namespace, name }: &Owner) -> Result<bool, Error> {
    let client = context.client.clone();
    let found = match kind {
        Kind::Topic => Api::<Topic>::namespaced(client, namespace).get_opt(name).await.map(|found| found.is_some()),
        Kind::Subscription => {
            Api::<Subscription>::namespaced(client, namespace).get_opt(name).await.map(|found| found.is_some())
        }
        Kind::Bridge => Api::<Bridge>::namespaced(client, namespace).get_opt(name).await.map(|found| found.is_some()),
    };
    found.map_err(Error::kubernetes("see whether an object is gone"))
}

async fn remove(broker: &MeshBroker, leftover: &Leftover) -> Result<(), Error> {
    let stream = leftover.stream.as_str();
    if let Some(consumer) = &leftover.consumer {
        broker.delete_consumer(stream, consumer).await.map_err(Error::broker("delete the consumer"))?;
        info!(stream, consumer, "deleted a consumer whose object is gone");
        return Ok(());
    }
    // The view may be seconds old; whether the stream is empty must be known now.
    broker.reread_stream(stream).await.map_err(Error::broker("read the stream"))?;
    let messages = broker.view().stream(stream).map_or(0, |entry| entry.state.messages);
    if leftover.only_if_empty && messages > 0 {
        return Ok(());
    }
    broker.delete_stream(stream).await.map_err(Error::broker("delete the stream"))?;
    info!(stream, messages, "deleted a stream whose Topic is gone");
    // Another Topic may wait for its subjects.
    broker.announce(BrokerChange::Stream(stream.to_owned()));
    Ok(())
}
