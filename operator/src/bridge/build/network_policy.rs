//! The NetworkPolicy of a Bridge's pods: nobody reaches them but who reads metrics, and who sends events to one that listens;
//! and they reach what an endpoint can be.

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::{deployment::ADMIN_PORT, selector, service::Listens};
use crate::network;

/// All addresses but those where clouds hand out the credentials of a node to whoever asks: the link-local ones, and the
/// one that AWS uses besides. No endpoint is there.
const OUTSIDE: [(&str, &[&str]); 2] =
    [("0.0.0.0/0", &["169.254.0.0/16"]), ("::/0", &["fe80::/10", "fd00:ec2::254/128"])];

pub fn run(metadata: ObjectMeta, bridge: &str, listens: Option<Listens>) -> NetworkPolicy {
    let metrics =
        NetworkPolicyIngressRule { from: Some(network::monitoring()), ports: Some(network::tcp(&[ADMIN_PORT])) };
    // Those who send may be anywhere; the listener itself asks who they are.
    let events = listens
        .map(|listens| NetworkPolicyIngressRule { from: None, ports: Some(network::tcp(&[listens.container_port])) });
    NetworkPolicy {
        metadata,
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(selector(bridge)), ..LabelSelector::default() }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some([metrics].into_iter().chain(events).collect()),
            egress: Some(egress()),
        }),
    }
}

/// An endpoint is outside by its nature, and a policy knows addresses but no host names; behind a Service even its port
/// is another than that of its URL. So every address of the outside is open, and all pods are named besides, the
/// mesh's brokers among them: some network plugins do not count pods as addresses.
fn egress() -> Vec<NetworkPolicyEgressRule> {
    let outside = OUTSIDE.map(|(all, except)| NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: all.to_owned(),
            except: Some(except.iter().map(|block| (*block).to_owned()).collect()),
        }),
        ..NetworkPolicyPeer::default()
    });
    let mut rules = network::dns().to_vec();
    rules.push(NetworkPolicyEgressRule {
        to: Some(outside.into_iter().chain([network::all_pods()]).collect()),
        ports: None,
    });
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_of_a_listener_is_open_besides() {
        let endpoint =
            serde_json::from_value(serde_json::json!({"http": {"listen": {"authentication": {"none": {}}}}}));
        let listens = super::super::service::listens(&endpoint.expect("an endpoint"));
        let policy = run(ObjectMeta::default(), "hooks", listens);
        let rules = policy.spec.and_then(|spec| spec.ingress).expect("rules");
        let ports = |rule: &NetworkPolicyIngressRule| rule.ports.clone().expect("ports");
        let [metrics, events] = rules.as_slice() else { panic!("{} rules", rules.len()) };
        assert_eq!((ports(metrics), metrics.from.is_some()), (network::tcp(&[ADMIN_PORT]), true));
        assert_eq!((ports(events), events.from.is_some()), (network::tcp(&[8081]), false));
    }

    #[test]
    fn a_bridge_is_reached_by_monitoring_only() {
        let metadata = ObjectMeta { name: Some("stores-bridge".to_owned()), ..ObjectMeta::default() };
        let policy = serde_json::to_value(run(metadata, "stores", None)).expect("serializable");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_yaml_snapshot!("network-policy", policy);
        });
    }
}
