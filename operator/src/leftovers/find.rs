//! Streams and consumers whose object is gone. Pure.

use super::mark;
use crate::broker::view::{ConsumerEntry, StreamEntry, View};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Topic,
    Subscription,
    Bridge,
}

/// The object that something was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

/// What is left of an object that wanted it gone with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub owner: Owner,
    pub stream: String,
    /// Absent where it is the stream itself.
    pub consumer: Option<String>,
    pub only_if_empty: bool,
}

impl Owner {
    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// By names as in `wire::names`: what Kubernetes names hold no `_`.
    fn of_stream(stream: &str) -> Option<Self> {
        let (namespace, name) = stream.split_once('_')?;
        Some(Self::new(Kind::Topic, namespace, name))
    }

    fn of_consumer(consumer: &str) -> Option<Self> {
        let mut parts = consumer.splitn(4, '_');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = match kind {
            "sub" => Kind::Subscription,
            "bridge" => Kind::Bridge,
            _ => return None,
        };
        Some(Self::new(kind, namespace, name))
    }
}

/// `mesh`: the uid of the `EventMesh`. `is_there`: whether an object is known.
pub fn run(view: &View, mesh: &str, is_there: impl Fn(&Owner) -> bool) -> Vec<Leftover> {
    let is_gone = |owner: &Owner| !is_there(owner);
    let when_gone = |config: Option<_>| Some(mark::read(&config?, mesh)?.when_gone);
    let streams = view.stream_names().into_iter().filter_map(|stream| {
        let owner = Owner::of_stream(&stream).filter(&is_gone)?;
        let wanted = when_gone(view.stream(&stream).map(StreamEntry::config)?.ok())?;
        let only_if_empty = wanted == mark::DELETE_IF_EMPTY;
        (only_if_empty || wanted == mark::DELETE).then_some(Leftover { owner, stream, consumer: None, only_if_empty })
    });
    let consumers = view.consumers_with_prefix("").into_iter().filter_map(|(stream, consumer)| {
        let owner = Owner::of_consumer(&consumer).filter(&is_gone)?;
        let wanted = when_gone(view.consumer(&stream, &consumer).map(ConsumerEntry::config)?.ok())?;
        let leftover = Leftover { owner, stream, consumer: Some(consumer), only_if_empty: false };
        (wanted == mark::DELETE).then_some(leftover)
    });
    // Consumers first: those of a stream that goes are gone with it.
    consumers.chain(streams).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(when_gone: &str, mesh: &str) -> serde_json::Value {
        json!({mark::OBJECT: "u", "eventmesh.dev/mesh-uid": mesh, "eventmesh.dev/when-gone": when_gone})
    }

    fn view() -> View {
        let mut view = View::default();
        let mut put = |name: &str, metadata: &serde_json::Value| {
            let info = json!({"config": {"name": name, "metadata": metadata}, "state": {}}).to_string();
            view.put_stream(name.to_owned(), serde_json::from_str(&info).expect("a stream"));
        };
        put("a_delete", &metadata("Delete", "m"));
        put("a_empty", &metadata("DeleteIfEmpty", "m"));
        put("a_keep", &metadata("Retain", "m"));
        put("a_before", &metadata("Delete", "an earlier mesh"));
        put("a_foreign", &json!({}));
        put("EM_leases", &json!({}));
        for (name, when_gone) in
            [("sub_a_s", "Delete"), ("sub_a_kept", "Retain"), ("bridge_a_b_r", "Delete"), ("x", "Delete")]
        {
            let info = json!({"stream_name": "a_keep", "name": name, "config": {"metadata": metadata(when_gone, "m")}});
            view.put_consumer(serde_json::from_str(&info.to_string()).expect("a consumer"));
        }
        view
    }

    #[test]
    fn what_is_left_of_objects_that_wanted_it_gone_is_found() {
        let found = run(&view(), "m", |_| false);
        let told: Vec<_> = found
            .iter()
            .map(|one| (one.owner.kind, one.owner.name.as_str(), one.consumer.is_some(), one.only_if_empty))
            .collect();
        assert_eq!(
            told,
            [
                (Kind::Bridge, "b", true, false),
                (Kind::Subscription, "s", true, false),
                (Kind::Topic, "delete", false, false),
                (Kind::Topic, "empty", false, true),
            ]
        );
    }

    #[test]
    fn what_has_its_object_is_left_alone() {
        assert_eq!(run(&view(), "m", |_| true), []);
        let found = run(&view(), "m", |owner| owner.kind == Kind::Topic);
        assert!(found.iter().all(|one| one.consumer.is_some()), "{found:?}");
    }
}
