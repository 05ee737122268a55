//! Keys, tokens and passwords are in Secrets and nowhere else.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic};
use eventmesh_tests::{
    objects::{Namespace, Object, all_ready},
    stack::Stack,
    wait::eventually,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, Pod, Secret, Service},
    events::v1::Event,
    networking::v1::NetworkPolicy,
};
use kube::api::ListParams;
use serde_json::json;

use crate::{alone, object};

/// Lengths of a seed of NATS, of the shortest token, and of a line of a key in PEM that is worth a look.
const SEED: usize = 58;
const TOKEN: usize = 100;
const PEM_LINE: usize = 40;

/// What of the Secrets of a namespace must be nowhere else.
async fn secrets(ns: &Namespace) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for secret in ns.api::<Secret>().list(&ListParams::default()).await? {
        for (key, value) in secret.data.unwrap_or_default() {
            let text = String::from_utf8_lossy(&value.0).into_owned();
            if key == "cluster-password" || key == "mqtt-password" {
                found.insert(text.clone());
            }
            found.extend(words(&text).filter(|word| is_seed(word) || is_token(word)).map(str::to_owned));
            found.extend(private_key_lines(&text));
        }
    }
    Ok(found)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
}

fn is_seed(word: &str) -> bool {
    word.len() == SEED
        && word.starts_with('S')
        && word[1..].starts_with(['U', 'A', 'O', 'N', 'C'])
        && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

fn is_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.matches('.').count() == 2 && word.len() >= TOKEN
}

/// The head of a key and a line after it, also where a JSON text holds it.
fn has_private_key(text: &str) -> bool {
    ["PRIVATE KEY-----\n", "PRIVATE KEY-----\\n"].iter().any(|head| text.contains(head))
}

fn private_key_lines(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.contains("PRIVATE KEY") {
            inside = line.contains("BEGIN");
        } else if inside && line.len() >= PEM_LINE {
            lines.push(line.to_owned());
        }
    }
    lines
}

async fn all<K: Object>(ns: &Namespace, texts: &mut Vec<(String, String)>) -> Result<()> {
    for object in ns.api::<K>().list(&ListParams::default()).await? {
        let name = object.meta().name.clone().unwrap_or_default();
        texts.push((format!("{} {name}", K::kind(&())), serde_json::to_string(&object)?));
    }
    Ok(())
}

/// Everything that somebody may read who may not read Secrets.
async fn readable(stack: &Stack, ns: &Namespace) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    all::<EventMesh>(ns, &mut texts).await?;
    all::<Topic>(ns, &mut texts).await?;
    all::<Subscription>(ns, &mut texts).await?;
    all::<Bridge>(ns, &mut texts).await?;
    all::<ConfigMap>(ns, &mut texts).await?;
    all::<StatefulSet>(ns, &mut texts).await?;
    all::<Deployment>(ns, &mut texts).await?;
    all::<Pod>(ns, &mut texts).await?;
    all::<Service>(ns, &mut texts).await?;
    all::<NetworkPolicy>(ns, &mut texts).await?;
    all::<Event>(ns, &mut texts).await?;
    for secret in ns.api::<Secret>().list(&ListParams::default()).await? {
        texts.push(("metadata of a Secret".to_owned(), serde_json::to_string(&secret.metadata)?));
    }
    texts.push(("the operator's metrics".to_owned(), stack.operator.admin("/metrics").await?));
    texts.push(("the operator's log".to_owned(), std::fs::read_to_string(stack.operator.process.log())?));
    Ok(texts)
}

#[test]
fn keys_tokens_and_passwords_are_in_secrets_and_nowhere_else() -> Result<()> {
    alone("leaks", async |stack, ns| {
        let mesh =
            "  brokers: {replicas: 1}\n  listeners: {mqtt: {}, websocket: {}, leaf: {}}\n  clients: [{name: press-42}]";
        ns.apply(&object("EventMesh", "m", mesh)).await?;
        // Of three brokers, whose routes carry a password.
        ns.apply(&object("EventMesh", "three", "  brokers: {}")).await?;
        stack.start_broker(ns, "m").await?;
        let grants = "  mesh: {name: m}\n  grants:\n  - {to: {client: press-42}, allow: [Publish, Subscribe]}\n  - {to: {serviceAccount: {name: default}}, allow: [Publish]}";
        ns.apply(&object("Topic", "t", grants)).await?;
        ns.apply(&object("Subscription", "s", "  topic: {name: t}")).await?;
        let password = "a-password-of-the-site-outside";
        let site = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "site"},
            "stringData": {"username": "site", "password": password}});
        ns.apply(&site.to_string()).await?;
        let bridge = "  mesh: {name: m}\n  endpoint: {mqtt: {url: 'mqtt://192.0.2.1:1883', credentials: {secret: {name: site}}}}\n  inbound: [{name: in, from: 'site/+', to: 't.{1}'}]";
        ns.apply(&object("Bridge", "b", bridge)).await?;
        all_ready::<Topic>(ns, &["t"]).await?;
        all_ready::<Subscription>(ns, &["s"]).await?;
        for secret in ["m-client-press-42", "b-bridge-credentials"] {
            ns.secret(secret, "jwt").await?;
        }
        ns.secret("m-client-press-42", "mqtt-password").await?;
        let before = secrets(ns).await?;

        // What is spoiled is told of, and half of it is still a secret.
        let keys = ns.secret("m-keys", "mesh.seed").await?;
        ns.patch::<Secret>("m-keys", json!({"stringData": {"mesh.seed": format!("{keys} and more")}})).await?;
        let record = ns.secret("m-identities", "identities.json").await?;
        ns.patch::<Secret>("m-identities", json!({"stringData": {"identities.json": format!("{record} and more")}}))
            .await?;
        ns.patch::<Secret>("m-ca", json!({"stringData": {"ca.key": "-----BEGIN PRIVATE KEY-----\nrubbish"}})).await?;
        eventually("the keys and the record again", Duration::from_mins(2), async || {
            let told = |error: anyhow::Error| format!("{error:#}");
            let (now, again) =
                (ns.secret("m-keys", "mesh.seed").await, ns.secret("m-identities", "identities.json").await);
            Ok((now.map_err(told)? == keys && again.map_err(told)?.len() == record.len()).then_some(()))
        })
        .await?;
        ns.event("SecretRestored").await?;

        let mut secret = secrets(ns).await?;
        secret.extend(before);
        secret.insert(password.to_owned());
        ensure!(secret.len() >= 20, "only {} secrets to look for", secret.len());
        let texts = readable(stack, ns).await?;
        ensure!(texts.len() >= 15, "only {} texts to look at", texts.len());
        for (name, text) in &texts {
            let told = secret.iter().any(|secret| text.contains(secret.as_str()));
            ensure!(!told, "{name} tells a secret");
            let looks_like = words(text).any(|word| is_seed(word) || is_token(word)) || has_private_key(text);
            ensure!(!looks_like, "{name} tells what looks like a secret");
        }
        // The search finds what is there.
        let broker = ns.secret("three-broker", "cluster.conf").await.context("the routes")?;
        ensure!(secret.iter().any(|secret| broker.contains(secret.as_str())), "the search finds nothing");
        Ok(())
    })
}
