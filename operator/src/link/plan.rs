//! Which links of a mesh can be carried, who dials, and what each carries. Pure.
//!
//! Loops and duplicates are kept out by rules that a mesh can keep by itself, whatever the others do: it imports a subject over one
//! link at most, and its own events of a subject leave only where it imports that subject over none. So an event has one way to
//! every mesh, and none that leads back: a mesh in a ring imports what goes round, so nobody in the ring puts anything in, and
//! from outside there is no second way in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventmesh_crds::{EventMesh, conditions::Reason, link};
use eventmesh_wire::subject::Pattern;

use super::{account::Carried, copy::Held};
use crate::{
    broker::MeshKey,
    cache::{mesh_key, namespaced},
};

/// Why a link is not carried, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    pub message: String,
}

/// The side that is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Far {
    /// A mesh of this cluster, and the name that it has for the link.
    Mesh { key: MeshKey, link: String, tls: bool },
    /// The Secret is one of this mesh's namespace.
    Remote { urls: Vec<String>, secret: String },
}

/// A link that can be carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Whom this side dials; absent where it is dialled.
    pub dials: Option<Far>,
    pub carried: Carried,
    /// Exported subjects that are only passed on: the mesh's own events of them stay.
    pub passed_on: Vec<Pattern>,
    /// What of its lists it cannot carry.
    pub problem: Option<Refused>,
}

/// The links of a mesh, by name.
pub type Links = BTreeMap<String, Result<Planned, Refused>>;

/// Subjects of a mesh's Topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Of Topics that store.
    pub stored: Vec<Pattern>,
    /// Of live Topics.
    pub live: Vec<Pattern>,
    /// Of live Topics, what somebody may hear or answer.
    pub heard: Vec<Pattern>,
    /// Of Topics that are copies: stored, and nothing else comes in there.
    pub copied: Vec<Pattern>,
    /// The copies, by link.
    pub copies_in: BTreeMap<String, Vec<Held>>,
    /// Streams of which there are copies at the other side, by link.
    pub copies_out: BTreeMap<String, BTreeSet<String>>,
}

/// A link whose lists are good.
struct Lists<'a> {
    link: &'a link::Link,
    export: Vec<Pattern>,
    import: Vec<Pattern>,
}

fn refuse<T>(reason: Reason, message: String) -> Result<T, Refused> {
    Err(Refused { reason, message })
}

/// Plans the links of a mesh. `find`: the meshes of this cluster.
pub fn run(
    key: &MeshKey,
    mesh: &EventMesh,
    find: impl Fn(&MeshKey) -> Option<Arc<EventMesh>>,
    subjects: &Subjects,
) -> Links {
    let links = mesh.spec.links.as_deref().unwrap_or_default();
    let parsed: Vec<(&link::Link, Result<Lists<'_>, Refused>)> = links.iter().map(|link| (link, lists(link))).collect();
    let good: Vec<&Lists<'_>> = parsed.iter().filter_map(|(_, lists)| lists.as_ref().ok()).collect();
    let mut all = Links::new();
    for (link, lists) in &parsed {
        let planned = lists.as_ref().map_err(Clone::clone).and_then(|lists| {
            against_others(lists, &good)?;
            let dials = ends(key, mesh, links, link, &find)?;
            let mut carried = carried(lists, &good, subjects);
            let repeated = !(carried.to_live.is_empty() && carried.to_link.is_empty());
            let mut problem = None;
            if dials.is_some() && mesh.spec.brokers.count() > 1 && repeated {
                // The rest goes on: a Topic of somebody must not take a link down.
                (carried.to_live, carried.to_link) = Default::default();
                let message = format!(
                    "link {}: this mesh dials with {} brokers and imports subjects of a live Topic, or ones that it passes on; \
                     each broker would bring a copy. Let the other side dial: remove its listeners.leaf and add one here",
                    link.name,
                    mesh.spec.brokers.count()
                );
                problem = Some(Refused { reason: Reason::LinkWouldRepeat, message });
            }
            let imported = |one: &&Pattern| good.iter().any(|other| other.import.iter().any(|i| i.overlaps(one)));
            let passed_on = lists.export.iter().filter(imported).cloned().collect();
            Ok(Planned { dials, carried, passed_on, problem })
        });
        all.insert(link.name.clone(), planned);
    }
    let carried: Vec<String> = all.iter().filter(|(_, link)| link.is_ok()).map(|(name, _)| name.clone()).collect();
    for planned in all.values_mut().flatten() {
        planned.carried.to_link.retain(|(link, _)| carried.contains(link));
    }
    all
}

/// Whether a link of the mesh exports subjects of a Topic, so that the Topic has to hand on what it stores.
#[must_use]
pub fn exports(mesh: &EventMesh, subjects: &[Pattern]) -> bool {
    let exported = mesh.spec.links.iter().flatten().flat_map(|link| &link.export);
    exported.filter_map(|one| Pattern::parse(one).ok()).any(|one| subjects.iter().any(|own| own.overlaps(&one)))
}

fn lists(link: &link::Link) -> Result<Lists<'_>, Refused> {
    let parse = |list: &[String]| {
        let parsed = list.iter().map(|subject| Pattern::parse(subject)).collect::<Result<Vec<_>, _>>();
        parsed.map_err(|error| Refused {
            reason: Reason::InvalidSubject,
            message: format!("link {}: {error}", link.name),
        })
    };
    let lists = Lists { link, export: parse(&link.export)?, import: parse(&link.import)? };
    let twice = [&lists.export, &lists.import].into_iter().find_map(|list| {
        let pairs = list.iter().enumerate().flat_map(|(at, one)| list[at + 1..].iter().map(move |other| (one, other)));
        pairs.into_iter().find(|(one, other)| one.overlaps(other))
    });
    if let Some((one, other)) = twice {
        let message = format!("link {}: `{one}` and `{other}` of one list overlap; remove one of them", link.name);
        return refuse(Reason::InvalidSubject, message);
    }
    if let Some((out, into)) = eventmesh_wire::subject::first_overlap(&lists.export, &lists.import) {
        let message = format!(
            "link {}: it exports `{out}` and imports `{into}`, so events would go back to where they come from; remove one",
            link.name
        );
        return refuse(Reason::LinkLoop, message);
    }
    Ok(lists)
}

/// What other links of the mesh mean for the lists of one. Of two that import the same, the first keeps it.
fn against_others(lists: &Lists<'_>, all: &[&Lists<'_>]) -> Result<(), Refused> {
    let name = &lists.link.name;
    for earlier in all.iter().take_while(|other| other.link.name != *name) {
        if let Some((one, other)) = eventmesh_wire::subject::first_overlap(&lists.import, &earlier.import) {
            let message = format!(
                "link {name} imports `{one}`, which overlaps with `{other}` of link {}: an event could come twice, or go round in \
                 a ring; import it over one of them",
                earlier.link.name
            );
            return refuse(Reason::LinkImportTaken, message);
        }
    }
    for other in all {
        let mixed = lists.export.iter().flat_map(|out| other.import.iter().map(move |into| (out, into)));
        if let Some((out, into)) = mixed.into_iter().find(|(out, into)| out.overlaps(into) && !into.contains(out)) {
            let message = format!(
                "link {name} exports `{out}`, of which link {} imports the part `{into}`: export that part and the rest as \
                 subjects of their own",
                other.link.name
            );
            return refuse(Reason::LinkExportMixed, message);
        }
    }
    Ok(())
}

/// The other side, and who dials.
fn ends(
    key: &MeshKey,
    mesh: &EventMesh,
    links: &[link::Link],
    link: &link::Link,
    find: impl Fn(&MeshKey) -> Option<Arc<EventMesh>>,
) -> Result<Option<Far>, Refused> {
    let name = &link.name;
    let Some(reference) = &link.to.mesh else {
        let remote = link.to.remote.clone().unwrap_or_default();
        if let (Some(urls), Some(secret)) = (remote.urls, remote.secret) {
            return Ok(Some(Far::Remote { urls, secret: secret.name }));
        }
        if !listens(mesh) {
            let message = format!(
                "link {name}: the other side dials, and this mesh has no spec.listeners.leaf; add `leaf: {{}}`"
            );
            return refuse(Reason::LinkNobodyListens, message);
        }
        return Ok(None);
    };
    let far = mesh_key(reference, &key.namespace);
    if far == *key {
        return refuse(Reason::LinkToItself, format!("link {name} leads to this mesh itself; name another mesh"));
    }
    let to_far = |link: &&link::Link| link.to.mesh.as_ref().is_some_and(|to| mesh_key(to, &key.namespace) == far);
    if let Some(first) = links.iter().find(to_far).filter(|first| first.name != *name) {
        let message =
            format!("link {} leads to EventMesh {far} already; put the subjects of both into one", first.name);
        return refuse(Reason::LinkTaken, message);
    }
    let Some(other) = find(&far) else {
        return refuse(Reason::MeshNotFound, format!("link {name}: EventMesh {far} does not exist; waiting for it"));
    };
    if other.metadata.deletion_timestamp.is_some() {
        return refuse(Reason::MeshDeleted, format!("link {name}: EventMesh {far} is being deleted"));
    }
    if far.name == key.name {
        let message = format!("link {name}: EventMesh {far} has the name of this mesh; link meshes of different names");
        return refuse(Reason::LinkSameName, message);
    }
    let back = |link: &&link::Link| link.to.mesh.as_ref().is_some_and(|to| mesh_key(to, &far.namespace) == *key);
    let mut back = other.spec.links.iter().flatten().filter(back);
    let (Some(theirs), None) = (back.next(), back.next()) else {
        let message = format!(
            "link {name}: EventMesh {far} has to have one link to this mesh; its owner has to add to its spec.links: \
             {{name: …, to: {{mesh: {{name: {}, namespace: {}}}}}, export: […], import: […]}}",
            key.name, key.namespace
        );
        return refuse(Reason::LinkNotConsented, message);
    };
    // The side that only listens is dialled; of two that both do, the first by name.
    match (listens(mesh), listens(&other)) {
        (false, false) => {
            let message = format!(
                "link {name}: neither this mesh nor EventMesh {far} has spec.listeners.leaf; add `leaf: {{}}` to one"
            );
            refuse(Reason::LinkNobodyListens, message)
        }
        (true, false) => Ok(None),
        (true, true) if *key < far => Ok(None),
        (_, true) => Ok(Some(Far::Mesh { link: theirs.name.clone(), tls: other.spec.has_tls(), key: far })),
    }
}

fn listens(mesh: &EventMesh) -> bool {
    mesh.spec.listeners.as_ref().is_some_and(|listeners| listeners.leaf.is_some())
}

fn carried(lists: &Lists<'_>, all: &[&Lists<'_>], subjects: &Subjects) -> Carried {
    let imported = |one: &&Pattern| all.iter().any(|other| other.import.iter().any(|import| import.overlaps(one)));
    let own: Vec<Pattern> = lists.export.iter().filter(|one| !imported(one)).cloned().collect();
    let others = all.iter().filter(|other| other.link.name != lists.link.name);
    let to_link = others.flat_map(|other| {
        let passed = other.export.iter().filter(|out| lists.import.iter().any(|into| into.contains(out)));
        passed.map(|out| (other.link.name.clone(), out.clone()))
    });
    Carried {
        from_store: both(&own, &[subjects.stored.as_slice(), &subjects.copied].concat()),
        from_live: both(&own, &subjects.live),
        to_store: both(&lists.import, &subjects.stored),
        to_live: both(&lists.import, &subjects.heard),
        to_link: to_link.collect(),
        export: lists.export.clone(),
        import: lists.import.clone(),
        copies_in: subjects.copies_in.get(&lists.link.name).cloned().unwrap_or_default(),
        copies_out: subjects.copies_out.get(&lists.link.name).cloned().unwrap_or_default(),
    }
}

/// What is in both lists; no two of the result overlap, since no two of `left` do and Topics do not.
fn both(left: &[Pattern], right: &[Pattern]) -> Vec<Pattern> {
    let pairs = left.iter().flat_map(|one| right.iter().filter_map(|other| one.intersection(other)));
    let mut all: Vec<Pattern> = crate::identity::grants::normalize(pairs.collect());
    all.sort();
    all
}

/// The links of a mesh from the cache.
#[must_use]
pub fn of(cache: &crate::cache::Cache, mesh: &EventMesh) -> Links {
    let (namespace, name) = namespaced(mesh);
    let key = MeshKey { namespace, name };
    let subjects = crate::identity::link_subjects(cache, &key, mesh);
    run(&key, mesh, |key| cache.mesh(key), &subjects)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn mesh(name: &str, brokers: i32, listens: bool, links: &Value) -> EventMesh {
        let listeners = if listens { json!({"leaf": {}}) } else { json!({}) };
        serde_json::from_value(json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh", "metadata": {"name": name, "namespace": "n"},
            "spec": {"brokers": {"replicas": brokers}, "listeners": listeners, "links": links},
        }))
        .expect("a mesh")
    }

    fn key(name: &str) -> MeshKey {
        MeshKey { namespace: "n".to_owned(), name: name.to_owned() }
    }

    fn link(name: &str, to: &str, export: &[&str], import: &[&str]) -> Value {
        json!({"name": name, "to": {"mesh": {"name": to}}, "export": export, "import": import})
    }

    fn subjects(stored: &[&str], heard: &[&str]) -> Subjects {
        let parse = |all: &[&str]| all.iter().map(|one| Pattern::parse(one).expect("a pattern")).collect::<Vec<_>>();
        Subjects { stored: parse(stored), live: parse(heard), heard: parse(heard), ..Subjects::default() }
    }

    /// The plan of the first of these meshes.
    fn plan(meshes: &[EventMesh], subjects: &Subjects) -> Links {
        let find = |wanted: &MeshKey| {
            let found = meshes.iter().find(|mesh| mesh.metadata.name.as_deref() == Some(&wanted.name));
            found.filter(|_| wanted.namespace == "n").cloned().map(Arc::new)
        };
        let own = meshes[0].metadata.name.as_deref().expect("a name");
        run(&key(own), &meshes[0], find, subjects)
    }

    fn reason(links: &Links, name: &str) -> Option<Reason> {
        let link = links[name].as_ref();
        link.map_or_else(Some, |planned| planned.problem.as_ref()).map(|refused| refused.reason)
    }

    #[rstest]
    #[case(json!([link("l", "a", &["x"], &[])]), Reason::LinkToItself)]
    #[case(json!([link("l", "ghost", &["x"], &[])]), Reason::MeshNotFound)]
    #[case(json!([link("l", "silent", &["x"], &[])]), Reason::LinkNotConsented)]
    #[case(json!([link("l", "deaf", &["x"], &[])]), Reason::LinkNobodyListens)]
    #[case(json!([link("l", "b", &["x.>"], &["x.y"])]), Reason::LinkLoop)]
    #[case(json!([link("l", "b", &["$JS.API.>"], &[])]), Reason::InvalidSubject)]
    #[case(json!([link("l", "b", &["x.>", "x.y"], &[])]), Reason::InvalidSubject)]
    #[case(json!([link("k", "b", &["y"], &[]), link("l", "b", &["x"], &[])]), Reason::LinkTaken)]
    #[case(json!([link("k", "c", &[], &["x.>"]), link("l", "b", &[], &["x.y"])]), Reason::LinkImportTaken)]
    #[case(json!([link("k", "c", &[], &["x.y"]), link("l", "b", &["x.>"], &[])]), Reason::LinkExportMixed)]
    #[case(json!([{"name": "l", "to": {"remote": {}}, "export": ["x"]}]), Reason::LinkNobodyListens)]
    fn what_cannot_be_carried_says_why(#[case] links: Value, #[case] expected: Reason) {
        let back = json!([link("back", "a", &[], &[])]);
        let all = [
            mesh("a", 1, false, &links),
            mesh("b", 1, true, &back),
            mesh("c", 1, true, &back),
            mesh("silent", 1, true, &json!([link("back", "b", &[], &[])])),
            mesh("deaf", 1, false, &back),
        ];
        assert_eq!(reason(&plan(&all, &Subjects::default()), "l"), Some(expected));
    }

    #[test]
    fn a_mesh_of_the_same_name_is_refused() {
        let mut other = mesh("a", 1, true, &json!([]));
        other.metadata.namespace = Some("other".to_owned());
        let own = mesh(
            "a",
            1,
            true,
            &json!([{"name": "l", "to": {"mesh": {"name": "a", "namespace": "other"}}, "export": ["x"]}]),
        );
        let links = run(&key("a"), &own, |_| Some(Arc::new(other.clone())), &Subjects::default());
        assert_eq!(reason(&links, "l"), Some(Reason::LinkSameName));
    }

    #[rstest]
    #[case(true, false, false)]
    #[case(false, true, true)]
    #[case(true, true, false)]
    fn one_side_dials(#[case] a_listens: bool, #[case] b_listens: bool, #[case] a_dials: bool) {
        let a = mesh("a", 1, a_listens, &json!([link("to-b", "b", &["x"], &[])]));
        let b = mesh("b", 1, b_listens, &json!([link("to-a", "a", &[], &["x"])]));
        let of_a = plan(&[a.clone(), b.clone()], &Subjects::default())["to-b"].clone().expect("good").dials;
        let of_b = plan(&[b, a], &Subjects::default())["to-a"].clone().expect("good").dials;
        let far = |name: &str, link: &str| Some(Far::Mesh { key: key(name), link: link.to_owned(), tls: true });
        let expected = if a_dials { (far("b", "to-a"), None) } else { (None, far("a", "to-b")) };
        assert_eq!((of_a, of_b), expected);
    }

    #[test]
    fn what_crosses_is_what_lists_and_topics_share() {
        let a = mesh("a", 1, true, &json!([link("l", "b", &["x.*.y", "z"], &["in.>"])]));
        let b = mesh("b", 1, false, &json!([link("l", "a", &[], &[])]));
        let links = plan(&[a, b], &subjects(&["x.one.>", "in.a"], &["z", "in.b.*"]));
        let carried = &links["l"].as_ref().expect("good").carried;
        let text = |all: &[Pattern]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&carried.from_store), ["x.one.y"]);
        assert_eq!(text(&carried.from_live), ["z"]);
        assert_eq!(text(&carried.to_store), ["in.a"]);
        assert_eq!(text(&carried.to_live), ["in.b.*"]);
    }

    #[test]
    fn in_a_ring_nobody_puts_anything_in() {
        let ring = [("a", "c", "b"), ("b", "a", "c"), ("c", "b", "a")];
        let meshes = ring.map(|(name, before, next)| {
            mesh(name, 1, true, &json!([link("in", before, &[], &["x.>"]), link("out", next, &["x.>"], &[])]))
        });
        for index in 0..3 {
            let mut turned = meshes.to_vec();
            turned.rotate_left(index);
            let links = plan(&turned, &subjects(&["x.>"], &[]));
            let (into, out) = (links["in"].as_ref().expect("good"), links["out"].as_ref().expect("good"));
            assert!(out.carried.from_store.is_empty() && !out.passed_on.is_empty());
            assert_eq!(into.carried.to_link.len(), 1);
        }
    }

    #[rstest]
    #[case(&["x.>"], &[], false, None)]
    #[case(&[], &["x.>"], false, Some(Reason::LinkWouldRepeat))]
    #[case(&["x.>"], &[], true, Some(Reason::LinkWouldRepeat))]
    #[case(&[], &[], false, None)]
    fn several_brokers_that_dial_bring_in_only_what_is_stored(
        #[case] stored: &[&str],
        #[case] heard: &[&str],
        #[case] passes: bool,
        #[case] expected: Option<Reason>,
    ) {
        let mut links = vec![link("l", "b", &[], &["x.>"])];
        links.extend(passes.then(|| link("m", "c", &["x.>"], &[])));
        let back = json!([link("back", "a", &[], &[])]);
        let all = [mesh("a", 3, false, &json!(links)), mesh("b", 1, true, &back), mesh("c", 1, true, &back)];
        let planned = plan(&all, &subjects(stored, heard));
        assert_eq!(reason(&planned, "l"), expected);
        let mut one = all;
        one[0].spec.brokers.replicas = Some(1);
        assert_eq!(reason(&plan(&one, &subjects(stored, heard)), "l"), None);
    }
}
