//! Links between meshes of two clusters, each with an API server and an operator of its own and with TLS: what `kubectl eventmesh`
//! writes of one is all that the other needs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventmesh_crds::{EventMesh, Topic};
use eventmesh_tests::{
    RUNTIME,
    broker::Broker,
    child::free_port,
    cli::Cli,
    identity,
    mesh_broker::{MeshBroker, Place},
    objects::Namespace,
    stack::Stack,
    wait::eventually,
};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::{
    links::{condition, status},
    object,
};

const SOON: Duration = Duration::from_mins(1);

/// One cluster with one mesh, whose broker listens on the loopback.
struct Site<'s> {
    stack: &'s Stack,
    ns: &'s Namespace,
    cli: Cli,
    mesh: &'static str,
    leaf: u16,
}

impl<'s> Site<'s> {
    fn new(stack: &'s Stack, ns: &'s Namespace, mesh: &'static str) -> Result<Self> {
        Ok(Self { stack, ns, cli: Cli::new(stack, ns)?, mesh, leaf: free_port()? })
    }

    async fn apply(&self, more: &str) -> Result<()> {
        let spec = format!("  brokers: {{replicas: 1, storage: {{sync: 10s}}}}\n{more}");
        self.ns.apply(&object("EventMesh", self.mesh, &spec)).await
    }

    async fn topic(&self, name: &str) -> Result<()> {
        let spec = format!("  mesh: {{name: {}}}\n  subjects: ['{name}.>']", self.mesh);
        self.ns.apply(&object("Topic", name, &spec)).await
    }

    async fn broker(&self) -> Result<MeshBroker> {
        let place = Place { host: "127.0.0.1".to_owned(), port: self.stack.broker_port(), leaf: self.leaf };
        MeshBroker::start(self.ns, self.mesh, place, &[]).await
    }

    async fn is(&self, reason: &str, part: &str) -> Result<()> {
        condition(self.ns, self.mesh, reason, part).await
    }
}

fn two_clusters(test: impl AsyncFnOnce(&Site<'_>, &Site<'_>) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async {
        let (office, plant) = tokio::try_join!(Stack::without_mesh("link-office"), Stack::without_mesh("link-plant"))?;
        office
            .kube
            .with_namespace("office", async |here| {
                let there = async |there: &Namespace| {
                    test(&Site::new(&office, here, "office")?, &Site::new(&plant, there, "floor")?).await
                };
                plant.kube.with_namespace("plant", there).await
            })
            .await
    })
}

/// All that a stream comes to hold, once it is so much.
async fn stored(broker: &Broker, stream: &str, count: usize) -> Result<Vec<String>> {
    let all = eventually("events", SOON, async || {
        let found = broker.stored(stream).await.map_err(|error| error.to_string())?;
        if found.len() >= count { Ok(Some(found)) } else { Err(format!("{} of {count}", found.len())) }
    });
    Ok(all.await?.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect())
}

#[test]
fn a_mesh_of_another_cluster_dials_with_what_the_command_line_has_written() -> Result<()> {
    two_clusters(async |office, plant| {
        nothing_is_generated_without_a_link(office).await?;
        let url = format!("tls://localhost:{}", office.leaf);
        let links = "  listeners: {leaf: {}}\n  links: [{name: plant, to: {remote: {}}, import: ['line.>'], export: ['plan.>']}]";
        office.apply(links).await?;
        // Accounts are given by brokers, so the Secret comes once they are there: the command waits for it.
        let generate = ["link", "generate", "office", "plant", "--url", &url, "--secret", "head-office"];
        let (written, hub) = tokio::try_join!(office.cli.write(&generate), office.broker())?;
        let entry = office.cli.write(&[&generate[..], &["--output", "entry"]].concat()).await?;
        let indented = entry.trim_end().replace('\n', "\n  ");

        plant.ns.apply(&written).await?;
        plant.apply(&format!("  links:\n  {indented}\n")).await?;
        let spoke = dials_with_a_wrong_authority(plant, &url).await?;
        plant.ns.apply(&written).await?;
        let right = plant.ns.secret("head-office", "ca.crt").await?;
        is_given(plant, &right).await?;
        spoke.sync().await?;
        for site in [office, plant] {
            site.is("Linked", "1 of 1").await.with_context(|| spoke.log())?;
            for topic in ["line", "plan"] {
                site.topic(topic).await?;
            }
            for topic in ["line", "plan"] {
                site.ns.ready::<Topic>(topic).await?;
            }
        }
        events_cross(&hub, &spoke, office, plant).await.with_context(|| spoke.log())?;
        what_is_told(office, plant).await?;
        a_spoilt_copy_is_told_and_cuts_nothing(plant, &written).await?;
        a_link_that_is_taken_back_is_cut(office, plant, &spoke, &generate, links).await
    })
}

async fn nothing_is_generated_without_a_link(office: &Site<'_>) -> Result<()> {
    let refused = async |expected: &str| {
        let said = office.cli.run(&["link", "generate", "office", "plant", "--timeout", "1"], "").await?;
        ensure!(!said.good && said.out.is_empty() && said.err.contains(expected), "{expected}: {said:?}");
        anyhow::Ok(())
    };
    refused("error: there is no EventMesh t-office").await?;
    office.apply("").await?;
    refused("has no link plant in spec.links; it has none").await?;
    office.apply("  links: [{name: plant, to: {remote: {}}, import: ['line.>']}]").await?;
    refused("cannot be dialled: it has no spec.listeners.leaf").await?;
    office.apply("  listeners: {leaf: {}}\n  links: [{name: plant, to: {remote: {}}, import: ['line.>']}]").await?;
    refused("office-link-plant is not there after 1 s; the operator").await
}

/// Its own, by an accident: no broker of the other side is trusted, and the condition says so.
async fn dials_with_a_wrong_authority(site: &Site<'_>, url: &str) -> Result<MeshBroker> {
    let own = site.ns.secret("floor-broker-tls", "ca.crt").await?;
    let data = json!({"data": {"ca.crt": ByteString(own.as_bytes().to_vec())}});
    site.ns.patch::<Secret>("head-office", data).await?;
    let broker = site.broker().await?;
    is_given(site, &own).await?;
    dials(site, url).await?;
    broker.sync().await?;
    site.is("LinkConnecting", "`TLS Handshake Failure`; compare ca.crt").await.with_context(|| broker.log())?;
    let told = status(site.ns, "floor", "the last error", |link| link.last_error_time.is_some()).await?;
    assert_eq!(told.last_error.as_deref(), Some("TLS Handshake Failure"));
    let table = site.cli.write(&["link", "list", "--all-namespaces"]).await?;
    ensure!(table.contains("the last connection ended with `TLS Handshake Failure`"), "{table}");
    Ok(broker)
}

/// Waits until the brokers of a site are given this authority to trust over the link.
async fn is_given(site: &Site<'_>, authority: &str) -> Result<()> {
    let has = |secret: &Secret| {
        let files = secret.data.as_ref()?;
        files.contains_key("office.creds").then_some(())?;
        files.values().any(|file| file.0 == authority.as_bytes()).then_some(())
    };
    site.ns.until::<Secret, _>("floor-links", "the authority", has).await
}

/// Waits until the brokers of a site are told to dial.
async fn dials(site: &Site<'_>, url: &str) -> Result<()> {
    let told = |config: &ConfigMap| config.data.as_ref()?.get("nats.conf")?.contains(url).then_some(());
    site.ns.until::<ConfigMap, _>(&format!("{}-broker", site.mesh), "one that dials", told).await
}

async fn events_cross(hub: &MeshBroker, spoke: &MeshBroker, office: &Site<'_>, plant: &Site<'_>) -> Result<()> {
    let (hub, spoke) = (hub.connect().await?, spoke.connect().await?);
    let stream = |site: &Site<'_>, topic: &str| eventmesh_wire::names::stream(&site.ns.name, topic);
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    for number in &numbers {
        spoke.publish("line.1", number.clone()).await?;
        hub.publish("plan.1", number.clone()).await?;
    }
    assert_eq!(stored(&hub, &stream(office, "line"), 100).await?, numbers);
    assert_eq!(stored(&spoke, &stream(plant, "plan"), 100).await?, numbers);
    Ok(())
}

async fn what_is_told(office: &Site<'_>, plant: &Site<'_>) -> Result<()> {
    status(office.ns, "office", "bytes in", |link| link.bytes_in > Some(0)).await?;
    status(plant.ns, "floor", "bytes out", |link| link.bytes_out > Some(0)).await?;
    let list: Value = serde_json::from_str(&office.cli.write(&["link", "list", "-o", "json"]).await?)?;
    assert_eq!((&list[0]["link"], &list[0]["status"]["state"]), (&json!("plant"), &json!("Connected")));
    let table = plant.cli.write(&["link", "list", "--all-namespaces"]).await?;
    ensure!(table.contains(&format!("tls://localhost:{}   Connected", office.leaf)), "{table}");
    for (site, mesh, link) in [(office, "office", "plant"), (plant, "floor", "office")] {
        let told = site.cli.write(&["link", "inspect", mesh, link]).await?;
        ensure!(told.contains(&format!("plant, of EventMesh {}/office", office.ns.name)), "{told}");
        ensure!(told.contains("nothing is wrong with it") && !told.contains("SEED"), "{told}");
    }
    Ok(())
}

/// A Secret in which this is in place of what belongs there.
async fn replace(site: &Site<'_>, jwt: &str, creds: &str) -> Result<()> {
    let data = json!({"data": {
        "jwt": ByteString(jwt.as_bytes().to_vec()), "nats.creds": ByteString(creds.as_bytes().to_vec()),
    }});
    site.ns.patch::<Secret>("head-office", data).await.map(drop)
}

/// Brokers keep what they have, and the command line says the same as the condition.
async fn a_spoilt_copy_is_told_and_cuts_nothing(plant: &Site<'_>, written: &str) -> Result<()> {
    let config = async || anyhow::Ok(plant.ns.get::<ConfigMap>("floor-broker").await?.data);
    let before = config().await?;
    let (account, now) = (KeyPair::new_account(), Timestamp::now().as_second());
    let user = |name: &str, expires: i64| {
        let claims = json!({"name": name, "exp": expires});
        identity::user(&account, &account.public_key(), &claims, &json!({}))
    };
    let cases = [
        (user("link/plant", now - 1)?, "its credentials have expired"),
        (user("client/press", now + 3600)?, "its credentials are those of client/press, not of a link"),
    ];
    for (login, problem) in cases {
        let identity::Login { jwt, seed, .. } = login;
        let creds = format!("-----BEGIN NATS USER JWT-----\n{jwt}\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n");
        replace(plant, &jwt, &creds).await?;
        plant.is("LinkSecretInvalid", problem).await?;
        let said = plant.cli.run(&["link", "inspect", "floor", "office"], "").await?;
        ensure!(!said.good && said.out.contains(problem) && !said.out.contains(&seed), "{said:?}");
        let told = status(plant.ns, "floor", "still up", |link| link.connections == Some(1)).await?;
        assert_eq!(told.state, "LinkSecretInvalid");
        assert_eq!(config().await?, before, "a spoilt copy changes no configuration");
    }
    plant.ns.delete::<Secret>("head-office").await?;
    plant.is("SecretNotFound", "head-office of the other side does not exist").await?;
    assert_eq!(config().await?, before, "a copy that is gone changes no configuration");
    let said = plant.cli.run(&["link", "inspect", "--file", "-"], written).await?;
    ensure!(said.good && said.out.contains("secret      in -"), "{said:?}");
    plant.ns.apply(written).await?;
    plant.is("Linked", "1 of 1").await
}

async fn a_link_that_is_taken_back_is_cut(
    office: &Site<'_>,
    plant: &Site<'_>,
    spoke: &MeshBroker,
    generate: &[&str],
    links: &str,
) -> Result<()> {
    office.ns.patch::<EventMesh>("office", json!({"spec": {"links": null}})).await?;
    office.ns.gone::<Secret>("office-link-plant").await?;
    plant.is("LinkConnecting", "this side dials tls://localhost").await?;
    plant.is("LinkConnecting", "it does not know the credentials any more").await?;
    let said = office.cli.run(generate, "").await?;
    ensure!(!said.good && said.err.contains("has no link plant"), "{said:?}");

    // The same link again is another: the old copy is of no use, a new one works without a restart.
    office.apply(links).await?;
    let written = office.cli.write(generate).await?;
    plant.is("LinkConnecting", "").await?;
    let before = plant.ns.secret("floor-links", "office.creds").await?;
    plant.ns.apply(&written).await?;
    plant
        .ns
        .until::<Secret, _>("floor-links", "new credentials", |secret| {
            (secret.data.as_ref()?.get("office.creds")?.0 != before.as_bytes()).then_some(())
        })
        .await?;
    spoke.sync().await?;
    for site in [office, plant] {
        site.is("Linked", "1 of 1").await.with_context(|| spoke.log())?;
    }
    Ok(())
}
