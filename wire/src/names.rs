//! Names that the control plane and the data plane give to things in the broker and in headers.
//!
//! Kubernetes names never contain `_`, so joining them with it is unambiguous.

/// Subjects below this token belong to the mesh itself; no Topic may claim them.
pub const RESERVED_PREFIX: &str = "$EM.";

/// Subject on which every report of every bridge pod of a mesh can be received.
pub const REPORT_WILDCARD: &str = "$EM.report.>";

/// Header that marks an event with the uid of the Bridge that brought it into the mesh; the loop guard reads it.
pub const HEADER_BRIDGE: &str = "Em-Bridge";

/// MQTT 5 user property that marks an event with the uid of the Bridge that sent it out of the mesh.
pub const PROPERTY_BRIDGE: &str = "em-bridge";

/// The stream of a mesh that holds the leases of its bridges, one record a bridge. No Topic has a name like it.
pub const LEASE_STREAM: &str = "EM_leases";

/// What that stream stores.
pub const LEASE_SUBJECTS: &str = "$EM.lease.>";

/// Stream of a Topic: `<namespace>_<topic>`.
#[must_use]
pub fn stream(namespace: &str, topic: &str) -> String {
    format!("{namespace}_{topic}")
}

/// Durable consumer of a Subscription: `sub_<namespace>_<subscription>`.
#[must_use]
pub fn subscription_consumer(namespace: &str, subscription: &str) -> String {
    format!("sub_{namespace}_{subscription}")
}

/// Durable consumer of an outbound route: `bridge_<namespace>_<bridge>_<route>`.
#[must_use]
pub fn bridge_consumer(namespace: &str, bridge: &str, route: &str) -> String {
    format!("bridge_{namespace}_{bridge}_{route}")
}

/// Subject on which one bridge pod publishes its reports: `$EM.report.<namespace>.<bridge>.<pod>`.
///
/// Bridge and pod names may hold dots, which would split a subject token; these become `_`, which no Kubernetes name
/// contains. The report's body carries the true names.
#[must_use]
pub fn report_subject(namespace: &str, bridge: &str, pod: &str) -> String {
    format!("$EM.report.{namespace}.{}.{}", bridge.replace('.', "_"), pod.replace('.', "_"))
}

/// Subject of a bridge's lease: `$EM.lease.<namespace>.<bridge>`; dots become `_` as in [`report_subject`].
#[must_use]
pub fn lease_subject(namespace: &str, bridge: &str) -> String {
    format!("$EM.lease.{namespace}.{}", bridge.replace('.', "_"))
}

/// Subject of a request for what a bridge's lease says.
#[must_use]
pub fn lease_read_subject(namespace: &str, bridge: &str) -> String {
    format!("$JS.API.DIRECT.GET.{LEASE_STREAM}.{}", lease_subject(namespace, bridge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_documented_forms() {
        assert_eq!(stream("platform", "accounts"), "platform_accounts");
        assert_eq!(subscription_consumer("shop", "ledger"), "sub_shop_ledger");
        assert_eq!(bridge_consumer("shop", "factory", "commands"), "bridge_shop_factory_commands");
        assert_eq!(report_subject("shop", "a.b", "a.b-7f"), "$EM.report.shop.a_b.a_b-7f");
        assert_eq!(lease_subject("shop", "a.b"), "$EM.lease.shop.a_b");
        assert_eq!(lease_read_subject("shop", "b"), "$JS.API.DIRECT.GET.EM_leases.$EM.lease.shop.b");
    }
}
