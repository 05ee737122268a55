//! The rule of who may depend on whom: `crds` and `wire` know nobody, the operator, the bridge and the command line know these and
//! never each other. (`wire` stays free of `crds`, so that the data plane carries no Kubernetes.)

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

const ALLOWED: [(&str, &[&str]); 8] = [
    ("eventmesh-crds", &[]),
    ("eventmesh-wire", &[]),
    ("eventmesh-operator", &["eventmesh-crds", "eventmesh-wire"]),
    ("eventmesh-bridge", &["eventmesh-wire"]),
    ("eventmesh-cli", &["eventmesh-crds", "eventmesh-wire"]),
    ("eventmesh-fuzz", &["eventmesh-bridge", "eventmesh-crds", "eventmesh-operator", "eventmesh-wire"]),
    ("eventmesh-tests", &["eventmesh-crds", "eventmesh-wire"]),
    // An example is what users write: it knows nothing of ours.
    ("credit-check", &[]),
];

#[test]
fn crates_depend_only_on_those_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = BTreeMap::from(ALLOWED);
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is new: say here what it may depend on"));
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let ours = dependencies.filter(|dependency| dependency["path"].is_string() && dependency["kind"] != "dev");
        for dependency in ours.filter_map(|dependency| dependency["name"].as_str()) {
            assert!(may.contains(&dependency), "{name} must not depend on {dependency}");
        }
    }
}
