//! The Services of a mesh.
//!
//! `appProtocol: tcp` on every port: in NATS the server speaks first, and a service mesh that waits for the client to
//! tell the protocol would wait for ever.

use eventmesh_crds::mesh::Expose;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    super::validate::ValidMesh,
    config_file::{CLIENT_PORT, CLUSTER_PORT, MONITOR_PORT},
    metadata, names, selector,
};

/// Gives each broker its own name; brokers must find each other before they are ready.
pub fn headless(mesh: &ValidMesh) -> Service {
    Service {
        metadata: metadata(mesh, names::headless(&mesh.key.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(mesh)),
            ports: Some(vec![
                port("nats", CLIENT_PORT, "tcp"),
                port("cluster", CLUSTER_PORT, "tcp"),
                port("monitor", MONITOR_PORT, "http"),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Where clients connect: any ready broker.
pub fn client(mesh: &ValidMesh) -> Service {
    let type_ = match mesh.expose {
        Expose::ClusterIP => "ClusterIP",
        Expose::NodePort => "NodePort",
        Expose::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata: metadata(mesh, names::client_service(&mesh.key.name)),
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(selector(mesh)),
            ports: Some(vec![port("nats", CLIENT_PORT, "tcp")]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, port: i32, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        app_protocol: Some(protocol.to_owned()),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
