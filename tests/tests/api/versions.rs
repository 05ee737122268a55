//! Brokers that go from one version of nats-server to another and back: three real brokers that are one cluster.

use std::cell::Cell;

use anyhow::Result;
use eventmesh_crds::{EventMesh, Topic};
use eventmesh_tests::objects::Namespace;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::{
    alone,
    brokers::{Brokers, copies, mesh},
    object,
};

const OLDER: (&str, &str) = ("nats-server-before", "2.14.10");
const NEWER: (&str, &str) = ("nats-server", "2.15.2");

fn has_image(image: &str) -> impl Fn(&PodTemplateSpec) -> bool {
    move |template| template.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some(image))
}

/// Every broker is restarted by the operator, one after the other, and comes back as the other program.
async fn follow(brokers: &mut Brokers<'_>, ns: &Namespace, (program, version): (&'static str, &str)) -> Result<()> {
    let image = format!("broker:{version}");
    brokers.stack.brokers_run(program);
    ns.apply(&mesh(3, &format!(", image: '{image}'"))).await?;
    brokers.take_note("the image", has_image(&image)).await?;
    for _ in 0..3 {
        let index = brokers.next().await?;
        brokers.end(index).await?;
        brokers.begin(index).await?;
    }
    ns.ready::<EventMesh>("m").await?;
    let runs = |mesh: &EventMesh| (mesh.status.as_ref()?.broker_version.as_deref() == Some(version)).then_some(());
    ns.until::<EventMesh, _>("m", version, runs).await
}

#[test]
fn a_mesh_goes_up_to_the_next_version_and_back_under_publishing() -> Result<()> {
    alone("versions", async |stack, ns| {
        stack.brokers_run(OLDER.0);
        let mut brokers = Brokers::start(stack, ns, 3).await?;
        ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
        ns.ready::<Topic>("t").await?;
        let client = brokers.stack.broker(ns, "m").await?;
        let sent = Cell::new(0);
        let there_and_back = async {
            follow(&mut brokers, ns, NEWER).await?;
            let half = sent.get();
            follow(&mut brokers, ns, OLDER).await?;
            anyhow::Ok(half)
        };
        let half = client.publish_until(&["t.a"], &sent, there_and_back).await?;
        assert!(0 < half && half < sent.get(), "events were published on both ways");
        let (_, stored) = copies(&client, ns, "t").await?;
        // The one that was under way at the end may be there or not.
        assert!([sent.get(), sent.get() + 1].contains(&stored), "{stored} of {}", sent.get());

        // A version that nobody has tried is refused, and nothing happens to the brokers.
        let before = brokers.uids().await?;
        ns.apply(&mesh(3, ", image: 'broker:2.16.0'")).await?;
        let refused = ns.condition::<EventMesh>("m", "Accepted", "False", "UnsupportedVersion").await?;
        assert!(refused.message.contains("2.15 from 2.15.0 on"), "{}", refused.message);
        assert_eq!(brokers.uids().await?, before);
        Ok(())
    })
}
