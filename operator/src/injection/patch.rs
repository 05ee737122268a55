//! A decision as a JSON patch: the smallest one, and the same for the same pod. Pure.

use std::collections::BTreeMap;

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, HTTPGetAction, Pod, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
        SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ADMIN_PORT, CONTAINER, INJECTED, INJECTION, VOLUME,
    decide::{Refusal, Sidecar},
};
use crate::pods;

/// Where the binding is mounted.
const BINDING: &str = "/etc/eventmesh";
/// Where the API server mounts the token of the pod's ServiceAccount into every container that has nothing there. The
/// sidecar needs none, so it has the binding there too.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Adds the sidecar.
#[must_use]
pub fn inject(pod: &Pod, sidecar: &Sidecar, image: &str) -> Patch {
    let spec = pod.spec.as_ref();
    let mut operations = annotate(pod, &sidecar.marks, INJECTED);
    // First, so that later init containers have the mesh as well.
    let init = spec.and_then(|spec| spec.init_containers.as_ref());
    operations.push(insert(&["spec", "initContainers"], init.is_some(), "0", &container(sidecar, image)));
    let volumes = spec.and_then(|spec| spec.volumes.as_ref());
    operations.push(insert(&["spec", "volumes"], volumes.is_some(), "-", &volume(sidecar)));
    Patch(operations)
}

/// Says why there is no sidecar.
#[must_use]
pub fn refuse(pod: &Pod, refusal: &Refusal) -> Patch {
    Patch(annotate(pod, &BTreeMap::new(), &refusal.annotation()))
}

fn annotate(pod: &Pod, marks: &BTreeMap<String, String>, answer: &str) -> Vec<PatchOperation> {
    let path = ["metadata", "annotations"];
    let wanted = marks.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain([(INJECTION, answer)]);
    let Some(before) = &pod.metadata.annotations else {
        let all = wanted.map(|(name, value)| (name.to_owned(), Value::from(value)));
        return vec![add(path, Value::Object(all.collect()))];
    };
    wanted
        .filter(|(name, value)| before.get(*name).is_none_or(|before| before != value))
        .map(|(name, value)| add(path.into_iter().chain([name]), Value::from(value)))
        .collect()
}

/// An entry of a list that may not be there.
fn insert(path: &[&str; 2], exists: bool, place: &str, entry: &impl Serialize) -> PatchOperation {
    let entry = json!(entry);
    if exists {
        add(path.iter().copied().chain([place]), entry)
    } else {
        add(path.iter().copied(), Value::Array(vec![entry]))
    }
}

fn add<'a>(path: impl IntoIterator<Item = &'a str>, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path), value })
}

/// A native sidecar: up before what follows it, gone after it, and no reason for a Job to go on.
///
/// It has no readiness probe, since that would be one of the whole pod: an application would lose its requests whenever
/// the mesh is away. `/livez` is good as soon as the ports are open, so neither a mesh nor a binding that is missing keeps
/// the application from its start.
fn container(sidecar: &Sidecar, image: &str) -> Container {
    let mut args: Vec<String> = ["run", "--binding", BINDING].map(str::to_owned).into();
    if let Some(url) = &sidecar.app_ready {
        args.extend(["--app-ready".to_owned(), url.clone()]);
    }
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        restart_policy: Some("Always".to_owned()),
        command: Some(vec!["/eventmesh-sidecar".to_owned()]),
        args: Some(args),
        env: Some(vec![pods::name_variable()]),
        ports: Some(vec![ContainerPort {
            name: Some("eventmesh".to_owned()),
            container_port: ADMIN_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe(1, 60)),
        liveness_probe: Some(probe(10, 3)),
        resources: Some(sidecar.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(security()),
        volume_mounts: Some([BINDING, TOKEN].map(mount).into()),
        ..Container::default()
    }
}

fn default_resources() -> ResourceRequirements {
    ResourceRequirements { limits: Some(pods::amounts(&[("memory", "128Mi")])), ..pods::requests("10m", "16Mi") }
}

/// By number: names of ports are the user's.
fn probe(period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/livez".to_owned()),
            port: IntOrString::Int(ADMIN_PORT),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// What a pod of ours says for all its containers, this one says for itself: the pod is the user's.
fn security() -> SecurityContext {
    let pod = pods::pod_security();
    SecurityContext {
        run_as_non_root: pod.run_as_non_root,
        run_as_user: pod.run_as_user,
        run_as_group: pod.run_as_group,
        seccomp_profile: pod.seccomp_profile.map(|profile| SeccompProfile { type_: profile.type_, ..profile }),
        ..pods::container_security()
    }
}

fn mount(path: &str) -> VolumeMount {
    VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// Optional: the Secret may come after the pod, and the sidecar takes it up then.
fn volume(sidecar: &Sidecar) -> Volume {
    Volume {
        name: VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(sidecar.secret.clone()),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::MeshKey;

    fn sidecar() -> Sidecar {
        Sidecar {
            mesh: MeshKey { namespace: "platform".into(), name: "retail".into() },
            secret: "platform.retail.ledger".to_owned(),
            resources: None,
            app_ready: Some("http://127.0.0.1:8080/ready".to_owned()),
            marks: BTreeMap::new(),
        }
    }

    fn pod(pod: &Value) -> Pod {
        serde_json::from_value(pod.clone()).expect("a pod")
    }

    fn applied(before: &Value, patch: &Patch) -> Value {
        let mut after = before.clone();
        json_patch::patch(&mut after, patch).expect("a patch that fits");
        after
    }

    fn inject(before: &Value) -> Patch {
        super::inject(&pod(before), &sidecar(), "bridge:test")
    }

    fn bare() -> Value {
        json!({"metadata": {"generateName": "ledger-"}, "spec": {"containers": [{"name": "app"}]}})
    }

    fn full() -> Value {
        json!({
            "metadata": {"annotations": {"a": "b"}},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "migrate"}], "volumes": [{"name": "data"}]},
        })
    }

    #[test]
    fn the_patch_of_a_bare_pod() {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_yaml_snapshot!("bare-pod", json!(inject(&bare())));
        });
    }

    #[test]
    fn the_patch_of_a_pod_that_has_everything_is_an_entry_more_of_each() {
        let patch = json!(inject(&full()));
        let paths: Vec<&Value> = patch.as_array().expect("operations").iter().map(|one| &one["path"]).collect();
        assert_eq!(
            paths,
            ["/metadata/annotations/eventmesh.dev~1injection", "/spec/initContainers/0", "/spec/volumes/-"]
        );
        let after = applied(&full(), &inject(&full()));
        assert_eq!(after["spec"]["initContainers"][0]["name"], CONTAINER);
        assert_eq!(after["spec"]["initContainers"][1]["name"], "migrate");
        assert_eq!(after["metadata"]["annotations"], json!({"a": "b", INJECTION: INJECTED}));
    }

    #[test]
    fn a_refusal_changes_an_annotation_only() {
        for before in [bare(), full()] {
            let mut after = applied(&before, &refuse(&pod(&before), &Refusal::HostNetwork));
            let text = after["metadata"]["annotations"][INJECTION].take();
            assert!(text.as_str().is_some_and(|text| text.starts_with("refused: the pod uses")), "{text}");
            assert_eq!(after["spec"], before["spec"]);
        }
    }

    #[test]
    fn marks_for_a_service_mesh_are_annotations() {
        let marks =
            BTreeMap::from([("a".to_owned(), "b".to_owned()), ("config.linkerd.io/x".to_owned(), "1".to_owned())]);
        let sidecar = Sidecar { marks, ..sidecar() };
        for before in [bare(), full()] {
            let after = applied(&before, &super::inject(&pod(&before), &sidecar, "x"));
            let wanted = json!({"a": "b", "config.linkerd.io/x": "1", INJECTION: INJECTED});
            assert_eq!(after["metadata"]["annotations"], wanted);
        }
    }

    #[test]
    fn resources_are_those_of_the_mesh() {
        let asked = ResourceRequirements {
            limits: Some(pods::amounts(&[("cpu", "1"), ("memory", "1Gi")])),
            ..ResourceRequirements::default()
        };
        let sidecar = Sidecar { resources: Some(asked.clone()), ..sidecar() };
        assert_eq!(container(&sidecar, "x").resources, Some(asked));
    }

    proptest! {
        #[test]
        fn the_same_pod_gets_the_same_patch_and_it_fits(
            annotations in prop::option::of(prop::collection::btree_map("[a-z]{1,5}", "[a-z]{0,5}", 0..3)),
            init in prop::option::of(0..3_usize),
            volumes in prop::option::of(0..3_usize),
        ) {
            let list = |count: usize| (0..count).map(|index| json!({"name": format!("n{index}")})).collect::<Vec<_>>();
            let before = json!({
                "metadata": {"annotations": annotations},
                "spec": {"containers": [{"name": "app"}], "initContainers": init.map(list), "volumes": volumes.map(list)},
            });
            let patch = inject(&before);
            prop_assert_eq!(json!(patch.clone()), json!(inject(&before)));
            let after = applied(&before, &patch);
            prop_assert_eq!(after["spec"]["initContainers"].as_array().map_or(0, Vec::len), init.unwrap_or(0) + 1);
            prop_assert_eq!(after["spec"]["volumes"].as_array().map_or(0, Vec::len), volumes.unwrap_or(0) + 1);
            prop_assert_eq!(&after["spec"]["containers"], &before["spec"]["containers"]);
        }
    }
}
