//! The Service of a Bridge that listens: where others send events.

use eventmesh_crds::mesh::Expose;
use eventmesh_wire::config::{EndpointConfig, http::HttpEndpoint};
use k8s_openapi::{
    api::core::v1::{ContainerPort, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{super::validate::ValidBridge, child_name, metadata, selector};

const PORT_NAME: &str = "events";

/// A port on which the pods take events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listens {
    pub container_port: i32,
    tls: bool,
}

impl Listens {
    fn service_port(self) -> i32 {
        if self.tls { 443 } else { 80 }
    }

    fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Whether pods with this endpoint listen, and how.
pub fn listens(endpoint: &EndpointConfig) -> Option<Listens> {
    match endpoint {
        EndpointConfig::Http(HttpEndpoint::Listen(listen)) => {
            Some(Listens { container_port: listen.port.into(), tls: listen.tls.is_some() })
        }
        _ => None,
    }
}

/// The address that senders use: that of the load balancer once there is one, else that inside the cluster.
#[must_use]
pub fn url(namespace: &str, bridge: &str, tls: bool, service: Option<&Service>) -> String {
    let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first());
    let outside = status.and_then(|ingress| ingress.hostname.clone().or_else(|| ingress.ip.clone()));
    let host = outside.unwrap_or_else(|| format!("{}.{namespace}.svc", child_name(bridge)));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    format!("{}://{host}", if tls { "https" } else { "http" })
}

pub fn container_port(listens: Listens) -> ContainerPort {
    ContainerPort {
        name: Some(PORT_NAME.to_owned()),
        container_port: listens.container_port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

pub fn run(bridge: &ValidBridge, listens: Listens) -> Service {
    let type_ = match bridge.expose {
        Expose::ClusterIP => "ClusterIP",
        Expose::NodePort => "NodePort",
        Expose::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata: metadata(bridge),
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(selector(&bridge.name)),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: listens.service_port(),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                app_protocol: Some(listens.scheme().to_owned()),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_address_is_that_of_the_load_balancer_once_there_is_one() {
        assert_eq!(url("shop", "hooks", false, None), "http://hooks-bridge.shop.svc");
        let service = |ingress| {
            serde_json::from_value::<Service>(json!({"status": {"loadBalancer": {"ingress": ingress}}}))
                .expect("a Service")
        };
        assert_eq!(url("shop", "hooks", true, Some(&service(json!([])))), "https://hooks-bridge.shop.svc");
        assert_eq!(url("shop", "hooks", true, Some(&service(json!([{"ip": "10.0.0.1"}])))), "https://10.0.0.1");
        let both = json!([{"ip": "::1", "hostname": "hooks.example"}]);
        assert_eq!(url("shop", "hooks", false, Some(&service(both))), "http://hooks.example");
    }
}
