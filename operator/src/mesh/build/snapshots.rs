//! What the example EventMesh becomes: every object, whole.

use eventmesh_crds::EventMesh;
use serde::Serialize;

use super::{super::validate, config_file, run};
use crate::mesh::Credentials;

fn example() -> EventMesh {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/mesh.yaml");
    let text = std::fs::read_to_string(file).expect("the example");
    let mut mesh: EventMesh = serde_saphyr::from_str(&text).expect("an EventMesh");
    mesh.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
    mesh
}

/// Credentials that are the same in each run.
fn credentials() -> Credentials {
    let entries = ["operator", "system", "bridge", "client", "cluster"]
        .map(|role| (format!("{role}-password"), k8s_openapi::ByteString(format!("{role}Password").into_bytes())));
    Credentials::complete(&entries.into_iter().collect())
}

fn snapshot(name: &str, object: &impl Serialize) {
    let value = serde_json::to_value(object).expect("serializable");
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_yaml_snapshot!(name, value);
    });
}

#[test]
fn the_example_mesh_becomes_these_objects() {
    let Ok(valid) = validate::run(&example(), "registry.example/broker:1") else { panic!("the example is valid") };
    let desired = run(&valid, &credentials());
    snapshot("service-account", &desired.service_account);
    snapshot("config-map", &desired.config_map);
    snapshot("client-secret", &desired.client_secret);
    snapshot("headless-service", &desired.services[0]);
    snapshot("client-service", &desired.services[1]);
    snapshot("disruption-budget", &desired.budget);
    snapshot("stateful-set", &desired.stateful_set);
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("auth.conf", config_file::auth(&credentials()));
        insta::assert_snapshot!("cluster.conf", config_file::cluster(&valid, &credentials()));
    });
}

#[test]
fn a_changed_setting_changes_the_pods_and_nothing_else_does() {
    let annotations = |mesh: &EventMesh| {
        let Ok(valid) = validate::run(mesh, "registry.example/broker:1") else { panic!("the example is valid") };
        let template = run(&valid, &credentials()).stateful_set.spec.expect("a spec").template;
        template.metadata.and_then(|metadata| metadata.annotations)
    };
    let before = example();
    let mut settings = before.clone();
    settings.spec.brokers.settings = serde_json::from_value(serde_json::json!({"maxConnections": 100})).ok();
    assert_ne!(annotations(&settings), annotations(&before));
    let mut consent = before.clone();
    consent.spec.allowed_namespaces = None;
    assert_eq!(annotations(&consent), annotations(&before), "consent is not the brokers' business");
}
