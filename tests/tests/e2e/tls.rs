//! Certificates on the cluster: the real kubelets exchange the files, and events flow meanwhile.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{EventMesh, Topic, bridge::MqttVersion, mesh::BrokerStatus, tls::CertificatesStatus};
use eventmesh_tests::{
    broker::Broker,
    paths::scratch,
    process::CertManager,
    tls::{Begin, served},
    wait::eventually,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use crate::{Test, shared, topic};

/// A renewal of a certificate of two minutes, and its way to every broker: a kubelet that misses the hint exchanges files
/// within a minute and a half.
const RENEWAL: Duration = Duration::from_mins(6);
/// Brokers are asked every ten seconds.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two events of a client that publishes all the time.
const PACE: Duration = Duration::from_millis(20);

/// What must not change while certificates do.
#[derive(Debug, PartialEq)]
struct Lives(BTreeMap<String, (Option<String>, i32, Option<String>)>);

impl Test<'_> {
    async fn certificates(&self) -> Result<CertificatesStatus> {
        let status = self.ns.get::<EventMesh>("m").await?.status.context("a status")?;
        status.certificates.context("certificates")
    }

    /// Start of each broker process, restarts of its container, and identity of its pod, once every broker has said when it
    /// started: a mesh is ready before the operator has asked them.
    async fn lives(&self) -> Result<Lives> {
        eventually("a start of every broker", PATIENCE, async || {
            self.known_lives().await.map_err(|error| format!("{error:#}"))
        })
        .await
    }

    async fn known_lives(&self) -> Result<Option<Lives>> {
        let status = self.ns.get::<EventMesh>("m").await?.status.context("a status")?;
        let mut lives = BTreeMap::new();
        for BrokerStatus { name, started_at, restarts, .. } in status.brokers.unwrap_or_default() {
            if started_at.is_none() {
                return Ok(None);
            }
            let pod = self.ns.get::<Pod>(&name).await?;
            lives.insert(name, (started_at, restarts, pod.uid()));
        }
        Ok((!lives.is_empty()).then_some(Lives(lives)))
    }

    /// Waits until there is another certificate than this, and every broker shows it.
    async fn renewed(&self, before: &str) -> Result<String> {
        eventually("a renewal on every broker", RENEWAL, async || {
            let told = |error: anyhow::Error| format!("{error:#}");
            let serial = self.certificates().await.map_err(told)?.serial.unwrap_or_default();
            if serial == before {
                return Ok(None);
            }
            let trust = self.ns.authority("m").await.map_err(told)?.ok_or("no authority")?;
            for ordinal in 0..3 {
                let pod = self.ns.get::<Pod>(&format!("m-broker-{ordinal}")).await.map_err(told)?;
                let address = pod.status.and_then(|status| status.pod_ip).ok_or("no address")?;
                let address: SocketAddr = format!("{address}:4222").parse().map_err(|_| "no address")?;
                // By a name that every certificate has; the address of a pod is in none.
                let shown = served(address, "localhost", Begin::Nats, &trust).await.map_err(told)?;
                if shown != serial {
                    return Err(format!("m-broker-{ordinal} shows {shown}, not {serial}"));
                }
            }
            Ok(Some(serial))
        })
        .await
    }

    /// A mesh of three with these certificates, and events in both directions, some of which are through.
    async fn flowing(&self, tls: &str) -> Result<(Broker, crate::faults::Flows)> {
        let broker = self.mesh(3, &format!("  tls: {tls}\n")).await?;
        self.both_ways(MqttVersion::V5, "").await?;
        let flows = self.flows(&broker, MqttVersion::V5).await?;
        flows.reached(0.1).await?;
        Ok((broker, flows))
    }
}

/// A client that publishes all the time, one event after the other's acknowledgement.
struct Steady {
    task: JoinHandle<u64>,
    stop: watch::Sender<bool>,
}

impl Steady {
    async fn start(test: &Test<'_>, broker: &Broker) -> Result<Self> {
        test.ns.apply(&topic("steady", "")).await?;
        test.ns.ready::<Topic>("steady").await?;
        let (broker, stop) = (broker.clone(), watch::Sender::new(false));
        let stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let (mut pace, mut sent) = (tokio::time::interval(PACE), 0);
            while !*stopped.borrow() {
                pace.tick().await;
                broker.publish_surely("steady.a", &format!("steady-{sent}"), "x").await;
                sent += 1;
            }
            sent
        });
        Ok(Self { task, stop })
    }

    /// Every event that was acknowledged is stored, once.
    async fn nothing_lost(self, test: &Test<'_>, broker: &Broker) -> Result<()> {
        self.stop.send_replace(true);
        let sent = self.task.await?;
        let stream = broker.stream(&test.stream("steady")).await?.context("no stream")?;
        ensure!(stream["state"]["messages"] == sent, "{sent} acknowledged, {} stored", stream["state"]["messages"]);
        ensure!(sent > 100, "only {sent} events were published meanwhile");
        Ok(())
    }
}

#[test]
fn renewals_restart_nobody_and_lose_nothing() -> Result<()> {
    shared("renewal", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let (broker, flows) = test.flowing("{certificateLifetime: 2m}").await?;
        let steady = Steady::start(test, &broker).await?;
        let lives = test.lives().await?;
        let cid = broker.client.server_info().client_id;
        let mut serial = test.certificates().await?.serial.context("a serial")?;
        // By time, and by another name.
        serial = test.renewed(&serial).await?;
        test.ns.patch::<EventMesh>("m", json!({"spec": {"tls": {"serverNames": ["mesh.example"]}}})).await?;
        test.renewed(&serial).await?;
        steady.nothing_lost(test, &broker).await?;
        flows.nothing_lost().await?;
        assert_eq!(test.lives().await?, lives);
        assert_eq!(broker.client.server_info().client_id, cid, "a client was disconnected");
        test.ns.ready::<EventMesh>("m").await.map(drop)
    })
}

#[test]
fn another_authority_restarts_nobody_and_loses_nothing() -> Result<()> {
    shared("rollover", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let (broker, flows) = test.flowing("{caOverlap: 30s}").await?;
        let steady = Steady::start(test, &broker).await?;
        let lives = test.lives().await?;
        let old = test.ns.authority("m").await?.context("an authority")?;
        test.ns
            .patch::<EventMesh>("m", json!({"metadata": {"annotations": {"eventmesh.dev/renew-ca": "now"}}}))
            .await?;
        for phase in ["Introducing", "Retiring", "Stable"] {
            let reached = |mesh: &EventMesh| {
                let status = mesh.status.as_ref()?.certificates.as_ref()?;
                (status.ca_phase.as_deref() == Some(phase)).then_some(())
            };
            test.ns.until::<EventMesh, _>("m", phase, reached).await?;
            // Whoever comes now and reads the bundle is let in.
            test.cluster.broker(test.ns, "m").await?;
        }
        steady.nothing_lost(test, &broker).await?;
        flows.nothing_lost().await?;
        assert!(!test.ns.authority("m").await?.context("an authority")?.contains(&old), "the old one is still trusted");
        assert_eq!(test.lives().await?, lives);
        test.ns.ready::<EventMesh>("m").await.map(drop)
    })
}

#[test]
fn cert_manager_signs_for_the_brokers_and_renews() -> Result<()> {
    shared("certmanager", async |test| {
        if !test.cluster.is_local() {
            return Ok(());
        }
        let folder = scratch("cert-manager")?;
        let cert_manager = CertManager::start(&test.cluster.kube, test.cluster.kubeconfig(), &folder).await?;
        cert_manager.issuer(test.ns).await?;
        let tls = "{issuer: CertManager, issuerRef: {name: company}, certificateLifetime: 2m}";
        let flowing = test.flowing(tls).await;
        let (_broker, flows) = flowing.with_context(|| cert_manager.log())?;
        let lives = test.lives().await?;
        let serial = test.certificates().await?.serial.context("a serial")?;
        test.renewed(&serial).await.with_context(|| cert_manager.log())?;
        flows.nothing_lost().await?;
        assert_eq!(test.lives().await?, lives);
        test.ns.ready::<EventMesh>("m").await.map(drop)
    })
}
