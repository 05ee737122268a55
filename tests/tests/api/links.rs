//! Links between meshes of one cluster: consent, refusals, and two real brokers that run what the operator has made.
//!
//! Brokers of each mesh are at an address of their own: a mesh's name is the end of it in hexadecimal, since the operator knows one
//! address for all, in which only the name is different.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventmesh_crds::{EventMesh, Topic, link::LinkStatus};
use eventmesh_tests::{
    child::free_port,
    mesh_broker::{MeshBroker, Place},
    objects::Namespace,
    stack::Stack,
    wait::eventually,
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PodTemplateSpec, Secret},
};
use serde_json::json;

use crate::object;

const SOON: Duration = Duration::from_secs(30);

/// The address of the brokers of a mesh, such as `a1`.
pub(super) fn address(mesh: &str) -> Result<String> {
    Ok(format!("127.0.0.{}", u8::from_str_radix(mesh, 16)?))
}

pub(super) fn mesh(name: &str, listens: bool, links: &str) -> String {
    let listeners = if listens { "  listeners: {leaf: {}}\n" } else { "" };
    let number = u8::from_str_radix(name, 16).unwrap_or_default();
    // By one its broker is dialled, by the other the operator reaches it.
    let tls = format!("  tls: {{serverNames: [127.0.0.{number}, '::ffff:7f00:{number:x}']}}\n");
    let brokers = format!("  brokers: {{replicas: 1, storage: {{sync: 10s}}}}\n{tls}");
    object("EventMesh", name, &format!("{brokers}{listeners}  links:\n{links}"))
}

pub(super) fn link(name: &str, to: &str, lists: &str) -> String {
    format!("  - {{name: {name}, to: {{mesh: {{name: {to}}}}}, {lists}}}\n")
}

/// A stack with a namespace for the meshes.
pub(super) fn linked(name: &str, test: impl AsyncFnOnce(&mut Stack, &Namespace) -> Result<()>) -> Result<()> {
    eventmesh_tests::RUNTIME.block_on(async {
        let mut stack = Stack::with_brokers_at(name, |port| format!("nats://[::ffff:7f00:{{mesh}}]:{port}")).await?;
        let kube = stack.kube.clone();
        kube.with_namespace(name, async |ns| test(&mut stack, ns).await).await
    })
}

pub(crate) async fn condition(ns: &Namespace, mesh: &str, reason: &str, part: &str) -> Result<()> {
    let what = format!("Linked {reason} with `{part}`");
    ns.until::<EventMesh, _>(mesh, &what, |mesh| {
        let conditions = mesh.status.as_ref()?.conditions.iter();
        let mut linked = conditions.filter(|condition| condition.type_ == "Linked");
        linked.find(|one| one.reason == reason && one.message.contains(part)).map(|_| ())
    })
    .await
}

pub(crate) async fn status(
    ns: &Namespace,
    mesh: &str,
    what: &str,
    wanted: impl Fn(&LinkStatus) -> bool,
) -> Result<LinkStatus> {
    let found = |mesh: &EventMesh| mesh.status.as_ref()?.links.iter().flatten().find(|link| wanted(link)).cloned();
    ns.until::<EventMesh, _>(mesh, what, found).await
}

/// A broker of a mesh, which finds the others where this machine has them.
pub(super) async fn start(stack: &Stack, ns: &Namespace, mesh: &str, leaf: u16) -> Result<MeshBroker> {
    let service = |far: &str| Ok((format!("{far}-leaf.{}.svc:7422", ns.name), format!("{}:{leaf}", address(far)?)));
    let services = ["a1", "b1"].into_iter().map(service).collect::<Result<Vec<_>>>()?;
    let place = Place { host: address(mesh)?, port: stack.broker_port(), leaf };
    MeshBroker::start(ns, mesh, place, &services).await
}

/// What the pods of its brokers are made from.
async fn template(ns: &Namespace, mesh: &str) -> Result<Option<PodTemplateSpec>> {
    Ok(ns.get::<StatefulSet>(&format!("{mesh}-broker")).await?.spec.map(|spec| spec.template))
}

#[test]
fn a_link_needs_both_sides_and_says_who_must_add_what() -> Result<()> {
    linked("link-consent", async |_, ns| {
        ns.apply(&mesh("a1", true, &link("l", "a1", "export: [x]"))).await?;
        condition(ns, "a1", "LinkToItself", "").await?;
        ns.apply(&mesh("a1", true, &link("l", "b1", "export: [x]"))).await?;
        condition(ns, "a1", "MeshNotFound", "EventMesh t-link-consent").await?;
        ns.apply(&object("EventMesh", "b1", "  brokers: {replicas: 1}")).await?;
        condition(
            ns,
            "a1",
            "LinkNotConsented",
            "its owner has to add to its spec.links: {name: …, to: {mesh: {name: a1",
        )
        .await?;
        ns.apply(&mesh("b1", false, &link("back", "a1", "import: [x]"))).await?;
        // Nobody runs the brokers here, so nobody gets an account.
        condition(ns, "a1", "LinkPending", "link l").await?;
        condition(ns, "b1", "LinkPending", "link back").await?;
        ns.apply(&mesh("a1", false, &link("l", "b1", "export: [x]"))).await?;
        condition(ns, "a1", "LinkNobodyListens", "neither this mesh nor EventMesh").await?;
        ns.apply(&mesh("a1", true, &link("l", "b1", "export: [x.>], import: [x.y]"))).await?;
        condition(ns, "a1", "LinkLoop", "`x.>`").await?;
        let refused = ns.refused(&mesh("c1", true, "  - {name: l, to: {}, export: [x]}\n")).await?;
        ensure!(refused.contains("exactly one of `mesh` and `remote`"), "{refused}");
        Ok(())
    })
}

#[test]
fn two_meshes_are_linked_and_a_link_that_is_taken_back_is_cut() -> Result<()> {
    linked("links", async |stack, ns| {
        let leaf = free_port()?;
        ns.apply(&mesh("a1", true, &link("to-b", "b1", "export: [orders.>, late.>]"))).await?;
        ns.apply(&mesh("b1", false, &link("to-a", "a1", "import: [orders.>, late.>]"))).await?;
        for name in ["a1", "b1"] {
            let mesh = format!("  mesh: {{name: {name}}}\n  subjects: [orders.>]");
            ns.apply(&object("Topic", &format!("orders-{name}"), &mesh)).await?;
        }
        let a = start(stack, ns, "a1", leaf).await?;
        let b = start(stack, ns, "b1", leaf).await?;
        let before = template(ns, "b1").await?;
        // Once both have accounts, the side that dials is given what it needs, and takes it up while it runs.
        ns.secret("b1-links", "to-a.creds").await?;
        ns.until::<ConfigMap, _>("b1-broker", "the remote", |config| {
            config.data.as_ref()?["nats.conf"].contains("a1-leaf").then_some(())
        })
        .await?;
        b.sync().await?;
        for mesh in ["a1", "b1"] {
            condition(ns, mesh, "Linked", "1 of 1").await.with_context(|| b.log())?;
        }
        ns.ready::<Topic>("orders-a1").await?;
        ns.ready::<Topic>("orders-b1").await?;
        let (source, target) = (a.connect().await?, b.connect().await?);
        for number in 0..100 {
            source.publish("orders.x", number.to_string()).await?;
        }
        let stream = eventmesh_wire::names::stream(&ns.name, "orders-b1");
        let stored = eventually("all events", SOON, async || {
            let found = target.stored(&stream).await.map_err(|error| error.to_string())?;
            if found.len() >= 100 { Ok(Some(found)) } else { Err(format!("{}", found.len())) }
        });
        let stored = stored.await?;
        let numbers: Vec<String> =
            stored.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect();
        assert_eq!(numbers, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
        let told = status(ns, "a1", "bytes", |link| link.bytes_out.is_some_and(|bytes| bytes > 0)).await?;
        assert_eq!((told.state.as_str(), told.dials, told.connections), ("Connected", Some(false), Some(1)));

        // A Topic that comes later is wanted over the link that is up.
        let silent = told.bytes_out;
        source.publish_surely("orders.y", "once", "y").await;
        for name in ["a1", "b1"] {
            let mesh = format!("  mesh: {{name: {name}}}\n  subjects: [late.>]");
            ns.apply(&object("Topic", &format!("late-{name}"), &mesh)).await?;
            ns.ready::<Topic>(&format!("late-{name}")).await?;
        }
        let late = eventmesh_wire::names::stream(&ns.name, "late-b1");
        let come = eventually("a late event", SOON, async || {
            source.publish("late.x", "late").await.map_err(|error| error.to_string())?;
            let found = target.stored(&late).await.map_err(|error| error.to_string())?;
            if found.is_empty() { Err("none".to_owned()) } else { Ok(Some(())) }
        });
        come.await.with_context(|| b.log())?;
        status(ns, "a1", "more bytes", |link| link.bytes_out > silent).await?;

        // One side takes its consent back: its brokers cut the link by themselves.
        ns.patch::<EventMesh>("a1", json!({"spec": {"links": null}})).await?;
        condition(ns, "b1", "LinkNotConsented", "").await?;
        ns.gone::<Secret>("a1-link-to-b").await?;
        let cut = eventually("the link to be cut", SOON, async || {
            if b.log().contains("Leafnode connection closed") { Ok(Some(())) } else { Err("it is not".to_owned()) }
        });
        cut.await?;
        ns.gone::<Secret>("b1-links").await?;
        assert_eq!(template(ns, "b1").await?, before, "a link that comes and goes restarts nobody");
        Ok(())
    })
}
