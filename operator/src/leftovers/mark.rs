//! What streams and consumers carry in their metadata, so that it is known what becomes of them when their object is
//! gone, whoever was there to see it go. Pure.

use eventmesh_crds::{EventMesh, common::DeletionPolicy};
use kube::Resource;
use serde_json::{Value, json};

use crate::broker::api::Config;

/// Uid of the object that it was made for.
pub const OBJECT: &str = "eventmesh.dev/object-uid";
/// Uid of the `EventMesh` that the object belonged to.
const MESH: &str = "eventmesh.dev/mesh-uid";
/// The object's `deletionPolicy`.
const WHEN_GONE: &str = "eventmesh.dev/when-gone";

/// A mark as it was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Mark {
    object: String,
    mesh: String,
    pub when_gone: String,
}

/// Puts the mark of an object into the metadata of a configuration.
pub fn put<K: Resource>(config: &mut Config, object: &K, mesh: &EventMesh, when_gone: DeletionPolicy) {
    let (Some(uid), Some(mesh)) = (&object.meta().uid, &mesh.metadata.uid) else { return };
    let metadata = config.entry("metadata").or_insert_with(|| json!({}));
    if let Value::Object(metadata) = metadata {
        let marks = [(OBJECT, uid.as_str()), (MESH, mesh), (WHEN_GONE, word(when_gone))];
        metadata.extend(marks.map(|(key, value)| (key.to_owned(), json!(value))));
    }
}

fn word(when_gone: DeletionPolicy) -> &'static str {
    match when_gone {
        DeletionPolicy::Retain => "Retain",
        DeletionPolicy::Delete => DELETE,
        DeletionPolicy::DeleteIfEmpty => DELETE_IF_EMPTY,
    }
}

pub const DELETE: &str = "Delete";
pub const DELETE_IF_EMPTY: &str = "DeleteIfEmpty";

/// The mark, if it was put for an object of this very mesh. After the mesh itself was deleted and made anew nothing of
/// before is taken away: the same objects find it.
pub fn read(config: &Config, mesh: &str) -> Option<Mark> {
    let text = |key: &str| Some(config.get("metadata")?.get(key)?.as_str()?.to_owned());
    let mark = Mark { object: text(OBJECT)?, mesh: text(MESH)?, when_gone: text(WHEN_GONE)? };
    (mark.mesh == mesh).then_some(mark)
}

/// Whether something was left by an object that had the same name, was deleted, and wanted it gone.
pub fn is_of_predecessor(found: &Config, wanted: &Config) -> bool {
    let text = |key: &str| wanted.get("metadata")?.get(key)?.as_str();
    let (Some(object), Some(mesh)) = (text(OBJECT), text(MESH)) else { return false };
    read(found, mesh).is_some_and(|mark| mark.object != object && mark.when_gone == DELETE)
}

#[cfg(test)]
mod tests {
    use eventmesh_crds::Topic;

    use super::*;

    fn mesh(uid: &str) -> EventMesh {
        let mesh = json!({"apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
            "metadata": {"name": "m", "uid": uid}, "spec": {"brokers": {}}});
        serde_json::from_value(mesh).expect("a mesh")
    }

    /// What is made for a Topic of a mesh.
    fn marked(topic: &str, mesh_uid: &str, when_gone: DeletionPolicy) -> Config {
        let topic: Topic = serde_json::from_value(json!({"apiVersion": "eventmesh.dev/v1alpha1", "kind": "Topic",
            "metadata": {"name": "t", "uid": topic}, "spec": {"mesh": {"name": "m"}}}))
        .expect("a topic");
        let mut config = Config::new();
        config.insert("metadata".to_owned(), json!({"theirs": "x"}));
        put(&mut config, &topic, &mesh(mesh_uid), when_gone);
        config
    }

    #[test]
    fn a_mark_counts_in_the_mesh_in_which_it_was_put() {
        let config = marked("t1", "m1", DeletionPolicy::DeleteIfEmpty);
        assert_eq!(config["metadata"]["theirs"], "x");
        assert_eq!(read(&config, "m1").expect("a mark").when_gone, DELETE_IF_EMPTY);
        assert_eq!(read(&config, "m2"), None, "the mesh was made anew");
        assert_eq!(read(&Config::new(), "m1"), None);
    }

    #[test]
    fn what_a_predecessor_wanted_gone_is_told_from_what_is_kept() {
        let wanted = marked("t2", "m1", DeletionPolicy::Delete);
        let left_by = |uid, mesh, policy| is_of_predecessor(&marked(uid, mesh, policy), &wanted);
        assert!(left_by("t1", "m1", DeletionPolicy::Delete));
        assert!(!left_by("t1", "m1", DeletionPolicy::Retain));
        assert!(!left_by("t1", "m0", DeletionPolicy::Delete), "of a mesh that was deleted");
        assert!(!left_by("t2", "m1", DeletionPolicy::Delete), "its own");
        assert!(!is_of_predecessor(&Config::new(), &wanted));
    }
}
