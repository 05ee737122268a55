//! From apply to Ready and back to nothing.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic, bridge::MqttVersion};
use eventmesh_tests::{
    broker::Broker,
    identity::Login,
    mqtt::{Receiver, Sender},
    objects::all_ready,
    paths,
    wait::eventually,
};
use k8s_openapi::api::core::v1::{Namespace as CoreNamespace, PersistentVolumeClaim, Pod, Service};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::{Test, mesh, object, shared, topic};

const SOON: Duration = Duration::from_mins(3);

#[test]
fn a_mesh_becomes_ready_and_tells_of_its_brokers() -> Result<()> {
    shared("ready", async |test| {
        // All at once and in the wrong order, as GitOps does.
        test.ns.apply(&object("Subscription", "s", "  topic: {name: t}\n  startFrom: {position: All}")).await?;
        test.ns.apply(&topic("t", "")).await?;
        test.ns.apply(&mesh(3, "")).await?;
        test.ns.ready::<EventMesh>("m").await?;
        test.ns.ready::<Topic>("t").await?;
        test.ns.ready::<Subscription>("s").await?;

        // What brokers tell of themselves comes a little later than their readiness.
        let told = test
            .ns
            .until::<EventMesh, _>("m", "a mesh whose three brokers have told of themselves", |mesh| {
                let status = mesh.status.clone()?;
                let brokers = status.brokers.as_ref()?;
                let version = &status.broker_version;
                let all = brokers.iter().all(|broker| broker.ready && version.is_some() && broker.version == *version);
                (all && brokers.iter().filter(|broker| broker.meta_leader).count() == 1).then_some(status)
            })
            .await?;
        assert_eq!(told.summary.as_deref(), Some("3/3"));
        let nodes: BTreeSet<_> =
            told.brokers.unwrap_or_default().into_iter().filter_map(|broker| broker.node).collect();
        assert_eq!(nodes.len(), 3, "brokers share a node");

        let broker = test.cluster.broker(test.ns, "m").await?;
        let stream = broker.stream(&test.stream("t")).await?.context("no stream")?;
        assert_eq!(stream["config"]["num_replicas"], 3);
        assert_eq!(stream["cluster"]["replicas"].as_array().map(Vec::len), Some(2));
        Ok(())
    })
}

#[test]
fn an_application_works_with_the_secret_it_is_given() -> Result<()> {
    shared("client", async |test| {
        test.mesh(1, "").await?;
        let grants = "  grants: [{to: {serviceAccount: {name: default}}, allow: [Publish]}]\n";
        test.ns.apply(&topic("client", grants)).await?;
        test.ns.apply(&object("Subscription", "s", "  topic: {name: client}")).await?;
        all_ready::<Topic>(test.ns, &["client"]).await?;
        all_ready::<Subscription>(test.ns, &["s"]).await?;
        let login = Login::from_secret(test.ns, &format!("{}.m.default", test.ns.name)).await?;
        // The Secret's host is a name of the cluster; from here the Service's address is the way to it.
        let service: Service = test.ns.get("m-nats").await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("a cluster address")?;
        let app = Broker::connect(&format!("tls://{address}:4222"), &login).await?;
        app.publish("client.a", "hello").await?;
        let message = app.fetch(&test.stream("client"), &format!("sub_{}_s", test.ns.name)).await?;
        assert_eq!(message.payload.as_ref(), b"hello");
        Ok(())
    })
}

#[test]
fn brokers_deleted_with_their_mesh_keep_their_events() -> Result<()> {
    shared("kept", async |test| {
        let broker = test.mesh(1, "").await?;
        test.ns.apply(&topic("kept", "")).await?;
        test.ns.ready::<Topic>("kept").await?;
        broker.publish("kept.a", "precious").await?;
        test.ns.delete_and_wait::<EventMesh>("m").await?;
        test.ns.gone::<Pod>("m-broker-0").await?;
        let claims = test.ns.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
        assert_eq!(claims.items.len(), 1, "the volume is gone");

        let broker = test.mesh(1, "").await?;
        test.ns.ready::<Topic>("kept").await?;
        let stream = broker.stream(&test.stream("kept")).await?.context("no stream")?;
        assert_eq!(stream["state"]["messages"], 1);
        Ok(())
    })
}

#[test]
fn a_namespace_deleted_with_all_that_is_in_it_goes() -> Result<()> {
    shared("gone", async |test| {
        test.mesh(1, "").await?;
        test.both_ways(MqttVersion::V5, "").await?;
        test.ns.apply(&object("Subscription", "s", "  topic: {name: gone-in}")).await?;
        test.ns.ready::<Subscription>("s").await?;
        let namespaces: Api<CoreNamespace> = Api::all(test.ns.kube.client.clone());
        namespaces.delete(&test.ns.name, &DeleteParams::default()).await?;
        test.ns.gone::<EventMesh>("m").await?;
        test.ns.gone::<Topic>("gone-in").await?;
        test.ns.gone::<Subscription>("s").await?;
        test.ns.gone::<Bridge>("b").await
    })
}

#[test]
fn a_change_is_rolled_out_broker_by_broker_and_a_setting_without_a_restart() -> Result<()> {
    shared("roll", async |test| {
        test.mesh(3, "").await?;
        test.ns.apply(&topic("roll", "")).await?;
        test.ns.ready::<Topic>("roll").await?;
        let before = pod_uids(test).await?;
        let settings = json!({"spec": {"brokers": {"settings": {"maxPayload": "2Mi"}}}});
        test.ns.patch::<EventMesh>("m", settings).await?;
        // Larger than the old limit, and it is stored. A connection keeps the limit that it was told at its start.
        eventually("the larger limit", 2 * SOON, async || {
            let large = async || {
                let broker = test.cluster.broker(test.ns, "m").await?;
                broker.publish("roll.a", vec![b'x'; 1_500_000]).await
            };
            large().await.map(Some).map_err(|error| format!("{error:#}"))
        })
        .await?;
        assert_eq!(pod_uids(test).await?, before, "a broker was restarted for a setting");

        test.ns.patch::<EventMesh>("m", json!({"spec": {"brokers": {"storage": {"sync": "5s"}}}})).await?;
        let rolled = |mesh: &EventMesh| mesh.status.clone()?.restarts.filter(|restarts| restarts.len() == 3);
        let restarts = test.ns.until::<EventMesh, _>("m", "rolled out", rolled).await?;
        assert!(restarts.iter().all(|restart| restart.message == "configuration changed: jetstream"), "{restarts:?}");
        test.ns.ready::<EventMesh>("m").await?;
        assert!(before.is_disjoint(&pod_uids(test).await?), "not every broker was restarted");
        Ok(())
    })
}

async fn pod_uids(test: &Test<'_>) -> Result<BTreeSet<String>> {
    let pods = test.ns.api::<Pod>().list(&ListParams::default()).await?;
    Ok(pods.iter().filter_map(ResourceExt::uid).collect())
}

#[test]
fn the_quickstart_works_as_it_is() -> Result<()> {
    shared("quickstart", async |test| {
        let example = paths::repository().join("examples/quickstart").display().to_string();
        test.cluster.kubectl(&["apply", "-k", &example]).await?;
        let (platform, shop) = (test.cluster.kube.namespace("platform"), test.cluster.kube.namespace("shop"));
        let story = async {
            platform.ready::<EventMesh>("retail").await?;
            all_ready::<Topic>(&shop, &["sales", "prices"]).await?;
            all_ready::<Subscription>(&shop, &["ledger"]).await?;
            shop.ready::<Bridge>("stores").await?;

            let broker = test.cluster.broker(&platform, "retail").await?;
            let mut sales = broker.read("shop_sales").await?;
            let sender = Sender::new(&test.cluster.site(), MqttVersion::V5);
            sender.send("store/17/sale", &test.ns.name, b"{\"amount\": 5}".to_vec()).await;
            let sale = sales.next_within(SOON).await?;
            assert_eq!((sale.subject.as_str(), sale.payload.as_slice()), ("sales.17", &b"{\"amount\": 5}"[..]));

            let mut prices = Receiver::new(&test.cluster.site(), MqttVersion::V5, "store/17/price").await?;
            broker.publish("prices.17", "9.99").await?;
            let price = prices.next_within(SOON).await?;
            assert_eq!(price.payload, b"9.99");
            anyhow::Ok(())
        };
        if let Err(error) = story.await {
            eprintln!("{}{}", platform.show().await, shop.show().await);
            return Err(error);
        }
        test.cluster.kubectl(&["delete", "-k", &example, "--wait=false"]).await.map(drop)
    })
}
