//! Meshes, and what happens when a mesh, its broker or the operator is not there.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use eventmesh_tests::objects::Namespace;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::ResourceExt;
use serde_json::json;

use crate::{Test, alone, object, shared};

const BRIDGE: &str = "  mesh: {name: m}
  endpoint: {mqtt: {url: 'mqtt://site.example:1883'}}
  inbound: [{name: a, from: x, to: t.x}]";

#[test]
fn a_mesh_becomes_its_children() -> Result<()> {
    shared("mesh-build", async |test| {
        let spec = "  brokers:
    replicas: 3
    storage: {size: 3Gi, className: fast, whenDeleted: Delete, sync: 7s}
    settings: {maxPayload: 2Mi, maxConnections: 99}
    podTemplate: {labels: {team: blue}, annotations: {note: x}, priorityClassName: high}
    resources: {requests: {cpu: 150m}}
    extraConfig: {max_subscriptions: 4711}
  listeners: {nats: {expose: NodePort}}";
        test.ns.apply(&object("EventMesh", "m", spec)).await?;
        test.ns.condition::<EventMesh>("m", "Accepted", "True", "Accepted").await?;
        test.ns.condition::<EventMesh>("m", "Available", "False", "BrokersStarting").await?;

        let set = test.ns.get::<StatefulSet>("m-broker").await?.spec.context("a spec")?;
        assert_eq!((set.replicas, set.service_name.as_deref()), (Some(3), Some("m-brokers")));
        assert_eq!(set.pod_management_policy.as_deref(), Some("Parallel"));
        let retention = set.persistent_volume_claim_retention_policy.context("a retention policy")?;
        assert_eq!(retention.when_deleted.as_deref(), Some("Delete"));
        assert_eq!(retention.when_scaled.as_deref(), Some("Retain"));
        let claim = set.volume_claim_templates.and_then(|claims| claims.into_iter().next()?.spec).context("a claim")?;
        assert_eq!(claim.storage_class_name.as_deref(), Some("fast"));
        let size = claim.resources.and_then(|resources| resources.requests).and_then(|mut r| r.remove("storage"));
        assert_eq!(size.context("a size")?.0, "3Gi");
        let labels = set.template.metadata.clone().and_then(|metadata| metadata.labels).unwrap_or_default();
        assert_eq!(labels.get("team").map(String::as_str), Some("blue"));
        let pod = set.template.spec.context("a pod")?;
        let broker = &pod.containers[0];
        assert_eq!(
            (broker.name.as_str(), broker.image.as_deref()),
            ("broker", Some("localhost/event-mesh/broker:test"))
        );
        assert!(broker.startup_probe.is_some() && broker.liveness_probe.is_some() && broker.readiness_probe.is_some());
        assert!(broker.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some()));

        let config = test.ns.get::<ConfigMap>("m-broker").await?.data.unwrap_or_default();
        let config: String = config.into_values().collect();
        for part in ["4711", "7000ms", "99"] {
            assert!(config.contains(part), "{part} in {config}");
        }
        for (key, secret) in test.ns.get::<Secret>("m-keys").await?.data.unwrap_or_default() {
            let secret = String::from_utf8_lossy(&secret.0).into_owned();
            assert!(!config.contains(&secret), "{key} in a ConfigMap");
        }
        let client = test.ns.get::<Service>("m-nats").await?.spec.context("a spec")?;
        assert_eq!(client.type_.as_deref(), Some("NodePort"));
        let headless = test.ns.get::<Service>("m-brokers").await?.spec.context("a spec")?;
        assert_eq!(headless.cluster_ip.as_deref(), Some("None"));
        for port in client.ports.into_iter().chain(headless.ports).flatten() {
            assert!(port.app_protocol.is_some(), "port {:?} without appProtocol", port.name);
        }
        test.ns.get::<PodDisruptionBudget>("m-broker").await?;
        let account = test.ns.get::<ServiceAccount>("m-broker").await?;
        assert_eq!(account.owner_references()[0].kind, "EventMesh");
        Ok(())
    })
}

#[test]
fn clients_find_their_credentials_in_the_layout_of_service_bindings() -> Result<()> {
    shared("mesh-client", async |test| {
        let grants = "  grants: [{to: {serviceAccount: {name: default}}, allow: [Publish]}]\n";
        test.ns.apply(&Test::topic("mesh-client", grants)).await?;
        let name = "platform.retail.default";
        let data = test.ns.until::<Secret, _>(name, "credentials", |secret| secret.data.clone()).await?;
        let text: BTreeMap<&str, String> =
            data.iter().map(|(key, value)| (key.as_str(), String::from_utf8_lossy(&value.0).into_owned())).collect();
        assert_eq!(text["type"], "nats");
        assert_eq!((text["host"].as_str(), text["port"].as_str()), ("retail-nats.platform.svc", "4222"));
        assert!(text["uri"].starts_with("tls://"), "{}", text["uri"]);
        assert!(text["ca.crt"].starts_with("-----BEGIN CERTIFICATE-----"), "{}", text["ca.crt"]);
        for key in ["provider", "nats.creds", "jwt", "nkey", "expires"] {
            assert!(!text[key].is_empty(), "{key}");
        }
        Ok(())
    })
}

#[test]
fn keys_that_the_operator_owns_are_refused_and_the_good_configuration_stays() -> Result<()> {
    shared("mesh-reserved", async |test| {
        test.ns.apply(&object("EventMesh", "m", "  brokers: {extraConfig: {max_subscriptions: 10}}")).await?;
        test.ns.condition::<EventMesh>("m", "Accepted", "True", "Accepted").await?;
        let before = test.ns.get::<ConfigMap>("m-broker").await?.data;
        test.ns
            .apply(&object("EventMesh", "m", "  brokers: {extraConfig: {max_subscriptions: 11, accounts: {}}}"))
            .await?;
        let refused = test.ns.condition::<EventMesh>("m", "Accepted", "False", "ReservedConfigKey").await?;
        assert!(refused.message.contains("accounts"), "{}", refused.message);
        assert_eq!(test.ns.get::<ConfigMap>("m-broker").await?.data, before);
        Ok(())
    })
}

#[test]
fn a_mesh_lets_in_only_the_namespaces_it_allows() -> Result<()> {
    shared("mesh-allowed", async |test| {
        let private = test.stack.kube.namespace("platform");
        private.apply(&object("EventMesh", "private", "  brokers: {}\n  paused: true")).await?;
        test.ns.apply(&object("Topic", "outsider", "  mesh: {name: private, namespace: platform}")).await?;
        test.ns.condition::<Topic>("outsider", "ResolvedRefs", "False", "RefNotPermitted").await?;
        private.delete::<EventMesh>("private").await
    })
}

#[test]
fn children_changed_by_hand_are_put_back() -> Result<()> {
    shared("mesh-drift", async |test| {
        test.ns.apply(&object("EventMesh", "m", "  brokers: {}")).await?;
        test.ns.condition::<EventMesh>("m", "Accepted", "True", "Accepted").await?;
        test.ns.patch::<Service>("m-nats", json!({"spec": {"type": "NodePort"}})).await?;
        let back = |service: &Service| (service.spec.as_ref()?.type_.as_deref() == Some("ClusterIP")).then_some(());
        test.ns.until::<Service, _>("m-nats", "ClusterIP again", back).await?;
        test.ns.delete::<ConfigMap>("m-broker").await?;
        test.ns.until::<ConfigMap, _>("m-broker", "there again", |map| map.data.as_ref().map(drop)).await
    })
}

#[test]
fn objects_wait_for_their_mesh() -> Result<()> {
    alone("early", async |stack, ns| {
        ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
        ns.apply(&object("Subscription", "s", "  topic: {name: t}")).await?;
        ns.apply(&object("Bridge", "b", BRIDGE)).await?;
        ns.condition::<Topic>("t", "ResolvedRefs", "False", "MeshNotFound").await?;
        ns.condition::<Bridge>("b", "ResolvedRefs", "False", "MeshNotFound").await?;
        ns.condition::<Subscription>("s", "Ready", "False", "MeshNotFound").await?;

        ns.apply(&object("EventMesh", "m", "  brokers: {replicas: 1}")).await?;
        ns.condition::<Topic>("t", "Programmed", "Unknown", "BrokerUnavailable").await?;
        stack.start_broker(ns, "m").await?;
        ns.ready::<Topic>("t").await?;
        ns.ready::<Subscription>("s").await?;
        ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        let mesh = ns
            .until::<EventMesh, _>("m", "a mesh that counts its objects", |mesh| {
                let status = mesh.status.clone()?;
                (status.topics == Some(1) && status.subscriptions == Some(1) && status.bridges == Some(1))
                    .then_some(status)
            })
            .await?;
        assert!(mesh.endpoints.and_then(|endpoints| endpoints.nats).is_some());
        Ok(())
    })
}

/// A namespace with a mesh `m`, a Topic `t`, a Subscription `s` and a Bridge `b`, all set up.
async fn furnished(stack: &mut eventmesh_tests::stack::Stack, ns: &Namespace) -> Result<()> {
    ns.apply(&object("EventMesh", "m", "  brokers: {replicas: 1}")).await?;
    stack.start_broker(ns, "m").await?;
    ns.apply(&object("Topic", "t", "  mesh: {name: m}\n  deletionPolicy: Delete")).await?;
    ns.apply(&object("Subscription", "s", "  topic: {name: t}")).await?;
    ns.apply(&object("Bridge", "b", &format!("{BRIDGE}\n  outbound: [{{name: o, from: {{topic: t}}, to: out}}]")))
        .await?;
    ns.ready::<Topic>("t").await?;
    ns.ready::<Subscription>("s").await?;
    ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await.map(drop)
}

#[test]
fn a_mesh_deleted_under_its_objects_holds_up_none_of_them() -> Result<()> {
    alone("mesh-deleted", async |stack, ns| {
        furnished(stack, ns).await?;
        ns.delete_and_wait::<EventMesh>("m").await?;
        ns.condition::<Topic>("t", "ResolvedRefs", "False", "MeshNotFound").await?;
        ns.delete_and_wait::<Bridge>("b").await?;
        ns.delete_and_wait::<Subscription>("s").await?;
        ns.delete_and_wait::<Topic>("t").await
    })
}

#[test]
fn a_mesh_deleted_while_its_broker_is_away_holds_up_nothing() -> Result<()> {
    alone("broker-gone", async |stack, ns| {
        furnished(stack, ns).await?;
        stack.kill_broker();
        ns.condition::<Topic>("t", "Programmed", "Unknown", "BrokerUnavailable").await?;
        ns.delete_and_wait::<EventMesh>("m").await?;
        ns.delete_and_wait::<Topic>("t").await?;
        ns.delete_and_wait::<Subscription>("s").await?;
        ns.delete_and_wait::<Bridge>("b").await
    })
}

#[test]
fn a_broker_that_was_away_is_found_again_and_brought_up_to_date() -> Result<()> {
    alone("broker-away", async |stack, ns| {
        furnished(stack, ns).await?;
        stack.kill_broker();
        ns.condition::<Topic>("t", "Ready", "Unknown", "BrokerUnavailable").await?;
        ns.apply(&object("Topic", "t", "  mesh: {name: m}\n  retention: {maxMessages: 9}")).await?;
        stack.start_broker(ns, "m").await?;
        ns.ready::<Topic>("t").await?;
        let stream = stack.broker(ns, "m").await?.stream(&format!("{}_t", ns.name)).await?.context("no stream")?;
        assert_eq!(stream["config"]["max_msgs"], 9);
        Ok(())
    })
}

#[test]
fn an_operator_that_starts_again_writes_nothing_where_nothing_has_changed() -> Result<()> {
    alone("quiet", async |stack, ns| {
        furnished(stack, ns).await?;
        let versions = async || -> Result<Vec<Option<String>>> {
            Ok(vec![
                ns.get::<EventMesh>("m").await?.resource_version(),
                ns.get::<Topic>("t").await?.resource_version(),
                ns.get::<Subscription>("s").await?.resource_version(),
                ns.get::<StatefulSet>("m-broker").await?.resource_version(),
                ns.get::<ConfigMap>("m-broker").await?.resource_version(),
                ns.get::<Secret>("m-broker").await?.resource_version(),
                ns.get::<Secret>("b-bridge").await?.resource_version(),
                ns.get::<Service>("m-nats").await?.resource_version(),
                ns.get::<NetworkPolicy>("m-broker").await?.resource_version(),
                ns.get::<NetworkPolicy>("b-bridge").await?.resource_version(),
            ])
        };
        // Numbers come a little later than conditions: wait for these last changes.
        ns.until::<Topic, _>("t", "a Topic with two consumers", |topic| {
            (topic.status.as_ref()?.consumers == Some(2)).then_some(())
        })
        .await?;
        ns.until::<Subscription, _>("s", "a Subscription with numbers", |subscription| {
            subscription.status.as_ref()?.ack_pending
        })
        .await?;
        ns.until::<EventMesh, _>("m", "a mesh that counts its objects", |mesh| {
            let status = mesh.status.as_ref()?;
            (status.topics == Some(1) && status.subscriptions == Some(1) && status.bridges == Some(1)).then_some(())
        })
        .await?;
        let before = Box::pin(versions()).await?;
        stack.restart_operator().await?;
        // A new object goes through after the old ones: when it is Ready, they have been looked at.
        ns.apply(&object("Topic", "u", "  mesh: {name: m}")).await?;
        ns.ready::<Topic>("u").await?;
        let after = Box::pin(versions()).await?;
        // All but the mesh, which now counts one Topic more.
        assert_eq!(before[1..], after[1..]);
        Ok(())
    })
}

#[test]
fn a_paused_mesh_is_left_as_it_is() -> Result<()> {
    alone("paused", async |stack, ns| {
        furnished(stack, ns).await?;
        ns.patch::<EventMesh>("m", json!({"spec": {"paused": true}})).await?;
        ns.condition::<EventMesh>("m", "Ready", "Unknown", "Paused").await?;
        let broker = stack.broker(ns, "m").await?;
        let stream = format!("{}_t", ns.name);
        ns.apply(&object("Topic", "t", "  mesh: {name: m}\n  deletionPolicy: Delete\n  retention: {maxMessages: 9}"))
            .await?;
        ns.condition::<Topic>("t", "Ready", "Unknown", "Paused").await?;
        assert_eq!(broker.stream(&stream).await?.context("no stream")?["config"]["max_msgs"], -1);
        ns.patch::<EventMesh>("m", json!({"spec": {"paused": false}})).await?;
        ns.ready::<Topic>("t").await?;
        assert_eq!(broker.stream(&stream).await?.context("no stream")?["config"]["max_msgs"], 9);
        Ok(())
    })
}

#[test]
fn the_operator_serves_health_and_metrics_and_ends_on_sigterm() -> Result<()> {
    alone("admin", async |stack, ns| {
        furnished(stack, ns).await?;
        assert!(stack.operator.admin("/livez").await?.contains("200"));
        let metrics = stack.operator.admin("/metrics").await?;
        assert!(metrics.contains("# TYPE") && metrics.contains("reconcile"), "{metrics}");
        stack.operator.process.terminate()?;
        let ended = eventmesh_tests::wait::eventually("end of the operator", Test::DRAIN, async || {
            Ok(stack.operator.process.exited())
        });
        assert!(ended.await?.success());
        Ok(())
    })
}

impl Test<'_> {
    /// More than the operator gives what it is in the middle of.
    const DRAIN: std::time::Duration = std::time::Duration::from_mins(1);
}
