//! Events that die while the operator or a broker is away: each becomes one letter.

use anyhow::{Context, Result};
use eventmesh_crds::{Subscription, Topic};
use eventmesh_tests::{stack::MESH, wait::eventually};

use crate::{
    Test, alone,
    dead_letters::{IMPATIENT, Place, SOON, counted, header, once_each},
    object,
};

#[test]
fn events_that_die_while_nobody_looks_land_exactly_once() -> Result<()> {
    alone("dead-restart", async |stack, ns| {
        let mesh = stack.mesh();
        stack.kube.apply(&mesh.name, eventmesh_tests::stack::MESH_YAML).await?;
        stack.start_broker(&mesh, MESH).await?;
        let broker = stack.broker(&mesh, MESH).await?;
        let place = Place::make(ns, &broker, "dead-restart", "  retention: {policy: WorkQueue}").await?;
        place.subscribe("s", IMPATIENT).await?;
        // The broker's own memory of ids does not reach over a restart.
        ns.apply(&Test::topic(&place.dead, "  deduplicationWindow: 100ms")).await?;
        ns.ready::<Topic>(&place.dead).await?;
        let _refuser = place.nobody_accepts("s");
        let mut sent = 0;
        let mut publish = async |count: usize| -> Result<usize> {
            for _ in 0..count {
                broker.publish_surely("dead-restart.a", &format!("id {sent}"), &format!("event {sent}")).await;
                sent += 1;
            }
            Ok(sent)
        };

        // The operator is killed in the middle of its work, several times.
        for _ in 0..3 {
            let all = publish(100).await?;
            place.letters(all - 60).await?;
            stack.restart_operator().await?;
            place.letters(all).await?;
        }
        place.no_notes_are_left().await?;
        // It is away, and so is the broker for a while.
        stack.operator.process.kill()?;
        let all = publish(50).await?;
        place.given_up("s", 50).await?;
        stack.kill_broker();
        stack.start_broker(&mesh, MESH).await?;
        stack.restart_operator().await?;

        assert_eq!(counted(&place.letters(all).await?), once_each(all));
        place.no_notes_are_left().await?;
        assert_eq!(counted(&place.letters(all).await?), once_each(all), "and none came twice");
        place.topic_is_emptied().await?;
        let numbers: Vec<String> =
            place.letters(all).await?.iter().map(|letter| header(letter, "Em-Dead-Number").to_owned()).collect();
        assert_eq!(numbers, (1..=all).map(|number| number.to_string()).collect::<Vec<_>>(), "the count goes on");
        place
            .ns
            .until::<Subscription, _>("s", "a Subscription that has counted all", |subscription| {
                (subscription.status.as_ref()?.dead_lettered == i64::try_from(all).ok()).then_some(())
            })
            .await
    })
}

#[test]
fn a_letter_whose_note_outlives_the_operator_is_known_again() -> Result<()> {
    alone("dead-twice", async |stack, ns| {
        let mesh = stack.mesh();
        stack.kube.apply(&mesh.name, eventmesh_tests::stack::MESH_YAML).await?;
        stack.start_broker(&mesh, MESH).await?;
        let broker = stack.broker(&mesh, MESH).await?;
        // The event stays in its Topic, and the broker soon forgets the letter's id: nothing but the letter itself tells.
        let place = Place::make(ns, &broker, "dead-twice", "").await?;
        ns.apply(&Test::topic(&place.dead, "  deduplicationWindow: 100ms")).await?;
        ns.ready::<Topic>(&place.dead).await?;
        place.subscribe("s", IMPATIENT).await?;
        let _refuser = place.nobody_accepts("s");
        broker.publish("dead-twice.a", "event 0").await?;
        let sequence = broker.publish("dead-twice.a", "event 1").await?;
        place.letters(2).await?;
        place.no_notes_are_left().await?;
        // As if it had been killed after it stored the letter and before it acknowledged the note.
        stack.operator.process.kill()?;
        place.note_again("s", sequence).await?;
        stack.restart_operator().await?;
        place.no_notes_are_left().await?;
        assert_eq!(counted(&place.letters(2).await?), once_each(2));
        broker.publish("dead-twice.a", "event 2").await?;
        let letters = place.letters(3).await?;
        assert_eq!(header(&letters[2], "Em-Dead-Number"), "3", "nor is it counted twice");
        Ok(())
    })
}

#[test]
fn a_cluster_that_loses_a_broker_moves_what_dies_there() -> Result<()> {
    alone("dead-cluster", async |stack, ns| {
        let mesh = stack.mesh();
        let spec = "\n  tls: {issuer: Disabled}\n  brokers: {replicas: 3}\n  allowedNamespaces: {from: All}\n";
        stack.kube.apply(&mesh.name, "{apiVersion: v1, kind: Namespace, metadata: {name: platform}}").await?;
        mesh.apply(&object("EventMesh", MESH, spec)).await?;
        stack.start_cluster(&mesh, MESH, 3).await?;
        let broker = stack.broker(&mesh, MESH).await?;
        let place = Place::make(ns, &broker, "dead-cluster", "  retention: {policy: WorkQueue}").await?;
        place.subscribe("s", IMPATIENT).await?;
        let notes = broker.stream("EM_dead_letters").await?.context("a stream of notes")?;
        assert_eq!(notes["config"]["num_replicas"], 3);
        let _refuser = place.nobody_accepts("s");
        let mut sent = 0;
        for lost in [None, Some(1), Some(2)] {
            if let Some(index) = lost {
                stack.kill_peer(index);
                // While nobody leads the stream of notes, none is kept, and events stay in their Topic: docs/adr/0044.
                eventually("leader of the notes", SOON, async || {
                    let notes = place.broker.stream("EM_dead_letters").await.map_err(|error| error.to_string())?;
                    Ok(notes.map(drop))
                })
                .await?;
            }
            for _ in 0..20 {
                broker.publish_surely("dead-cluster.a", &format!("id {sent}"), &format!("event {sent}")).await;
                sent += 1;
            }
            assert_eq!(counted(&place.letters(sent).await?), once_each(sent));
            place.topic_is_emptied().await?;
            place.no_notes_are_left().await?;
            if let Some(index) = lost {
                stack.start_peer(index)?;
                eventually("broker that has caught up", SOON, async || {
                    let info = place.broker.stream("EM_dead_letters").await.map_err(|error| error.to_string())?;
                    let cluster = info.map(|info| info["cluster"].clone()).unwrap_or_default();
                    let current =
                        cluster["replicas"].as_array().is_some_and(|all| all.iter().all(|r| r["current"] == true));
                    if current { Ok(Some(())) } else { Err(cluster.to_string()) }
                })
                .await?;
            }
        }
        Ok(())
    })
}
