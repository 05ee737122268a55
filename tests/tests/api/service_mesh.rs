//! The marks of Istio and Linkerd on what the operator makes, as the API server has them.

use anyhow::{Context, Result};
use eventmesh_crds::EventMesh;
use eventmesh_tests::objects::Namespace;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace as CoreNamespace, Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{object, shared};

const OPAQUE: &str = "config.linkerd.io/opaque-ports";
const OUT_OF_ISTIO: &str = "sidecar.istio.io/inject";
const OUT_OF_LINKERD: &str = "linkerd.io/inject";

async fn mark_namespace(ns: &Namespace, metadata: Value) -> Result<()> {
    let namespaces: Api<CoreNamespace> = Api::all(ns.kube.client.clone());
    let patch = Patch::Merge(json!({"metadata": metadata}));
    namespaces.patch(&ns.name, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn template(brokers: &StatefulSet) -> Option<(Option<String>, Option<String>)> {
    let metadata = brokers.spec.as_ref()?.template.metadata.clone()?;
    let label = metadata.labels.and_then(|labels| labels.get(OUT_OF_ISTIO).cloned());
    Some((label, metadata.annotations.and_then(|annotations| annotations.get(OUT_OF_LINKERD).cloned())))
}

#[test]
fn brokers_stay_outside_of_a_service_mesh_that_comes_and_are_left_alone_where_there_is_none() -> Result<()> {
    shared("service-mesh-brokers", async |test| {
        test.ns.apply(&object("EventMesh", "m", "  brokers: {}")).await?;
        test.ns.condition::<EventMesh>("m", "Available", "False", "BrokersStarting").await?;
        let before = test.ns.get::<StatefulSet>("m-broker").await?;
        assert_eq!(template(&before), Some((None, None)));

        for (metadata, expected) in [
            (json!({"labels": {"istio-injection": "enabled"}}), (Some("false"), None)),
            (json!({"labels": {"istio-injection": null, "istio.io/rev": "stable"}}), (Some("false"), None)),
            (
                json!({"labels": {"istio.io/rev": null}, "annotations": {"linkerd.io/inject": "enabled"}}),
                (None, Some("disabled")),
            ),
            (json!({"annotations": {"linkerd.io/inject": null}}), (None, None)),
        ] {
            let wanted = (expected.0.map(str::to_owned), expected.1.map(str::to_owned));
            mark_namespace(test.ns, metadata.clone()).await?;
            let as_wanted = |brokers: &StatefulSet| (template(brokers)? == wanted).then_some(());
            test.ns.until::<StatefulSet, _>("m-broker", &format!("marked for {metadata}"), as_wanted).await?;
        }
        let after = test.ns.get::<StatefulSet>("m-broker").await?;
        assert_eq!(before.spec, after.spec, "nothing is left of a service mesh that is gone");
        Ok(())
    })
}

#[test]
fn services_tell_the_proxies_of_clients_where_the_server_speaks_first() -> Result<()> {
    shared("service-mesh-services", async |test| {
        let listeners = "  brokers: {}\n  listeners: {mqtt: {}, websocket: {}}";
        test.ns.apply(&object("EventMesh", "m", listeners)).await?;
        let opaque = |service: &Service| Some(service.annotations().get(OPAQUE).cloned().unwrap_or_default());
        for (name, ports) in
            [("m-nats", "4222"), ("m-brokers", "4222,6222"), ("m-mqtt", "8883"), ("m-websocket", "8443")]
        {
            let found = test.ns.until::<Service, _>(name, "there", opaque).await?;
            assert_eq!(found, ports, "{name}");
            let spec = test.ns.get::<Service>(name).await?.spec.context("a spec")?;
            let nats = spec.ports.iter().flatten().filter(|port| port.port != 8222);
            assert!(nats.into_iter().all(|port| port.app_protocol.as_deref() == Some("tcp")), "{name}");
        }
        test.ns.apply(&object("EventMesh", "m", &format!("{listeners}\n  serviceMesh: None"))).await?;
        let unmarked = |service: &Service| service.annotations().get(OPAQUE).is_none().then_some(());
        test.ns.until::<Service, _>("m-nats", "unmarked", unmarked).await
    })
}

#[test]
fn an_injected_pod_is_probed_beside_the_proxy_of_the_service_mesh() -> Result<()> {
    shared("service-mesh-pods", async |test| {
        let create = async |name: &str, more: Value| -> Result<Pod> {
            let mut pod = json!({
                "metadata": {
                    "name": name,
                    "labels": {"eventmesh.dev/inject": "true"},
                    "annotations": {"eventmesh.dev/mesh": "platform/retail"},
                },
                "spec": {
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{"name": "app", "image": "app", "securityContext": {
                        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                    }}],
                },
            });
            json_patch::merge(&mut pod, &json!({"metadata": more}));
            let pods: Api<Pod> = test.ns.api();
            Ok(pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?)
        };
        let istio = create("istio", json!({"labels": {"sidecar.istio.io/inject": "true"}})).await?;
        assert_eq!(istio.annotations()["traffic.sidecar.istio.io/excludeInboundPorts"], "4381");
        let linkerd = create(
            "linkerd",
            json!({"annotations": {
                "linkerd.io/inject": "enabled", "config.linkerd.io/skip-inbound-ports": "9000",
            }}),
        )
        .await?;
        assert_eq!(linkerd.annotations()["config.linkerd.io/skip-inbound-ports"], "9000,4381");
        let neither = create("neither", json!({})).await?;
        assert_eq!(neither.annotations().len(), 2, "{:?}", neither.annotations());
        Ok(())
    })
}
