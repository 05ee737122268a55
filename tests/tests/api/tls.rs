//! Certificates in Kubernetes: Secrets, conditions and Events, and a real broker that takes renewals up. There are no pods:
//! a test does the kubelet's part.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use eventmesh_crds::{EventMesh, Topic, mesh::EventMeshStatus, tls::CertificatesStatus};
use eventmesh_tests::{
    apiserver::ADMIN,
    objects::Namespace,
    paths::scratch,
    process::{
        CertManager,
        certificates::{Authority, Identity},
    },
    stack::Stack,
    tls::{Begin, serial_of, served},
    wait::eventually,
};
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use crate::{alone, object, shared};

fn keys(secret: &Secret) -> Vec<&str> {
    secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn condition(status: &EventMeshStatus, kind: &str) -> Option<Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// Waits for what the status says of certificates.
async fn certificates(
    ns: &Namespace,
    what: &str,
    wanted: impl Fn(&CertificatesStatus) -> bool,
) -> Result<CertificatesStatus> {
    let found = |mesh: &EventMesh| mesh.status.as_ref()?.certificates.clone().filter(&wanted);
    ns.until::<EventMesh, _>("m", what, found).await
}

#[test]
fn a_mesh_has_tls_and_its_keys_are_in_no_pod() -> Result<()> {
    shared("tls-build", async |test| {
        test.ns.apply(&object("EventMesh", "m", "  brokers: {}\n  tls: {serverNames: [mesh.example]}")).await?;
        let status = certificates(test.ns, "a certificate", |status| status.serial.is_some()).await?;
        assert_eq!((status.issuer.as_str(), status.ca_phase.as_deref()), ("Managed", Some("Stable")));
        assert_eq!(keys(&test.ns.get("m-ca").await?), ["ca.crt", "ca.key", "request", "since"]);
        let loaded = ["ca.crt", "revision.conf", "route-ca.crt", "route.crt", "route.key", "tls.crt", "tls.key"];
        assert_eq!(keys(&test.ns.get("m-broker-tls").await?), loaded);
        let served = serial_of(&test.ns.secret("m-broker-tls", "tls.crt").await?)?;
        assert_eq!(status.serial, Some(served));
        let set = serde_json::to_string(&test.ns.get::<StatefulSet>("m-broker").await?.spec)?;
        assert!(set.contains("\"m-broker-tls\"") && !set.contains("\"m-ca\"") && set.contains("HTTPS"), "{set}");
        let config = test.ns.get::<ConfigMap>("m-broker").await?;
        assert!(!serde_json::to_string(&config.data)?.contains("BEGIN"), "a certificate in a ConfigMap");
        Ok(())
    })
}

#[test]
fn without_tls_the_mesh_says_what_it_gives_up() -> Result<()> {
    shared("tls-off", async |test| {
        test.ns.apply(&object("EventMesh", "m", "  brokers: {}")).await?;
        certificates(test.ns, "a certificate", |status| status.serial.is_some()).await?;
        let hash = async || -> Result<Option<String>> {
            let template = test.ns.get::<StatefulSet>("m-broker").await?.spec.context("a spec")?.template;
            let annotations = template.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default();
            Ok(annotations.get("eventmesh.dev/config-hash").cloned())
        };
        let before = hash().await?;
        test.ns.apply(&object("EventMesh", "m", "  brokers: {}\n  tls: {issuer: Disabled}")).await?;
        let warned = test.ns.condition::<EventMesh>("m", "Accepted", "True", "AcceptedWithWarning").await?;
        assert!(warned.message.contains("in the clear"), "{}", warned.message);
        let status = test.ns.get::<EventMesh>("m").await?.status.context("a status")?;
        assert!(status.endpoints.and_then(|e| e.nats).is_some_and(|url| url.starts_with("nats://")));
        let kept = ["revision.conf", "route-ca.crt", "route.crt", "route.key"];
        assert_eq!(keys(&test.ns.get("m-broker-tls").await?), kept, "brokers among themselves keep TLS");
        assert_ne!(hash().await?, before, "another configuration is rolled out");
        Ok(())
    })
}

#[test]
fn listeners_come_and_go_with_the_spec() -> Result<()> {
    shared("tls-listeners", async |test| {
        let spec =
            "  brokers: {}\n  listeners: {mqtt: {expose: LoadBalancer}, websocket: {}, leaf: {expose: NodePort}}";
        test.ns.apply(&object("EventMesh", "m", spec)).await?;
        let endpoints = |mesh: &EventMesh| mesh.status.clone()?.endpoints.filter(|endpoints| endpoints.leaf.is_some());
        let found = test.ns.until::<EventMesh, _>("m", "endpoints", endpoints).await?;
        let host = |listener: &str| format!("m-{listener}.{}.svc", test.ns.name);
        assert_eq!(found.mqtt, Some(format!("mqtts://{}:8883", host("mqtt"))));
        assert_eq!(found.websocket, Some(format!("wss://{}:8443", host("websocket"))));
        assert_eq!(found.leaf, Some(format!("tls://{}:7422", host("leaf"))));
        for (name, kind, port) in
            [("m-mqtt", "LoadBalancer", 8883), ("m-websocket", "ClusterIP", 8443), ("m-leaf", "NodePort", 7422)]
        {
            let service = test.ns.get::<Service>(name).await?.spec.context("a spec")?;
            assert_eq!((service.type_.as_deref(), service.ports.context("ports")?[0].port), (Some(kind), port));
        }
        // An address that a load balancer gives is one more name.
        let before = test.ns.secret("m-broker-tls", "tls.crt").await?;
        let api = test.ns.api::<Service>();
        let given =
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]}}});
        api.patch_status("m-mqtt", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&given)).await?;
        let renewed = |secret: &Secret| {
            let pem = String::from_utf8(secret.data.as_ref()?.get("tls.crt")?.0.clone()).ok()?;
            (pem != before).then_some(())
        };
        test.ns.until::<Secret, _>("m-broker-tls", "a certificate for the address", renewed).await?;

        test.ns.apply(&object("EventMesh", "m", "  brokers: {}\n  listeners: {websocket: {}}")).await?;
        test.ns.gone::<Service>("m-mqtt").await?;
        test.ns.gone::<Service>("m-leaf").await?;
        test.ns.get::<Service>("m-websocket").await.map(drop)
    })
}

/// A broker that runs, and what the test knows of it.
struct Running<'a> {
    stack: &'a mut Stack,
    ns: &'a Namespace,
}

impl Running<'_> {
    fn address(&self) -> Result<SocketAddr> {
        Ok(self.stack.broker_address().trim_start_matches("nats://").parse()?)
    }

    /// Does the kubelet's part until the broker shows the certificate that the status tells of.
    async fn taken_up(&self) -> Result<String> {
        let address = self.address()?;
        eventually("the certificate of the status", Duration::from_mins(2), async || {
            let told = |error: anyhow::Error| format!("{error:#}");
            self.stack.sync_certificates(self.ns, "m").await.map_err(told)?;
            let mesh = self.ns.get::<EventMesh>("m").await.map_err(told)?;
            let wanted = mesh.status.and_then(|status| status.certificates).and_then(|status| status.serial);
            let trust = self.ns.secret("m-broker-tls", "ca.crt").await.map_err(told)?;
            let shown = served(address, "127.0.0.1", Begin::Nats, &trust).await.map_err(told)?;
            if Some(&shown) == wanted.as_ref() { Ok(Some(shown)) } else { Err(format!("{shown}, not {wanted:?}")) }
        })
        .await
    }

    /// Does the kubelet's part while something else is awaited.
    async fn syncing<T>(&self, other: impl Future<Output = Result<T>>) -> Result<T> {
        let sync = async {
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            loop {
                tick.tick().await;
                if let Err(error) = self.stack.sync_certificates(self.ns, "m").await {
                    return error;
                }
            }
        };
        tokio::select! {
            result = other => result,
            error = sync => Err(error),
        }
    }
}

/// A mesh with a running broker and a Topic.
async fn running(stack: &mut Stack, ns: &Namespace, tls: &str) -> Result<()> {
    ns.apply(&object("EventMesh", "m", &format!("  brokers: {{replicas: 1}}\n  tls: {tls}"))).await?;
    stack.start_broker(ns, "m").await?;
    ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
    ns.ready::<Topic>("t").await.map(drop)
}

#[test]
fn a_renewal_in_time_moves_no_condition_and_ends_no_connection() -> Result<()> {
    alone("tls-renewal", async |stack, ns| {
        running(stack, ns, "{certificateLifetime: 2m}").await?;
        let running = Running { stack, ns };
        let before = running.taken_up().await?;
        let client = running.stack.broker(ns, "m").await?;
        let cid = client.client.server_info().client_id;
        let since = |conditions: &[Condition]| -> Vec<_> {
            conditions.iter().map(|condition| (condition.type_.clone(), condition.last_transition_time.0)).collect()
        };
        let topic = ns.get::<Topic>("t").await?.status.context("a status")?.conditions;
        let mesh = ns.get::<EventMesh>("m").await?.status.context("a status")?.conditions;
        // Two thirds of its life.
        let after = eventually("a renewal", Duration::from_mins(4), async || {
            let now = ns.get::<EventMesh>("m").await.map_err(|error| format!("{error:#}"))?;
            let serial = now.status.and_then(|status| status.certificates).and_then(|status| status.serial);
            Ok(serial.filter(|serial| *serial != before))
        })
        .await?;
        assert_eq!(running.taken_up().await?, after);
        client.client.flush().await?;
        assert_eq!(client.client.server_info().client_id, cid, "the client is still connected");
        assert_eq!(client.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed), 1);
        let now = ns.get::<Topic>("t").await?.status.context("a status")?.conditions;
        assert_eq!(since(&now), since(&topic));
        let now = ns.get::<EventMesh>("m").await?.status.context("a status")?.conditions;
        assert_eq!(since(&now), since(&mesh));
        Ok(())
    })
}

#[test]
fn a_rollover_on_request_goes_through_its_phases_and_keeps_the_operator_connected() -> Result<()> {
    alone("tls-rollover", async |stack, ns| {
        // Long enough to see each phase while it lasts.
        running(stack, ns, "{caOverlap: 20s}").await?;
        let running = Running { stack, ns };
        running.taken_up().await?;
        let old = ns.secret("m-broker-tls", "ca.crt").await?;
        let topic = ns.get::<Topic>("t").await?.status.context("a status")?.conditions;
        ns.patch::<EventMesh>("m", json!({"metadata": {"annotations": {"eventmesh.dev/renew-ca": "now"}}})).await?;
        let phase = |wanted: &'static str| {
            running.syncing(async move {
                certificates(ns, wanted, |status| status.ca_phase.as_deref() == Some(wanted)).await
            })
        };
        phase("Introducing").await?;
        let both = ns.secret("m-broker-tls", "ca.crt").await?;
        assert!(both.starts_with(&old) && both.len() > old.len());
        phase("Retiring").await?;
        let turned = ns.secret("m-broker-tls", "ca.crt").await?;
        assert!(turned.ends_with(&old) && turned.len() == both.len());
        phase("Stable").await?;
        let new = ns.secret("m-broker-tls", "ca.crt").await?;
        assert!(turned.starts_with(&new) && !new.contains(&old));
        running.taken_up().await?;
        assert!(
            served(running.address()?, "127.0.0.1", Begin::Nats, &old).await.is_err(),
            "the old one knows it no more"
        );
        let now = ns.get::<Topic>("t").await?.status.context("a status")?.conditions;
        assert_eq!(now, topic, "nothing of this is news for a Topic");
        // The operator still works with the broker.
        ns.apply(&object("Topic", "later", "  mesh: {name: m}")).await?;
        ns.ready::<Topic>("later").await.map(drop)
    })
}

#[test]
fn a_spoilt_authority_is_written_back_or_told_of_and_never_replaced() -> Result<()> {
    alone("tls-spoilt", async |stack, ns| {
        running(stack, ns, "{caOverlap: 3s}").await?;
        Running { stack, ns }.taken_up().await?;
        let data = |secret: &Secret| secret.data.clone().unwrap_or_default();
        let good = data(&ns.get("m-ca").await?);
        let spoil = json!({"data": {"ca.key": "aGVsbG8="}});
        ns.patch::<Secret>("m-ca", spoil.clone()).await?;
        let back = |secret: &Secret| (data(secret) == good).then_some(());
        ns.until::<Secret, _>("m-ca", "there as it was", back).await?;
        assert!(ns.event("AuthorityRestored").await?.contains("m-ca"));

        // An operator that starts knows nothing of before.
        stack.operator.process.kill()?;
        ns.patch::<Secret>("m-ca", spoil).await?;
        let loaded = data(&ns.get("m-broker-tls").await?);
        stack.restart_operator().await?;
        let told = ns.condition::<EventMesh>("m", "Programmed", "False", "AuthorityUnreadable").await?;
        assert!(told.message.contains("Restore the Secret") && told.message.contains("delete it"), "{}", told.message);
        assert_eq!(data(&ns.get("m-broker-tls").await?), loaded, "brokers keep what they have");
        ns.ready::<Topic>("t").await?;

        // Deleting it is the way to a new one, which is introduced beside the old.
        ns.delete::<Secret>("m-ca").await?;
        let running = Running { stack, ns };
        let lost = running.syncing(ns.event("AuthorityLost")).await?;
        assert!(lost.contains("beside the old one"), "{lost}");
        let stable = async { certificates(ns, "a new authority", |s| s.ca_phase.as_deref() == Some("Stable")).await };
        running.syncing(stable).await?;
        running.taken_up().await?;
        assert_ne!(data(&ns.get("m-ca").await?).get("ca.crt"), good.get("ca.crt"));
        ns.condition::<EventMesh>("m", "Programmed", "True", "Programmed").await.map(drop)
    })
}

fn tls_secret(name: &str, identity: &Identity, authority: &str) -> Secret {
    let texts = [("tls.crt", &identity.certificate), ("tls.key", &identity.key), ("ca.crt", &authority.to_owned())];
    Secret {
        metadata: kube::core::ObjectMeta { name: Some(name.to_owned()), ..kube::core::ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(texts.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into()),
        ..Secret::default()
    }
}

async fn put(ns: &Namespace, secret: &Secret) -> Result<()> {
    let mut secret = serde_json::to_value(secret)?;
    secret["apiVersion"] = json!("v1");
    secret["kind"] = json!("Secret");
    ns.apply(&secret.to_string()).await
}

#[test]
fn a_certificate_of_ones_own_is_served_and_a_bad_one_never_replaces_it() -> Result<()> {
    alone("tls-own", async |stack, ns| {
        let spec = "  brokers: {replicas: 1}\n  tls: {issuer: Secret, secret: {name: mine}}";
        ns.apply(&object("EventMesh", "m", spec)).await?;
        let missing = ns.condition::<EventMesh>("m", "ResolvedRefs", "False", "SecretNotFound").await?;
        assert!(missing.message.contains("mine"), "{}", missing.message);
        assert!(ns.get::<StatefulSet>("m-broker").await.is_err(), "no broker without a certificate");

        let company = Authority::new()?;
        let host = format!("m-nats.{}.svc", ns.name);
        let names = [host.as_str(), "127.0.0.1"];
        let first = company.server(&names)?;
        put(ns, &tls_secret("mine", &first, company.pem())).await?;
        ns.condition::<EventMesh>("m", "ResolvedRefs", "True", "ResolvedRefs").await?;
        stack.start_broker(ns, "m").await?;
        ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
        ns.ready::<Topic>("t").await?;
        let running = Running { stack, ns };
        assert_eq!(running.taken_up().await?, serial_of(&first.certificate)?);

        let stranger = Authority::new()?;
        let bad = [
            (company.server_between(&names, 2001, 2002)?, "has expired"),
            (company.server_between(&names, 2400, 2401)?, "not valid before"),
            (stranger.server(&names)?, "no authority in `ca.crt` has signed"),
            (Identity { key: first.key.clone(), ..company.server(&names)? }, "belongs to another certificate"),
            (Identity { certificate: "hello".to_owned(), ..company.server(&names)? }, "`tls.crt` holds no certificate"),
            (company.server(&["elsewhere.example"])?, "not for m-nats"),
        ];
        for (identity, words) in &bad {
            // The API server itself wants a readable pair in a Secret of the type kubernetes.io/tls.
            let mut secret = tls_secret("mine", identity, company.pem());
            secret.type_ = None;
            ns.delete::<Secret>("mine").await?;
            put(ns, &secret).await?;
            let told = |mesh: &EventMesh| {
                let refs = condition(mesh.status.as_ref()?, "ResolvedRefs")?;
                (refs.reason == "CertificateInvalid" && refs.message.contains(words)).then_some(refs)
            };
            let refs = ns.until::<EventMesh, _>("m", words, told).await?;
            assert!(refs.message.ends_with("brokers keep the certificate they have"), "{}", refs.message);
            assert_eq!(ns.secret("m-broker-tls", "tls.crt").await?, first.certificate);
        }
        ns.ready::<Topic>("t").await?;

        // Another good one, of another authority at that: both are trusted until the broker shows it.
        let second = stranger.server(&names)?;
        ns.delete::<Secret>("mine").await?;
        put(ns, &tls_secret("mine", &second, stranger.pem())).await?;
        ns.condition::<EventMesh>("m", "ResolvedRefs", "True", "ResolvedRefs").await?;
        assert_eq!(running.taken_up().await?, serial_of(&second.certificate)?);
        let alone = |secret: &Secret| {
            let trust = String::from_utf8(secret.data.as_ref()?.get("ca.crt")?.0.clone()).ok()?;
            (trust == stranger.pem()).then_some(())
        };
        ns.until::<Secret, _>("m-broker-tls", "trust in the new authority alone", alone).await?;
        ns.ready::<Topic>("t").await.map(drop)
    })
}

fn certificate_kind() -> ApiResource {
    ApiResource {
        group: "cert-manager.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "cert-manager.io/v1".to_owned(),
        kind: "Certificate".to_owned(),
        plural: "certificates".to_owned(),
    }
}

#[test]
fn cert_manager_is_asked_and_what_it_makes_is_served() -> Result<()> {
    alone("tls-cert-manager", async |stack, ns| {
        let mesh = |names: &str| {
            let issuer = "{issuer: CertManager, issuerRef: {name: company}";
            object("EventMesh", "m", &format!("  brokers: {{replicas: 1}}\n  tls: {issuer}, serverNames: [{names}]}}"))
        };
        ns.apply(&mesh("x.example")).await?;
        let absent = ns.condition::<EventMesh>("m", "ResolvedRefs", "False", "CertificatePending").await?;
        assert!(absent.message.contains("cert-manager is not installed"), "{}", absent.message);

        let folder = scratch("cert-manager")?;
        let cert_manager = CertManager::start(&stack.kube, &stack.api.kubeconfig(ADMIN)?, &folder).await?;
        let kind = certificate_kind();
        let api = kube::Api::<DynamicObject>::namespaced_with(stack.kube.client.clone(), &ns.name, &kind);
        // No watch tells the operator that the kind is known now: it looks again by itself.
        let asked: Value = eventually("a Certificate", Duration::from_mins(3), async || {
            api.get_opt("m-broker").await.map(|c| c.map(|c| c.data)).map_err(|error| error.to_string())
        })
        .await?;
        let host = format!("m-nats.{}.svc", ns.name);
        let hosts = asked["spec"]["dnsNames"].as_array().context("names")?;
        assert!(hosts.contains(&json!(host)) && hosts.contains(&json!("x.example")), "{asked}");
        let waiting = ns.condition::<EventMesh>("m", "ResolvedRefs", "False", "CertificatePending").await?;
        assert!(waiting.message.contains("cert-manager"), "{}", waiting.message);

        cert_manager.issuer(ns).await?;
        let good = ns.condition::<EventMesh>("m", "ResolvedRefs", "True", "ResolvedRefs").await;
        good.with_context(|| cert_manager.log())?;
        stack.start_broker(ns, "m").await?;
        ns.apply(&object("Topic", "t", "  mesh: {name: m}")).await?;
        ns.ready::<Topic>("t").await?;
        let running = Running { stack, ns };
        let made = async || serial_of(&ns.secret("m-cert-manager-tls", "tls.crt").await?);
        // It may issue twice in its first second; the last one counts.
        let shows_what_was_made = async || {
            eventually("what cert-manager has made last", Duration::from_mins(4), async || {
                let shown = running.taken_up().await.map_err(|error| format!("{error:#}"))?;
                let made = made().await.map_err(|error| format!("{error:#}"))?;
                if shown == made { Ok(Some(made)) } else { Err(format!("{shown}, not {made}")) }
            })
            .await
        };
        let first = shows_what_was_made().await?;

        // Another name is another certificate, which the running broker takes up.
        ns.apply(&mesh("y.example")).await?;
        let second = eventually("another certificate", Duration::from_mins(3), async || {
            let serial = made().await.map_err(|error| format!("{error:#}"))?;
            Ok((serial != first).then_some(serial))
        });
        running.syncing(second).await.with_context(|| cert_manager.log())?;
        assert_ne!(shows_what_was_made().await?, first);
        ns.ready::<Topic>("t").await?;

        // Asked no more, and the request is taken back.
        ns.apply(&object("EventMesh", "m", "  brokers: {replicas: 1}")).await?;
        running
            .syncing(eventually("the end of the Certificate", ns.kube.patience, async || {
                let found = api.get_opt("m-broker").await.map_err(|error| error.to_string())?;
                Ok(found.is_none().then_some(()))
            }))
            .await?;
        running.taken_up().await?;
        ns.ready::<Topic>("t").await.map(drop)
    })
}
