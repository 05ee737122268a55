//! The Services of a mesh.
//!
//! `appProtocol: tcp` on every port: in NATS the server speaks first, and a service mesh that waits for the client to
//! tell the protocol would wait for ever. What Linkerd reads besides is in `service_mesh.rs`.

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
use crate::service_mesh;

/// All of them. They come before the certificates, which name the addresses that the Services are given.
pub fn run(mesh: &ValidMesh) -> Vec<Service> {
    let mut services = unmarked(mesh);
    for service in &mut services {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        service.metadata.annotations = service_mesh::of_service(mesh.service_mesh, ports);
    }
    services
}

fn unmarked(mesh: &ValidMesh) -> Vec<Service> {
    let extra = mesh.listeners.iter().map(|(listener, expose)| {
        let tls = mesh.tls.has_tls();
        let port = port(listener.name(), listener.port(tls), listener.app_protocol(tls));
        exposed(mesh, listener.service(&mesh.key.name), *expose, port)
    });
    [headless(mesh), client(mesh)].into_iter().chain(extra).collect()
}

/// Gives each broker its own name; brokers must find each other before they are ready.
fn headless(mesh: &ValidMesh) -> Service {
    Service {
        metadata: metadata(mesh, names::headless(&mesh.key.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(mesh)),
            ports: Some(vec![
                port("nats", CLIENT_PORT, "tcp"),
                port("cluster", CLUSTER_PORT, "tcp"),
                port("monitor", MONITOR_PORT, if mesh.tls.has_tls() { "https" } else { "http" }),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Where clients connect: any ready broker.
fn client(mesh: &ValidMesh) -> Service {
    exposed(mesh, names::client_service(&mesh.key.name), mesh.expose, port("nats", CLIENT_PORT, "tcp"))
}

fn exposed(mesh: &ValidMesh, name: String, expose: Expose, port: ServicePort) -> Service {
    let type_ = match expose {
        Expose::ClusterIP => "ClusterIP",
        Expose::NodePort => "NodePort",
        Expose::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata: metadata(mesh, name),
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(selector(mesh)),
            ports: Some(vec![port]),
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
