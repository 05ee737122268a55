//! The container that looks at a broker's volume before the broker starts. What it does is in `bridge/src/volume_check.rs`.
//!
//! Its image is that of the data plane, which is another one in each release, and a release must restart no broker. So it stays
//! what it is until something else of the pods changes.

use eventmesh_wire::volume::{MEMBERS_FILE, PROGRAM};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMapVolumeSource, Container, PodSpec, PodTemplateSpec, Volume},
};

use super::{
    super::validate::ValidMesh,
    config_file::{DATA_DIRECTORY, is_cluster},
    hash, names,
    stateful_set::mount,
};
use crate::pods;

/// Name of the container.
pub const VOLUME_CHECK: &str = "volume-check";
/// Annotation of the pods: the fingerprint of all else that they are made of.
pub const MADE_OF: &str = "eventmesh.dev/made-of";

const MEMBERS: &str = "members";
const MEMBERS_DIRECTORY: &str = "/etc/eventmesh/members";

/// None where there is only one broker: nobody else counts on it.
pub fn containers(mesh: &ValidMesh) -> Option<Vec<Container>> {
    let check = Container {
        name: VOLUME_CHECK.to_owned(),
        image: Some(mesh.check_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(vec![DATA_DIRECTORY.to_owned(), format!("{MEMBERS_DIRECTORY}/{MEMBERS_FILE}")]),
        env: Some(vec![pods::name_variable()]),
        resources: Some(pods::requests("10m", "16Mi")),
        security_context: Some(pods::container_security()),
        // Its last line becomes the message in the pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![mount("data", DATA_DIRECTORY, true), mount(MEMBERS, MEMBERS_DIRECTORY, true)]),
        ..Container::default()
    };
    is_cluster(mesh).then(|| vec![check])
}

/// Not there in a mesh that is new; a change of it restarts nobody.
pub fn volume(mesh: &ValidMesh) -> Option<Volume> {
    let config_map = ConfigMapVolumeSource {
        name: names::members(&mesh.key.name),
        optional: Some(true),
        ..ConfigMapVolumeSource::default()
    };
    let volume = Volume { name: MEMBERS.to_owned(), config_map: Some(config_map), ..Volume::default() };
    is_cluster(mesh).then_some(volume)
}

/// Takes the image from what was made of the same.
pub fn keep(set: &mut StatefulSet, before: &[PodTemplateSpec]) {
    let Some(template) = set.spec.as_mut().map(|spec| &mut spec.template) else { return };
    let of = made_of(template);
    let same = before.iter().find(|before| annotation(before) == Some(&of));
    let image = same.and_then(|before| before.spec.as_ref()?.init_containers.as_ref()?.iter().find_map(image_of_check));
    if let (Some(image), Some(check)) = (image, template.spec.as_mut().and_then(check)) {
        check.image = Some(image);
    }
    let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.insert(MADE_OF.to_owned(), of);
}

fn annotation(template: &PodTemplateSpec) -> Option<&String> {
    template.metadata.as_ref()?.annotations.as_ref()?.get(MADE_OF)
}

fn image_of_check(container: &Container) -> Option<String> {
    container.image.clone().filter(|_| container.name == VOLUME_CHECK)
}

fn check(pod: &mut PodSpec) -> Option<&mut Container> {
    pod.init_containers.as_mut()?.iter_mut().find(|container| container.name == VOLUME_CHECK)
}

fn made_of(template: &PodTemplateSpec) -> String {
    let mut template = template.clone();
    if let Some(check) = template.spec.as_mut().and_then(check) {
        check.image = None;
    }
    hash(&[&serde_json::to_string(&template).unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(check: &str, broker: &str) -> StatefulSet {
        let spec = json!({"initContainers": [{"name": VOLUME_CHECK, "image": check}], "containers": [{"name": "broker", "image": broker}]});
        serde_json::from_value(
            json!({"metadata": {}, "spec": {"selector": {}, "serviceName": "s", "template": {"spec": spec}}}),
        )
        .expect("a set")
    }

    fn kept(check: &str, broker: &str, before: &[PodTemplateSpec]) -> PodTemplateSpec {
        let mut set = set(check, broker);
        keep(&mut set, before);
        set.spec.expect("a spec").template
    }

    #[test]
    fn a_release_alone_changes_no_pod() {
        let first = kept("plane:1", "broker:1", &[]);
        assert_eq!(kept("plane:2", "broker:1", std::slice::from_ref(&first)), first);
        let rolled = kept("plane:2", "broker:2", std::slice::from_ref(&first));
        assert_eq!(rolled, kept("plane:2", "broker:2", &[]), "pods that are restarted anyway get the new one");
        assert_eq!(kept("plane:2", "broker:1", &[rolled, first.clone()]), first, "and what is taken back is as before");
    }
}
