//! What the API server itself refuses at apply time, with the message that the user reads.

use anyhow::Result;
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use eventmesh_tests::objects::Object;

use crate::{Test, object, shared};

/// Applies what must be refused with a message that has `part` in it.
async fn refuse(test: &Test<'_>, yaml: &str, part: &str) -> Result<()> {
    let message = test.ns.refused(yaml).await?;
    assert!(message.contains(part), "wanted a message with `{part}`, got: {message}\nfor:\n{yaml}");
    Ok(())
}

#[test]
fn meshes() -> Result<()> {
    shared("refuse-mesh", async |test| {
        let mesh = |spec: &str| object("EventMesh", "m", spec);
        refuse(test, &mesh("  brokers: {replicas: 2}"), "an even number of brokers").await?;
        refuse(test, &mesh("  brokers: {replicas: 9}"), "1, 3, 5 or 7").await?;
        refuse(test, &mesh("  brokers: {replica: 3}"), "replica").await?;
        refuse(test, &mesh("  brokers: {storage: {size: ten}}"), "storage.size").await?;
        refuse(test, &mesh("  brokers: {storage: {sync: sometimes}}"), "storage.sync").await?;
        refuse(test, &mesh("  brokers: {settings: {maxPayload: 1Gi}}"), "between 1Ki and 64Mi").await?;
        refuse(test, &mesh("  brokers: {}\n  allowedNamespaces: {from: Selector}"), "`selector` must be set").await?;
        refuse(test, &mesh("  brokers: {}\n  listeners: {nats: {expose: Everywhere}}"), "expose").await?;
        let tls = |tls: &str| mesh(&format!("  brokers: {{}}\n  tls: {tls}"));
        refuse(test, &tls("{issuer: CertManager}"), "`issuerRef` must be set").await?;
        refuse(test, &tls("{issuer: Managed, secret: {name: s}}"), "`secret` must be set").await?;
        refuse(test, &tls("{certificateLifetime: 59s}"), "at least 1m").await?;
        refuse(test, &tls("{caLifetime: 5h, caOverlap: 1h}"), "six times caOverlap").await?;
        refuse(test, &tls("{serverNames: ['no name']}"), "serverNames").await?;
        let long = "m".repeat(46);
        refuse(test, &object("EventMesh", &long, "  brokers: {}"), "at most 45 characters").await
    })
}

#[test]
fn changes_of_a_mesh() -> Result<()> {
    shared("refuse-mesh-change", async |test| {
        // Paused, so that the operator has nothing to do with them.
        let mesh = |brokers: &str| object("EventMesh", "m", &format!("  paused: true\n  brokers: {brokers}"));
        test.ns.apply(&mesh("{replicas: 3, storage: {size: 2Gi}}")).await?;
        refuse(test, &mesh("{replicas: 1, storage: {size: 2Gi}}"), "cannot become a mesh of one broker").await?;
        refuse(test, &mesh("{replicas: 3, storage: {size: 1Gi}}"), "storage.size cannot shrink").await?;
        refuse(test, &mesh("{replicas: 3, storage: {size: 2Gi, className: x}}"), "className is immutable").await?;
        test.ns.apply(&mesh("{replicas: 3, storage: {size: 2048Mi, whenDeleted: Delete}}")).await?;
        test.ns.apply(&mesh("{replicas: 3, storage: {size: 20Gi}}")).await?;
        // Of the default size.
        refuse(test, &mesh("{replicas: 3}"), "storage.size cannot shrink").await?;
        test.ns.delete::<EventMesh>("m").await
    })
}

#[test]
fn topics() -> Result<()> {
    shared("refuse-topic", async |test| {
        let topic = |more: &str| Test::topic("refused", more);
        refuse(test, &topic("  storage: {replicas: 2}"), "1, 3 or 5").await?;
        refuse(test, &topic("  retention: {discard: New}"), "discard: New").await?;
        refuse(test, &topic("  retention: {maxAge: a week}"), "maxAge").await?;
        refuse(test, &topic("  retention: {maxAgee: 1h}"), "maxAgee").await?;
        refuse(test, &topic("  subjects: []"), "subjects").await?;
        refuse(test, &topic("  deletionPolicy: Shred"), "deletionPolicy").await?;
        refuse(test, &Test::topic("with.dot", ""), "without dots").await?;

        test.ns.apply(&topic("  storage: {type: File}")).await?;
        refuse(test, &topic("  storage: {type: Memory}"), "storage.type is immutable").await?;
        refuse(test, &topic("  retention: {policy: WorkQueue}"), "retention.policy is immutable").await?;
        refuse(test, &object("Topic", "refused", "  mesh: {name: other}"), "mesh is immutable").await?;
        // The default written out is no change.
        test.ns.apply(&topic("  storage: {type: File}\n  retention: {policy: Limits}")).await
    })
}

#[test]
fn subscriptions() -> Result<()> {
    shared("refuse-subscription", async |test| {
        let subscription = |more: &str| object("Subscription", "s", &format!("  topic: {{name: t}}\n{more}"));
        refuse(test, &subscription("  startFrom: {position: Time}"), "`time` must be set").await?;
        refuse(test, &subscription("  startFrom: {position: New, sequence: 3}"), "`sequence` must be set").await?;
        refuse(test, &subscription("  maxDeliver: 1\n  backoff: [1s, 2s]"), "backoff").await?;
        refuse(test, &subscription("  maxDeliver: 0"), "maxDeliver").await?;
        refuse(test, &subscription("  ackwait: 3s"), "ackwait").await?;

        test.ns.apply(&subscription("  startFrom: {position: All}")).await?;
        refuse(test, &subscription("  startFrom: {position: New}"), "startFrom is immutable").await?;
        refuse(test, &subscription(""), "startFrom is immutable").await?;
        let other = object("Subscription", "s", "  topic: {name: u}\n  startFrom: {position: All}");
        refuse(test, &other, "topic is immutable").await
    })
}

#[test]
fn bridges() -> Result<()> {
    shared("refuse-bridge", async |test| {
        const MESH: &str = "  mesh: {name: retail, namespace: platform}\n";
        const MQTT: &str = "  endpoint: {mqtt: {url: 'mqtt://site.example:1883'}}\n";
        const IN: &str = "  inbound: [{name: a, from: x, to: there}]\n";
        let bridge = |spec: &str| object("Bridge", "b", &format!("{MESH}{spec}"));
        refuse(test, &bridge(MQTT), "at least one route").await?;
        refuse(test, &bridge(&format!("  endpoint: {{}}\n{IN}")), "exactly one kind of endpoint").await?;
        refuse(test, &bridge(&format!("  endpoint: {{mqtt: {{url: 'http://x:1'}}}}\n{IN}")), "url").await?;
        refuse(test, &bridge(&format!("  endpoint: {{mqtt: {{url: 'mqtt://u:p@x:1'}}}}\n{IN}")), "url").await?;
        let tls = "  endpoint: {mqtt: {url: 'mqtt://x:1', tls: {secret: {name: s}}}}\n";
        refuse(test, &bridge(&format!("{tls}{IN}")), "mqtts://").await?;
        let twice = "  outbound: [{name: a, from: {topic: t}, to: z}]\n";
        refuse(test, &bridge(&format!("{MQTT}{IN}{twice}")), "route names must be unique").await?;
        let core = "  endpoint: {nats: {urls: ['nats://x:1']}}\n";
        refuse(test, &bridge(&format!("{core}{IN}")), "core NATS confirms nothing").await?;
        let letters = "  delivery: {evaluationErrors: DeadLetter}\n";
        refuse(test, &bridge(&format!("{MQTT}{IN}{letters}")), "needs a `deadLetter`").await?;
        let two = "  endpoint: {mqtt: {url: 'mqtt://x:1'}, nats: {urls: ['nats://x:1'], jetstream: {}}}\n";
        refuse(test, &bridge(&format!("{two}{IN}")), "exactly one kind of endpoint").await?;
        refuse(test, &bridge(&format!("{MQTT}{IN}  state: Stopped\n")), "state").await?;
        let unknown = "  inbound: [{name: a, from: x, to: there, translate: z}]\n";
        refuse(test, &bridge(&format!("{MQTT}{unknown}")), "translate").await?;

        test.ns.apply(&bridge(&format!("{MQTT}{IN}"))).await?;
        let other = object("Bridge", "b", &format!("  mesh: {{name: other}}\n{MQTT}{IN}"));
        refuse(test, &other, "mesh is immutable").await
    })
}

#[test]
fn kubectl_explains_lists_and_scales() -> Result<()> {
    shared("kubectl", async |test| {
        for (kind, short) in
            [kinds::<EventMesh>("em"), kinds::<Topic>("emt"), kinds::<Subscription>("ems"), kinds::<Bridge>("emb")]
        {
            let listed =
                test.stack.api.kubectl(&["api-resources", "--categories", "eventmesh", "--no-headers"]).await?;
            assert!(listed.lines().any(|line| line.contains(&kind) && line.contains(short)), "{kind} in {listed}");
        }
        let explained = test.stack.api.kubectl(&["explain", "em.spec.brokers.storage.sync"]).await?;
        assert!(explained.contains("power failure"), "{explained}");
        let out = "  outbound: [{name: a, from: {topic: t}, to: z}]\n";
        let bridge = format!(
            "  mesh: {{name: retail, namespace: platform}}\n  endpoint: {{mqtt: {{url: 'mqtt://x:1'}}}}\n{out}"
        );
        test.ns.apply(&object("Bridge", "b", &bridge)).await?;
        test.stack.api.kubectl(&["--namespace", &test.ns.name, "scale", "emb/b", "--replicas", "3"]).await?;
        assert_eq!(test.ns.get::<Bridge>("b").await?.spec.replicas, 3);
        Ok(())
    })
}

fn kinds<K: Object>(short: &str) -> (String, &str) {
    (K::kind(&()).into_owned(), short)
}
