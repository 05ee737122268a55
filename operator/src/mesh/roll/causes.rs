//! Why a broker is restarted: what differs between what its pod was made from and what the StatefulSet asks for. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use serde_json::Value;

use crate::mesh::build::{
    fingerprint,
    stateful_set::{BROKER, CONFIG_HASH},
    volume_check::MADE_OF,
};

/// Everything that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causes {
    image: Option<(String, String)>,
    /// Keys of the brokers' configuration.
    configuration: Vec<String>,
    resources: bool,
    /// Of the pod template.
    fields: Vec<String>,
}

impl Causes {
    /// In one word; the first of several.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.image.is_some() {
            "ImageChanged"
        } else if !self.configuration.is_empty() {
            "ConfigurationChanged"
        } else if self.resources {
            "ResourcesChanged"
        } else {
            "PodTemplateChanged"
        }
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.iter().map(|(from, to)| format!("image changed from {from} to {to}"));
        let configuration = (!self.configuration.is_empty())
            .then(|| format!("configuration changed: {}", self.configuration.join(", ")));
        let resources = self.resources.then(|| "resources changed".to_owned());
        let fields = (!self.fields.is_empty()).then(|| format!("pod template changed: {}", self.fields.join(", ")));
        let all: Vec<String> = image.chain(configuration).chain(resources).chain(fields).collect();
        f.write_str(if all.is_empty() { "pod template changed" } else { "" })?;
        f.write_str(&all.join("; "))
    }
}

/// Without a template to compare with, it is known only that something differs.
#[must_use]
pub fn run(before: Option<&PodTemplateSpec>, after: Option<&PodTemplateSpec>) -> Causes {
    let (Some(before), Some(after)) = (before, after) else { return Causes::default() };
    let (was, is) = (broker(before), broker(after));
    let image = |container: Option<&Container>| container.and_then(|c| c.image.clone()).unwrap_or_default();
    let config =
        |template: &PodTemplateSpec| template.metadata.as_ref()?.annotations.as_ref()?.get(CONFIG_HASH).cloned();
    let config = |template: &PodTemplateSpec| config(template).unwrap_or_default();
    Causes {
        image: (image(was) != image(is)).then(|| (image(was), image(is))),
        configuration: fingerprint::differing(&config(before), &config(after)),
        resources: was.map(|c| &c.resources) != is.map(|c| &c.resources),
        fields: fields(before, after),
    }
}

fn broker(template: &PodTemplateSpec) -> Option<&Container> {
    template.spec.as_ref()?.containers.iter().find(|container| container.name == BROKER)
}

/// Names of the fields that differ, besides those that have a name of their own here.
fn fields(before: &PodTemplateSpec, after: &PodTemplateSpec) -> Vec<String> {
    let (before, after) = (flat(before), flat(after));
    let names = before.keys().chain(after.keys()).collect::<BTreeSet<_>>();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

/// Metadata, the pod's fields and its container's, by name.
fn flat(template: &PodTemplateSpec) -> BTreeMap<String, Value> {
    let mut template = template.clone();
    if let Some(annotations) = template.metadata.as_mut().and_then(|metadata| metadata.annotations.as_mut()) {
        annotations.remove(CONFIG_HASH);
        annotations.remove(MADE_OF);
    }
    let container = broker(&template).cloned().map(|c| Container { image: None, resources: None, ..c });
    if let Some(spec) = &mut template.spec {
        spec.containers.retain(|container| container.name != BROKER);
    }
    let parts = [
        ("", serde_json::to_value(template.metadata)),
        ("", serde_json::to_value(template.spec)),
        ("container.", serde_json::to_value(container)),
    ];
    let fields = parts.into_iter().filter_map(|(prefix, part)| match part {
        Ok(Value::Object(fields)) => {
            Some(fields.into_iter().map(move |(name, value)| (format!("{prefix}{name}"), value)))
        }
        _ => None,
    });
    fields.flatten().collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn template(change: &Value) -> PodTemplateSpec {
        let mut template = json!({
            "metadata": {"annotations": {CONFIG_HASH: "jetstream:1 listen:1", "note": "x"}},
            "spec": {"nodeSelector": {"disk": "fast"}, "initContainers": [], "containers": [
                {"name": BROKER, "image": "broker:1", "resources": {"requests": {"cpu": "1"}}, "readinessProbe": {"periodSeconds": 5}},
            ]},
        });
        for (path, value) in change.as_object().into_iter().flatten() {
            *template.pointer_mut(path).expect("a field") = value.clone();
        }
        serde_json::from_value(template).expect("a template")
    }

    #[rstest]
    #[case(json!({"/spec/containers/0/image": "broker:2"}), "ImageChanged", "image changed from broker:1 to broker:2")]
    #[case(json!({"/metadata/annotations/eventmesh.dev~1config-hash": "jetstream:2 listen:1"}), "ConfigurationChanged", "configuration changed: jetstream")]
    #[case(json!({"/spec/containers/0/resources": {}}), "ResourcesChanged", "resources changed")]
    #[case(json!({"/spec/nodeSelector": {}}), "PodTemplateChanged", "pod template changed: nodeSelector")]
    #[case(json!({"/spec/initContainers": [{"name": "volume-check", "image": "plane:1"}]}), "PodTemplateChanged", "pod template changed: initContainers")]
    #[case(json!({"/metadata/annotations/note": "y"}), "PodTemplateChanged", "pod template changed: annotations")]
    #[case(json!({"/spec/containers/0/readinessProbe": {"periodSeconds": 6}}), "PodTemplateChanged", "pod template changed: container.readinessProbe")]
    #[case(json!({"/spec/containers/0/image": "broker:2", "/spec/containers/0/resources": {}, "/spec/nodeSelector": {}}), "ImageChanged",
        "image changed from broker:1 to broker:2; resources changed; pod template changed: nodeSelector")]
    fn what_differs_is_named(#[case] change: Value, #[case] reason: &str, #[case] message: &str) {
        let causes = run(Some(&template(&json!({}))), Some(&template(&change)));
        assert_eq!((causes.reason(), causes.to_string().as_str()), (reason, message));
    }

    #[test]
    fn a_forgotten_template_is_no_more_than_a_change() {
        assert_eq!(run(None, Some(&template(&json!({})))).to_string(), "pod template changed");
    }
}
