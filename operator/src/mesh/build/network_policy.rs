//! The NetworkPolicy of the brokers: who reaches which of their ports, and whom they reach.

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicySpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{
    super::validate::ValidMesh,
    config_file::{CLIENT_PORT, CLUSTER_PORT, MONITOR_PORT},
    listeners::Listener,
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

/// A broker calls nobody but its peers, and the other sides of the links that it dials: each adds a rule for their port. Where
/// they are stands in the spec by names, which a policy does not know.
fn egress(mesh: &ValidMesh) -> Vec<NetworkPolicyEgressRule> {
    let mut rules = network::dns().to_vec();
    rules.push(NetworkPolicyEgressRule {
        to: Some(vec![network::pods(selector(mesh))]),
        ports: Some(network::tcp(&[CLUSTER_PORT])),
    });
    let mut ports: Vec<i32> = mesh.remotes.iter().flat_map(|remote| &remote.urls).filter_map(|url| port(url)).collect();
    ports.sort_unstable();
    ports.dedup();
    if !ports.is_empty() {
        rules.push(NetworkPolicyEgressRule { to: None, ports: Some(network::tcp(&ports)) });
    }
    rules
}

fn port(url: &str) -> Option<i32> {
    let (_, address) = url.split_once("://")?;
    match address.rsplit_once(':') {
        Some((_, port)) => port.parse().ok(),
        None => Some(Listener::Leaf.port(true)),
    }
}
