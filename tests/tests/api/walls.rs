//! What is around the pods that the operator makes: Pod Security and NetworkPolicies.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{Bridge, EventMesh, Topic};
use eventmesh_tests::{
    objects::Namespace,
    pod_security::{self, Token},
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        networking::v1::{NetworkPolicy, NetworkPolicySpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::ResourceExt;
use serde_json::json;

use crate::{Test, object, shared};

const BRIDGE: &str = "  mesh: {name: retail, namespace: platform}
  endpoint: {mqtt: {url: 'mqtt://site.example:1883'}}
  inbound: [{name: a, from: x, to: TOPIC}]";

impl Test<'_> {
    /// A mesh `m` and a Bridge `b` with their children; `topic` is a word of the test's own.
    async fn mesh_and_bridge(&self, topic: &str) -> Result<()> {
        self.ns.apply(&object("EventMesh", "m", "  brokers: {}")).await?;
        self.ns.apply(&Test::topic(topic, "")).await?;
        self.ns.ready::<Topic>(topic).await?;
        self.ns.apply(&object("Bridge", "b", &BRIDGE.replace("TOPIC", topic))).await?;
        self.ns.condition::<EventMesh>("m", "Available", "False", "BrokersStarting").await?;
        self.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await.map(drop)
    }
}

#[test]
fn every_pod_is_closed() -> Result<()> {
    shared("walls-pods", async |test| {
        test.mesh_and_bridge("walls-pods").await?;
        let mut brokers = test.ns.get::<StatefulSet>("m-broker").await?.spec.context("a spec")?.template;
        // As the StatefulSet controller gives it to each pod.
        let data = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-m-broker-0"}});
        let volumes = brokers.spec.as_mut().and_then(|spec| spec.volumes.as_mut()).context("volumes")?;
        volumes.push(serde_json::from_value(data)?);
        pod_security::check(test.ns, brokers, Token::None).await.context("brokers")?;
        let bridge = test.ns.get::<Deployment>("b-bridge").await?.spec.context("a spec")?.template;
        pod_security::check(test.ns, bridge, Token::None).await.context("bridge")
    })
}

async fn policy(namespace: &Namespace, name: &str) -> Result<NetworkPolicySpec> {
    namespace.get::<NetworkPolicy>(name).await?.spec.context("a spec")
}

fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let wanted = selector.and_then(|selector| selector.match_labels.as_ref());
    wanted.is_some_and(|wanted| wanted.iter().all(|(name, value)| labels.get(name) == Some(value)))
}

/// The ports that a policy opens to everybody, to pods of the same labels, and to others.
fn openings(spec: &NetworkPolicySpec) -> Vec<(String, Vec<i32>)> {
    let who =
        |from: &Option<Vec<_>>| from.as_ref().map_or_else(|| "anybody".to_owned(), |from| json!(from).to_string());
    let number = |port: &IntOrString| if let IntOrString::Int(port) = port { *port } else { 0 };
    let ingress = spec.ingress.iter().flatten();
    ingress
        .map(|rule| {
            let ports = rule.ports.iter().flatten().filter_map(|port| port.port.as_ref().map(number)).collect();
            (who(&rule.from), ports)
        })
        .collect()
}

const MONITORING: &str =
    r#"[{"podSelector":{}},{"namespaceSelector":{"matchLabels":{"eventmesh.dev/monitoring":"true"}}}]"#;

#[test]
fn brokers_and_bridges_are_reached_only_where_they_have_to_be() -> Result<()> {
    shared("walls-policies", async |test| {
        test.mesh_and_bridge("walls-policies").await?;
        let brokers = policy(test.ns, "m-broker").await?;
        let template = test.ns.get::<StatefulSet>("m-broker").await?.spec.context("a spec")?.template;
        let broker_labels = template.metadata.and_then(|metadata| metadata.labels).context("labels")?;
        ensure!(selects(brokers.pod_selector.as_ref(), &broker_labels), "the policy does not select the brokers");
        let peers = json!([{"podSelector": brokers.pod_selector}]).to_string();
        assert_eq!(
            openings(&brokers),
            [
                ("anybody".to_owned(), vec![4222, 1883, 8883, 8080, 8443, 7422]),
                (peers, vec![6222]),
                (MONITORING.to_owned(), vec![8222]),
            ]
        );

        let bridge = policy(test.ns, "b-bridge").await?;
        let template = test.ns.get::<Deployment>("b-bridge").await?.spec.context("a spec")?.template;
        let labels = template.metadata.and_then(|metadata| metadata.labels).context("labels")?;
        ensure!(selects(bridge.pod_selector.as_ref(), &labels), "the policy does not select the bridge's pods");
        assert_eq!(openings(&bridge), [(MONITORING.to_owned(), vec![8080])]);

        for (policy, kind) in [("m-broker", "EventMesh"), ("b-bridge", "Bridge")] {
            let found = test.ns.get::<NetworkPolicy>(policy).await?;
            let owner = found.owner_references().first().context("no owner")?;
            assert_eq!((owner.kind.as_str(), owner.controller), (kind, Some(true)));
            let types = found.spec.and_then(|spec| spec.policy_types).unwrap_or_default();
            assert_eq!(types, ["Ingress", "Egress"], "{policy}: a direction without a policy is open");
        }

        // deploy/ lets the operator reach the brokers by labels that it has to know.
        let operator = policy(&test.stack.kube.namespace("eventmesh-system"), "eventmesh-operator").await?;
        let way = operator.egress.iter().flatten().any(|rule| {
            let port = rule.ports.iter().flatten().any(|port| port.port == Some(IntOrString::Int(4222)));
            port && rule.to.iter().flatten().any(|peer| selects(peer.pod_selector.as_ref(), &broker_labels))
        });
        ensure!(way, "the operator's policy does not let it reach the brokers");
        Ok(())
    })
}

#[test]
fn network_policies_changed_by_hand_are_put_back() -> Result<()> {
    shared("walls-drift", async |test| {
        test.mesh_and_bridge("walls-drift").await?;
        for name in ["m-broker", "b-bridge"] {
            let wanted = policy(test.ns, name).await?;
            let as_wanted = |found: &NetworkPolicy| (found.spec.as_ref() == Some(&wanted)).then_some(());
            test.ns.patch::<NetworkPolicy>(name, json!({"spec": {"ingress": [{}], "egress": [{}]}})).await?;
            test.ns.until::<NetworkPolicy, _>(name, "closed again", as_wanted).await?;
            test.ns.delete::<NetworkPolicy>(name).await?;
            test.ns.until::<NetworkPolicy, _>(name, "there again", as_wanted).await?;
        }
        Ok(())
    })
}
