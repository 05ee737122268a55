//! What the NetworkPolicies of the operator's making share.
//!
//! A policy holds only where the cluster's network plugin enforces it, so nothing relies on one: who may do what is
//! decided by credentials. A policy is the wall behind that door. Policies add up: who needs more for these pods (a
//! service mesh's control plane, say) writes a further one.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

/// Label of namespaces whose pods may read metrics.
pub const MONITORING: &str = "eventmesh.dev/monitoring";

/// Where DNS servers listen.
const DNS: i32 = 53;
/// Where DNS pods listen behind a Service of port 53: a policy sees the port of the pod. 5353 is OpenShift's.
const DNS_OF_PODS: [i32; 2] = [1053, 5353];

/// Who may read metrics: pods of the same namespace, and those of namespaces that are labelled for it. Probes need no
/// rule, since a node always reaches its own pods.
#[must_use]
pub fn monitoring() -> Vec<NetworkPolicyPeer> {
    let labelled = LabelSelector {
        match_labels: Some(BTreeMap::from([(MONITORING.to_owned(), "true".to_owned())])),
        ..LabelSelector::default()
    };
    vec![
        pods(BTreeMap::new()),
        NetworkPolicyPeer { namespace_selector: Some(labelled), ..NetworkPolicyPeer::default() },
    ]
}

/// The way to the cluster's DNS. Port 53 is open to anywhere, since DNS is a pod in one cluster, the node itself in
/// another and a link-local address in a third.
#[must_use]
pub fn dns() -> [NetworkPolicyEgressRule; 2] {
    let both = |port: i32| [port_of("UDP", port), port_of("TCP", port)];
    [
        NetworkPolicyEgressRule { ports: Some(both(DNS).to_vec()), to: None },
        NetworkPolicyEgressRule {
            ports: Some(DNS_OF_PODS.into_iter().flat_map(both).collect()),
            to: Some(vec![all_pods()]),
        },
    ]
}

/// Pods of the policy's own namespace that have these labels.
#[must_use]
pub fn pods(labels: BTreeMap<String, String>) -> NetworkPolicyPeer {
    let selector =
        LabelSelector { match_labels: Some(labels).filter(|all| !all.is_empty()), ..LabelSelector::default() };
    NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() }
}

/// Every pod of the cluster.
#[must_use]
pub fn all_pods() -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() }
}

#[must_use]
pub fn tcp(ports: &[i32]) -> Vec<NetworkPolicyPort> {
    ports.iter().map(|port| port_of("TCP", *port)).collect()
}

fn port_of(protocol: &str, port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(port)),
        ..NetworkPolicyPort::default()
    }
}
