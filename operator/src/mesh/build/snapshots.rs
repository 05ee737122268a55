//! What the example EventMesh becomes: every object, whole.

use eventmesh_crds::EventMesh;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::{super::validate, certificate, config_file, members, names, run, services};
use crate::{identity::MeshKeys, mesh::certificates::Files, pki::Pair, settings::Images};

fn example() -> EventMesh {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/mesh.yaml");
    let text = std::fs::read_to_string(file).expect("the example");
    let mut mesh: EventMesh = serde_saphyr::from_str(&text).expect("an EventMesh");
    mesh.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
    mesh
}

/// Certificates that are the same in each run.
fn files() -> Files {
    let pair = |name: &str| Pair { certificate: format!("{name} certificate"), key: format!("{name} key") };
    Files {
        serving: Some(pair("serving")),
        authority: Some("authority".to_owned()),
        route: pair("route"),
        route_authority: "route authority".to_owned(),
    }
}

fn with(spec: &serde_json::Value) -> validate::ValidMesh {
    let mut mesh = serde_json::to_value(example()).expect("serializable");
    mesh["spec"].as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    let mesh = serde_json::from_value(mesh).expect("an EventMesh");
    let Ok(valid) = validate::run(&mesh, &Images::fixed()) else { panic!("the spec is valid") };
    valid
}

fn snapshot(name: &str, object: &impl Serialize) {
    let value = serde_json::to_value(object).expect("serializable");
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_yaml_snapshot!(name, value);
    });
}

#[test]
fn the_example_mesh_becomes_these_objects() {
    let Ok(valid) = validate::run(&example(), &Images::fixed()) else { panic!("the example is valid") };
    let keys = MeshKeys::fixed();
    let desired = run(&example(), &valid, &keys, &files());
    let services = services(&valid);
    snapshot("service-account", &desired.service_account);
    snapshot("config-map", &desired.config_map);
    snapshot("tls-secret", &desired.tls_secret);
    snapshot("members", &members(&valid, &["retail-broker-0".to_owned(), "retail-broker-1".to_owned()].into()));
    snapshot("headless-service", &services[0]);
    snapshot("client-service", &services[1]);
    snapshot("disruption-budget", &desired.budget);
    snapshot("network-policy", &desired.network_policy);
    snapshot("stateful-set", &desired.stateful_set);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("auth.conf", config_file::auth(&keys));
        insta::assert_snapshot!("cluster.conf", config_file::cluster(&valid, &keys));
    });
}

const LISTENERS: &str = r#"{"mqtt": {"expose": "LoadBalancer"}, "websocket": {}, "leaf": {"expose": "NodePort"}}"#;

#[test]
fn every_listener_has_a_service_a_port_and_tls() {
    let listeners: serde_json::Value = serde_json::from_str(LISTENERS).expect("JSON");
    let valid = with(&serde_json::json!({"listeners": listeners}));
    let extra: Vec<_> = services(&valid).into_iter().skip(2).collect();
    snapshot("listener-services", &extra);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("listeners.conf", config_file::broker(&valid));
    });
    let set = run(&example(), &valid, &MeshKeys::fixed(), &files()).stateful_set;
    let ports = set.spec.and_then(|spec| spec.template.spec).map(|pod| pod.containers[0].ports.clone()).expect("ports");
    let ports: Vec<i32> = ports.iter().flatten().map(|port| port.container_port).collect();
    assert_eq!(ports, [4222, 6222, 8222, 8883, 8443, 7422]);
}

#[test]
fn nobody_may_be_evicted_while_copies_are_missing() {
    let budget = |lacks_copies| {
        let valid = validate::ValidMesh { lacks_copies, ..with(&serde_json::json!({})) };
        run(&example(), &valid, &MeshKeys::fixed(), &files()).budget.spec.and_then(|spec| spec.max_unavailable)
    };
    assert_eq!([budget(false), budget(true)], [1, 0].map(|most| Some(IntOrString::Int(most))));
}

#[test]
fn nobody_counts_on_a_lone_broker() {
    let set = run(&example(), &with(&serde_json::json!({"brokers": {"replicas": 1}})), &MeshKeys::fixed(), &files());
    let text = serde_json::to_string(&set.stateful_set).expect("serializable");
    assert!(!text.contains("volume-check") && !text.contains("retail-members"), "{text}");
}

#[test]
fn without_tls_only_routes_have_it() {
    let listeners: serde_json::Value = serde_json::from_str(LISTENERS).expect("JSON");
    let valid = with(&serde_json::json!({"listeners": listeners, "tls": {"issuer": "Disabled"}}));
    let file = config_file::broker(&valid);
    assert!(!file.contains("tls {") && file.contains("no_tls: true") && file.contains("http: "), "{file}");
    assert!(config_file::cluster(&valid, &MeshKeys::fixed()).contains("verify: true"));
    let bare = Files { serving: None, authority: None, ..files() };
    let desired = run(&example(), &valid, &MeshKeys::fixed(), &bare);
    let text = serde_json::to_string(&(desired.stateful_set, desired.config_map)).expect("serializable");
    assert!(!text.contains("\"tls.crt") && !text.contains("HTTPS") && !text.contains("\"ca.crt"), "{text}");
}

#[test]
fn another_certificate_is_no_new_configuration() {
    let template = |files: &Files| {
        let Ok(valid) = validate::run(&example(), &Images::fixed()) else { panic!("the example is valid") };
        run(&example(), &valid, &MeshKeys::fixed(), files).stateful_set.spec.expect("a spec").template
    };
    let other = Files { route_authority: "another".to_owned(), serving: Some(files().route), ..files() };
    assert_ne!(other.revision(), files().revision());
    assert_eq!(template(&other), template(&files()));
}

#[test]
fn cert_manager_is_asked_for_every_name() {
    let valid = with(&serde_json::json!({"tls": {"issuer": "CertManager",
        "issuerRef": {"name": "company", "kind": "ClusterIssuer"}, "certificateLifetime": "24h"}}));
    let names = names::certificate_names(&valid.key, ["retail-nats".to_owned()], ["10.0.0.7".to_owned()]);
    snapshot("certificate", &certificate::certificate(&valid, &names).expect("a Certificate"));
}

#[test]
fn what_needs_a_restart_changes_the_pods_and_nothing_else_does() {
    let annotations = |mesh: &EventMesh| {
        let Ok(valid) = validate::run(mesh, &Images::fixed()) else { panic!("the example is valid") };
        let template = run(mesh, &valid, &MeshKeys::fixed(), &files()).stateful_set.spec.expect("a spec").template;
        template.metadata.and_then(|metadata| metadata.annotations)
    };
    let before = example();
    let mut sync = before.clone();
    sync.spec.brokers.storage = serde_json::from_value(serde_json::json!({"size": "1Gi", "sync": "3s"})).ok();
    assert_ne!(annotations(&sync), annotations(&before));
    let mut settings = before.clone();
    settings.spec.brokers.settings = serde_json::from_value(serde_json::json!({"maxConnections": 100})).ok();
    assert_eq!(annotations(&settings), annotations(&before), "brokers take it up while they run");
    let mut consent = before.clone();
    consent.spec.allowed_namespaces = None;
    assert_eq!(annotations(&consent), annotations(&before), "consent is not the brokers' business");
}
