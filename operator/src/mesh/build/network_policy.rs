//! The NetworkPolicy of the brokers: who reaches which of their ports, and whom they reach.

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicySpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{
    super::validate::ValidMesh,
    config_file::{CLIENT_PORT, CLUSTER_PORT, MONITOR_PORT},
    metadata, names, selector,
};
use crate::network;

/// Ports of listeners that a mesh may have: MQTT, WebSocket, leaf nodes. Where a listener is off, nobody listens.
const LISTENER_PORTS: [i32; 5] = [1883, 8883, 8080, 8443, 7422];

pub fn run(mesh: &ValidMesh) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(mesh, names::brokers(&mesh.key.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(selector(mesh)), ..LabelSelector::default() }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress(mesh)),
            egress: Some(egress(mesh)),
        }),
    }
}

fn ingress(mesh: &ValidMesh) -> Vec<NetworkPolicyIngressRule> {
    vec![
        // Clients come from every namespace and, by a load balancer, from outside: authentication decides, not the
        // address.
        NetworkPolicyIngressRule { from: None, ports: Some(network::tcp(&client_ports())) },
        NetworkPolicyIngressRule {
            from: Some(vec![network::pods(selector(mesh))]),
            ports: Some(network::tcp(&[CLUSTER_PORT])),
        },
        // The monitoring port asks for no credentials and tells of every connection.
        NetworkPolicyIngressRule { from: Some(network::monitoring()), ports: Some(network::tcp(&[MONITOR_PORT])) },
    ]
}

fn client_ports() -> Vec<i32> {
    [CLIENT_PORT].into_iter().chain(LISTENER_PORTS).collect()
}

/// A broker calls nobody but its peers. Links to other meshes, once there are any, are dialled from here: each adds a
/// rule for the port of the far side.
fn egress(mesh: &ValidMesh) -> Vec<NetworkPolicyEgressRule> {
    let mut rules = network::dns().to_vec();
    rules.push(NetworkPolicyEgressRule {
        to: Some(vec![network::pods(selector(mesh))]),
        ports: Some(network::tcp(&[CLUSTER_PORT])),
    });
    rules
}
