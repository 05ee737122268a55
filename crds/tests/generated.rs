//! The checked-in CRD manifests and the reference of conditions are what the types say.
//!
//! `make generate` runs this test with `UPDATE_GENERATED=1`, which writes the files instead of comparing them.

use std::{fmt::Write as _, fs, path::PathBuf};

use eventmesh_crds::conditions::{ConditionType, Reason};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

fn check(path: &str, generated: &str) {
    let path = repository().join(path);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, generated).expect("written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == generated, "{} is not what the types say; run `make generate`", path.display());
}

#[test]
fn crd_manifests_are_up_to_date() {
    let mut resources = String::new();
    for definition in eventmesh_crds::definitions() {
        let name = definition.metadata.name.clone().expect("a name");
        // Through JSON, so that the order of keys is that of the API and not of a map.
        let yaml = serde_saphyr::to_string(&definition).expect("serializable");
        check(&format!("crds/yaml/{name}.yaml"), &format!("# Generated from crds/src by `make generate`.\n{yaml}"));
        let _ = writeln!(resources, "- {name}.yaml");
    }
    check(
        "crds/yaml/kustomization.yaml",
        &format!(
            "# Generated from crds/src by `make generate`.\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"
        ),
    );
}

#[test]
fn the_reference_of_conditions_is_up_to_date() {
    let mut text = String::from(
        "# Conditions and reasons\n\nGenerated from `crds/src/conditions.rs` by `make generate`.\n\nEvery object shows these \
         condition types in `status.conditions`, `Ready` first. `True` is always good. `observedGeneration` tells which \
         generation of the spec a condition speaks of.\n\nTypes: ",
    );
    text.push_str(&ConditionType::ALL.map(|kind| format!("`{}`", kind.as_str())).join(", "));
    text.push_str(".\n\n| Reason | What it means, and what to do |\n|---|---|\n");
    for (_, name, description) in Reason::ALL {
        let _ = writeln!(text, "| `{name}` | {description} |");
    }
    check("docs/reference/conditions.md", &text);
}
