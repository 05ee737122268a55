//! The Certificate that cert-manager is asked for. Its types are not part of this program: few fields are needed.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use serde_json::json;

use super::{super::validate::ValidMesh, metadata, names};

/// The kind, as cert-manager has it.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource {
        group: "cert-manager.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "cert-manager.io/v1".to_owned(),
        kind: "Certificate".to_owned(),
        plural: "certificates".to_owned(),
    }
}

/// Absent unless cert-manager is the issuer.
pub fn certificate(mesh: &ValidMesh, all_names: &BTreeSet<String>) -> Option<DynamicObject> {
    let issuer = mesh.tls.issuer_ref.as_ref()?;
    let (addresses, hosts): (Vec<_>, Vec<_>) =
        all_names.iter().partition(|name| name.parse::<std::net::IpAddr>().is_ok());
    let lifetime = mesh.tls.policy.leaf.as_secs();
    let object = DynamicObject::new("", &resource()).data(json!({ "spec": {
        "secretName": names::cert_manager_tls(&mesh.key.name),
        "issuerRef": {
            "name": issuer.name,
            "kind": issuer.kind.as_deref().unwrap_or("Issuer"),
            "group": issuer.group.as_deref().unwrap_or("cert-manager.io"),
        },
        "dnsNames": hosts,
        "ipAddresses": addresses,
        "duration": format!("{lifetime}s"),
        "renewBefore": format!("{}s", lifetime / 3),
        "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
        "usages": ["digital signature", "server auth"],
    }}));
    let metadata: ObjectMeta = metadata(mesh, names::brokers(&mesh.key.name));
    Some(DynamicObject { metadata, ..object })
}
