//! A Secret of a link, from a cluster or from a file. Pure.

use std::collections::BTreeMap;

use eventmesh_wire::link_secret::LinkSecret;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize as _;
use serde_json::Value;

/// Annotation on what `generate` writes: namespace and name of the mesh that has issued it. The labels that the operator puts on
/// its own are left away: an operator takes a Secret with them for one of a mesh that it ought to know.
pub const ISSUED_BY: &str = "eventmesh.dev/issued-by";
/// The operator's own labels.
const MESH: &str = "eventmesh.dev/mesh";
const MESH_NAMESPACE: &str = "eventmesh.dev/mesh-namespace";

/// What it holds, and who has issued it.
pub struct LinkData {
    pub values: BTreeMap<String, Vec<u8>>,
    pub issued_by: Option<String>,
}

impl LinkData {
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        let plain = secret.string_data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let metadata = &secret.metadata;
        let label = |name: &str| metadata.labels.as_ref()?.get(name).cloned();
        let annotated = metadata.annotations.as_ref().and_then(|all| all.get(ISSUED_BY).cloned());
        let labelled = || Some(format!("{}/{}", label(MESH_NAMESPACE)?, label(MESH)?));
        Self { values: data.chain(plain).collect(), issued_by: annotated.or_else(labelled) }
    }

    /// Of the text of a file, YAML or JSON: its first Secret.
    ///
    /// # Errors
    /// What is wrong; it shows nothing of the text, which may hold a key.
    pub fn read(text: &str) -> Result<Self, String> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|_| "it is neither YAML nor JSON".to_owned())?;
        let secret = documents.into_iter().find(|document| document["kind"] == "Secret");
        let secret = secret.ok_or_else(|| "it holds no Secret".to_owned())?;
        let secret = Secret::deserialize(secret).map_err(|_| "its Secret is broken: is `data` base64?".to_owned())?;
        Ok(Self::of(&secret))
    }

    /// The credentials in it.
    ///
    /// # Errors
    /// What is wrong; it shows nothing of a key.
    pub fn credentials(&self) -> Result<LinkSecret<'_>, String> {
        LinkSecret::read(|key| self.values.get(key).map(Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("{kind: Secret, apiVersion: v1, data: {jwt: aGk=}}")]
    #[case("{kind: Secret, apiVersion: v1, stringData: {jwt: hi}}")]
    #[case("# a comment\nkind: ConfigMap\n---\nkind: Secret\ndata:\n  jwt: aGk=\n")]
    #[case(r#"{"kind": "Secret", "data": {"jwt": "aGk="}}"#)]
    fn a_file_may_be_what_kubectl_takes(#[case] text: &str) {
        assert_eq!(LinkData::read(text).expect("read").values["jwt"], b"hi");
    }

    #[rstest]
    #[case("", "it holds no Secret")]
    #[case("hunter2", "it holds no Secret")]
    #[case("{kind: hunter2}", "it holds no Secret")]
    #[case("{kind: Secret, data: {jwt: hunter2!}}", "is broken")]
    #[case("{hunter2", "neither YAML nor JSON")]
    fn another_file_is_refused_and_not_shown(#[case] text: &str, #[case] problem: &str) {
        let found = LinkData::read(text).err().expect("refused");
        assert!(found.contains(problem) && !found.contains("hunter2"), "{found}");
    }

    #[test]
    fn who_has_issued_it_is_known_of_a_copy_and_of_the_operators_own() {
        let own =
            "{kind: Secret, metadata: {labels: {eventmesh.dev/mesh: retail, eventmesh.dev/mesh-namespace: shop}}}";
        let copy = "{kind: Secret, metadata: {annotations: {eventmesh.dev/issued-by: shop/retail}}}";
        for text in [own, copy] {
            assert_eq!(LinkData::read(text).expect("read").issued_by.as_deref(), Some("shop/retail"));
        }
    }
}
