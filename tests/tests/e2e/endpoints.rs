//! Endpoints that are not as they should be: the condition `Connected` says what is wrong, and heals with the endpoint.

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, Topic, bridge::MqttVersion};
use tokio::net::TcpListener;

use crate::{Test, shared, topic};

/// The host's own address in the network of the local cluster, where a test can listen.
const HOST: &str = "198.18.0.1";

impl Test<'_> {
    /// A mesh, a Topic and a Bridge `b` to `url`.
    async fn bridge_to(&self, url: &str, credentials: &str) -> Result<()> {
        self.mesh(1, "").await?;
        self.ns.apply(&topic(self.word, "")).await?;
        self.ns.ready::<Topic>(self.word).await?;
        let endpoint = format!("  endpoint: {{mqtt: {{url: '{url}'{credentials}}}}}\n");
        let route = format!("  inbound: [{{name: a, from: '{0}/#', to: '{0}.x'}}]\n", self.word);
        self.ns.apply(&crate::object("Bridge", "b", &format!("  mesh: {{name: m}}\n{endpoint}{route}"))).await
    }

    /// Waits for the refusal, whose message must have one of these words.
    async fn unreachable(&self, words: &[&str]) -> Result<()> {
        self.ns
            .until::<Bridge, _>("b", &format!("unreachable with one of {words:?}"), |bridge| {
                let conditions = &bridge.status.as_ref()?.conditions;
                let connected = conditions.iter().find(|condition| condition.type_ == "Connected")?;
                let message = connected.message.to_lowercase();
                let told = words.iter().any(|word| message.contains(word));
                (connected.status == "False" && connected.reason == "EndpointUnreachable" && told).then_some(())
            })
            .await?;
        self.ns.condition::<Bridge>("b", "Ready", "False", "EndpointUnreachable").await.map(drop)
    }
}

#[test]
fn a_wrong_password_is_told_and_a_right_one_helps() -> Result<()> {
    shared("password", async |test| {
        let login = |password: &str| {
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: login}}\nstringData: {{username: bridge, password: {password}}}\n"
            )
        };
        test.ns.apply(&login("wrong")).await?;
        let url = test.site_url(1884);
        test.bridge_to(&url, ", credentials: {secret: {name: login}}").await?;
        test.unreachable(&["not authorized", "notauthorized", "bad user", "badusername", "password"]).await?;
        test.ns.apply(&login("site-secret")).await?;
        test.ns.ready::<Bridge>("b").await.map(drop)
    })
}

#[test]
fn a_name_that_does_not_resolve() -> Result<()> {
    shared("unresolved", async |test| {
        test.bridge_to("mqtt://nowhere.invalid:1883", "").await?;
        test.unreachable(&["resolve", "lookup", "name", "address"]).await?;
        // The endpoint is corrected.
        let route = "  inbound: [{name: a, from: 'unresolved/#', to: 'unresolved.x'}]\n";
        test.ns.apply(&Test::bridge(&test.site_url(1883), MqttVersion::V5, route)).await?;
        test.ns.ready::<Bridge>("b").await.map(drop)
    })
}

#[test]
fn a_port_that_refuses() -> Result<()> {
    shared("refused", async |test| {
        let url = test.site_url(1);
        test.bridge_to(&url, "").await?;
        test.unreachable(&["refuse"]).await
    })
}

#[test]
fn an_endpoint_that_accepts_and_hangs() -> Result<()> {
    shared("hangs", async |test| {
        let listener = TcpListener::bind((HOST, 0)).await.context("this needs the local cluster")?;
        let port = listener.local_addr()?.port();
        let hanging = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        test.bridge_to(&format!("mqtt://{HOST}:{port}"), "").await?;
        let told = test.unreachable(&["hangs"]).await;
        hanging.abort();
        told
    })
}

#[test]
fn an_endpoint_that_closes_at_once() -> Result<()> {
    shared("closes", async |test| {
        let listener = TcpListener::bind((HOST, 0)).await.context("this needs the local cluster")?;
        let port = listener.local_addr()?.port();
        let closing = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        test.bridge_to(&format!("mqtt://{HOST}:{port}"), "").await?;
        let told = test.unreachable(&["clos", "reset", "eof", "aborted"]).await;
        closing.abort();
        told
    })
}
