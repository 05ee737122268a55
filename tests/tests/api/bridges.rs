//! Bridges: what the operator makes of them. Their pods are played by the test, which sends the reports.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, Topic};
use eventmesh_tests::{broker::Broker, wait::eventually};
use eventmesh_wire::{
    config::{BridgeConfig, DesiredState, EndpointConfig},
    names,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, ServiceAccount},
};
use kube::ResourceExt;
use serde_json::json;

use crate::{Test, assert_fields, object, shared};

const SOON: Duration = Duration::from_secs(10);

const MQTT: &str = "  endpoint: {mqtt: {url: 'mqtt://site.example:1883'}}\n";

fn bridge(name: &str, more: &str) -> String {
    object("Bridge", name, &format!("  mesh: {{name: retail, namespace: platform}}\n{more}"))
}

impl Test<'_> {
    async fn topic_ready(&self, name: &str) -> Result<()> {
        self.ns.apply(&Test::topic(name, "")).await?;
        self.ns.ready::<Topic>(name).await.map(drop)
    }

    /// The configuration file of a Bridge's pods, once it is as `wanted`.
    async fn config(&self, bridge: &str, wanted: impl Fn(&BridgeConfig) -> bool) -> Result<BridgeConfig> {
        self.ns
            .until::<Secret, _>(&format!("{bridge}-bridge"), "a Secret with the configuration wanted", |secret| {
                let text = secret.data.as_ref()?.get("config.json")?;
                serde_json::from_slice(&text.0).ok().filter(&wanted)
            })
            .await
    }

    /// Connects with the identity of a bridge pod.
    async fn as_bridge(&self, config: &BridgeConfig) -> Result<Broker> {
        let user = config.mesh.username.clone().context("a user")?;
        let password = config.mesh.password.as_ref().context("a password")?;
        let password = serde_json::to_value(password)?.as_str().context("a text")?.to_owned();
        Broker::connect(&self.stack.broker_address(), &user, &password).await
    }
}

#[test]
fn a_bridge_becomes_a_deployment_a_configuration_and_consumers() -> Result<()> {
    shared("br-build", async |test| {
        test.topic_ready("br-build-in").await?;
        test.topic_ready("br-build-out").await?;
        test.topic_ready("br-build-dead").await?;
        let spec = "
  endpoint: {mqtt: {url: 'mqtt://site.example:1883', version: V5, clientId: me, keepAlive: 15s, sessionExpiry: 1h}}
  inbound:
  - {name: in, from: 'line/+/t', to: 'br-build-in.{1}', filter: 'event.data.celsius > 80', idHeader: id}
  outbound:
  - {name: out, from: {topic: br-build-out, filter: ['br-build-out.*.set'], startFrom: New}, to: 'line/{1}/set', retain: true}
  delivery: {maxInFlight: 77, retry: {initial: 200ms, max: 3s, attempts: 4}, deadLetter: {topic: br-build-dead}}
  podTemplate: {labels: {team: red}, nodeSelector: {kubernetes.io/os: linux}}
  resources: {limits: {memory: 64Mi}}";
        test.ns.apply(&bridge("b", spec)).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;

        let config = test.config("b", |_| true).await?;
        assert_eq!((config.bridge.namespace.as_str(), config.bridge.name.as_str()), (test.ns.name.as_str(), "b"));
        let EndpointConfig::Mqtt(mqtt) = &config.endpoint;
        assert_eq!((mqtt.client_id.as_str(), mqtt.keep_alive_seconds, mqtt.session_expiry_seconds), ("me", 15, 3600));
        let inbound = &config.inbound[0];
        assert_eq!(inbound.stream, test.stream_name("br-build-in"));
        assert_eq!((inbound.from.as_str(), inbound.to.as_str()), ("line/+/t", "br-build-in.{1}"));
        assert_eq!(
            (inbound.filter.as_deref(), inbound.id_header.as_deref()),
            (Some("event.data.celsius > 80"), Some("id"))
        );
        assert!(inbound.dead_letter_subject.as_deref().is_some_and(|subject| subject.starts_with("br-build-dead")));
        let outbound = &config.outbound[0];
        assert_eq!(outbound.stream, test.stream_name("br-build-out"));
        assert_eq!((outbound.to.as_str(), outbound.retain), ("line/{1}/set", true));
        assert_eq!(config.delivery.max_in_flight, 77);
        let retry = &config.delivery.retry;
        assert_eq!((retry.initial_ms, retry.max_ms, retry.attempts), (200, 3000, 4));

        let consumer = test.broker.consumer(&outbound.stream, &outbound.consumer).await?.context("no consumer")?;
        assert_eq!(outbound.consumer, names::bridge_consumer(&test.ns.name, "b", "out"));
        assert_fields(&consumer["config"], &json!({"ack_policy": "explicit", "deliver_policy": "new"}));

        let deployment = test.ns.get::<Deployment>("b-bridge").await?;
        assert_eq!(deployment.owner_references()[0].kind, "Bridge");
        let template = deployment.spec.context("a spec")?.template;
        let labels = template.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
        assert_eq!(labels.get("team").map(String::as_str), Some("red"));
        let pod = template.spec.context("a pod")?;
        assert_eq!(pod.containers[0].image.as_deref(), Some("localhost/event-mesh/bridge:test"));
        assert_eq!(pod.security_context.and_then(|context| context.run_as_non_root), Some(true));
        test.ns.get::<ServiceAccount>("b-bridge").await?;
        Ok(())
    })
}

#[test]
fn the_pod_template_passes_pod_security_restricted() -> Result<()> {
    shared("br-security", async |test| {
        test.topic_ready("br-security").await?;
        test.ns.apply(&bridge("b", &format!("{MQTT}  inbound: [{{name: a, from: x, to: br-security}}]\n"))).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        let pod = test.ns.get::<Deployment>("b-bridge").await?.spec.and_then(|spec| spec.template.spec);
        // The namespace enforces `restricted`: the API server says whether a pod may exist there.
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": pod});
        test.ns.apply(&serde_saphyr::to_string(&pod)?).await
    })
}

#[test]
fn bad_routes_are_refused_with_the_reason() -> Result<()> {
    shared("br-bad", async |test| {
        test.topic_ready("br-bad").await?;
        let inbound = |more: &str| format!("{MQTT}  inbound: [{{name: a, {more}}}]\n");
        let outbound = |more: &str| format!("{MQTT}  outbound: [{{name: a, {more}}}]\n");
        for (name, spec, kind, reason) in [
            ("mapping", inbound("from: 'line/+', to: 'br-bad.{2}'"), "Accepted", "InvalidMapping"),
            ("subject", inbound("from: line, to: 'br-bad..x'"), "Accepted", "InvalidMapping"),
            ("cel", inbound("from: line, to: br-bad, filter: 'event.data.('"), "Accepted", "InvalidFilter"),
            ("number", inbound("from: line, to: br-bad, filter: '1 + 1'"), "Accepted", "InvalidFilter"),
            ("nowhere", inbound("from: line, to: nobody.stores.this"), "ResolvedRefs", "NoTopicForRoute"),
            ("topic", outbound("from: {topic: missing}, to: x"), "ResolvedRefs", "TopicNotFound"),
            ("outside", outbound("from: {topic: br-bad, filter: [other.x]}, to: x"), "Accepted", "FilterOutsideTopic"),
            (
                "count",
                outbound("from: {topic: br-bad, filter: ['br-bad.*']}, to: 'x/{2}'"),
                "Accepted",
                "InvalidMapping",
            ),
        ] {
            test.ns.apply(&bridge(name, &spec)).await?;
            let condition = test.ns.condition::<Bridge>(name, kind, "False", reason).await?;
            assert!(!condition.message.is_empty(), "{name}");
            assert!(test.ns.api::<Deployment>().get_opt(&format!("{name}-bridge")).await?.is_none(), "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_circle_is_refused_where_events_cannot_be_marked() -> Result<()> {
    shared("br-loop", async |test| {
        test.topic_ready("br-loop").await?;
        let spec = |version: &str| {
            format!(
                "  endpoint: {{mqtt: {{url: 'mqtt://site.example:1883', version: {version}}}}}
  inbound: [{{name: in, from: 'line/#', to: 'br-loop.{{1}}'}}]
  outbound: [{{name: out, from: {{topic: br-loop, filter: ['br-loop.>']}}, to: 'line/{{1}}'}}]"
            )
        };
        test.ns.apply(&bridge("b", &spec("V311"))).await?;
        test.ns.condition::<Bridge>("b", "Accepted", "False", "LoopRefused").await?;
        test.ns.apply(&bridge("b", &spec("V5"))).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await.map(drop)
    })
}

#[test]
fn a_secret_that_is_missing_and_then_appears() -> Result<()> {
    shared("br-secret", async |test| {
        test.topic_ready("br-secret").await?;
        let endpoint = "  endpoint: {mqtt: {url: 'mqtt://site.example:1884', credentials: {secret: {name: login}}}}\n";
        test.ns.apply(&bridge("b", &format!("{endpoint}  inbound: [{{name: a, from: x, to: br-secret}}]\n"))).await?;
        let missing = test.ns.condition::<Bridge>("b", "ResolvedRefs", "False", "SecretNotFound").await?;
        assert!(missing.message.contains("login"), "{}", missing.message);

        let secret =
            |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: login}}\nstringData: {data}\n");
        test.ns.apply(&secret("{username: u}")).await?;
        let lacks = test.ns.condition::<Bridge>("b", "ResolvedRefs", "False", "SecretKeyMissing").await?;
        assert!(lacks.message.contains("password"), "{}", lacks.message);

        test.ns.apply(&secret("{username: u, password: one}")).await?;
        test.ns.condition::<Bridge>("b", "ResolvedRefs", "True", "ResolvedRefs").await?;
        let password = |wanted: &'static str| {
            move |config: &BridgeConfig| {
                let EndpointConfig::Mqtt(mqtt) = &config.endpoint;
                serde_json::to_value(&mqtt.password).is_ok_and(|password| password == wanted)
            }
        };
        test.config("b", password("one")).await?;
        test.ns.apply(&secret("{username: u, password: two}")).await?;
        test.config("b", password("two")).await.map(drop)
    })
}

/// The pod whose part the test plays; no kubelet takes it up.
const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: b-bridge-1
  labels:
    app.kubernetes.io/instance: b
    app.kubernetes.io/component: bridge
    app.kubernetes.io/managed-by: eventmesh-operator
spec:
  serviceAccountName: b-bridge
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: bridge
    image: none
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
";

#[test]
fn reports_become_status() -> Result<()> {
    shared("br-report", async |test| {
        test.topic_ready("br-report").await?;
        test.ns.apply(&bridge("b", &format!("{MQTT}  inbound: [{{name: a, from: x, to: br-report}}]\n"))).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        let config = test.config("b", |_| true).await?;
        let secret = test.ns.get::<Secret>("b-bridge").await?;
        let file = secret.data.context("data")?.remove("config.json").context("config.json")?.0;
        let as_bridge = test.as_bridge(&config).await?;
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?.to_string();
        let report = |endpoint: bool, state: &str, error: &str| {
            let error = (!error.is_empty()).then(|| json!({"message": error, "at": now}));
            let mut report = json!({
                "version": 1, "pod": "b-bridge-1",
                "bridge": {"namespace": test.ns.name, "name": "b", "uid": config.bridge.uid},
                "configHash": eventmesh_wire::config_hash(&file), "at": now,
                "connected": {"mesh": true, "endpoint": endpoint},
                "routes": [{
                    "name": "a", "direction": "Inbound", "state": state, "since": now, "retries": 1, "restarts": 0,
                    "counters": {"received": 9, "delivered": 5, "filtered": 1, "deadLettered": 1, "dropped": 0, "inFlight": 2},
                }],
            });
            if let Some(error) = error {
                report["connected"]["endpointError"] = error.clone();
                report["routes"][0]["lastError"] = error;
            }
            report.to_string()
        };
        // Only pods that exist are heard.
        test.ns.apply(POD).await?;
        let subject = names::report_subject(&test.ns.name, "b", "b-bridge-1");
        as_bridge.client.publish(subject.clone(), report(true, "Running", "").into()).await?;
        let status = test
            .ns
            .until::<Bridge, _>("b", "a Bridge with numbers", |bridge| {
                let status = bridge.status.clone()?;
                status.totals.as_ref().is_some_and(|totals| totals.delivered == 5).then_some(status)
            })
            .await?;
        let totals = status.totals.context("totals")?;
        assert_eq!((totals.received, totals.filtered, totals.dead_lettered, totals.in_flight), (9, 1, 1, 2));
        let route = &status.routes.context("routes")?[0];
        assert_eq!((route.name.as_str(), route.state.as_str(), route.retries), ("a", "Running", 1));
        test.ns.condition::<Bridge>("b", "Connected", "True", "Connected").await?;

        as_bridge.client.publish(subject, report(false, "Connecting", "no such host").into()).await?;
        let bad = test.ns.condition::<Bridge>("b", "Connected", "False", "EndpointUnreachable").await?;
        assert!(bad.message.contains("no such host"), "{}", bad.message);
        Ok(())
    })
}

#[test]
fn a_bridge_may_publish_and_read_and_not_administer() -> Result<()> {
    shared("br-rights", async |test| {
        test.topic_ready("br-rights").await?;
        test.ns.apply(&bridge("b", &format!("{MQTT}  inbound: [{{name: a, from: x, to: br-rights.in}}]\n"))).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        let config = test.config("b", |_| true).await?;
        let pod = test.as_bridge(&config).await?;
        pod.publish("br-rights.in", "allowed").await?;
        let stream = test.stream_name("br-rights");
        // What is not allowed is answered by nobody.
        let answer = tokio::time::timeout(Duration::from_secs(1), pod.delete_stream(&stream)).await;
        assert!(!matches!(answer, Ok(Ok(()))), "a bridge could delete a stream");
        assert_eq!(test.stream("br-rights").await?["state"]["messages"], 1);
        Ok(())
    })
}

#[test]
fn routes_come_and_go_with_their_consumers() -> Result<()> {
    shared("br-routes", async |test| {
        test.topic_ready("br-routes").await?;
        let routes = |names: &[&str]| {
            let routes: Vec<String> = names
                .iter()
                .map(|name| format!("{{name: {name}, from: {{topic: br-routes}}, to: x/{name}}}"))
                .collect();
            bridge("b", &format!("{MQTT}  outbound: [{}]\n", routes.join(", ")))
        };
        let consumers = async |wanted: &[&str]| {
            let wanted: BTreeSet<String> =
                wanted.iter().map(|route| names::bridge_consumer(&test.ns.name, "b", route)).collect();
            let list = format!("CONSUMER.NAMES.{}", test.stream_name("br-routes"));
            eventually("set of consumers", SOON, async || {
                let answer = test.broker.api(&list, &json!({})).await.map_err(|error| error.to_string())?;
                let answer = answer.ok_or("no stream")?;
                let found = answer["consumers"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
                let found: BTreeSet<String> = found.map(str::to_owned).collect();
                if found == wanted { Ok(Some(())) } else { Err(format!("{found:?}")) }
            })
            .await
        };
        test.ns.apply(&routes(&["a", "b"])).await?;
        consumers(&["a", "b"]).await?;
        test.ns.apply(&routes(&["b", "c"])).await?;
        consumers(&["b", "c"]).await?;
        test.ns.delete_and_wait::<Bridge>("b").await?;
        consumers(&[]).await
    })
}

#[test]
fn a_paused_bridge_tells_its_pods() -> Result<()> {
    shared("br-paused", async |test| {
        test.topic_ready("br-paused").await?;
        let spec = |state: &str| format!("{MQTT}  inbound: [{{name: a, from: x, to: br-paused}}]\n  state: {state}\n");
        test.ns.apply(&bridge("b", &spec("Paused"))).await?;
        test.config("b", |config| config.state == DesiredState::Paused).await?;
        // That it is paused is for its pods to say, and here are none; the end-to-end test sees them say it.
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        test.ns.condition::<Bridge>("b", "Connected", "False", "NoReport").await?;
        test.ns.apply(&bridge("b", &spec("Running"))).await?;
        test.config("b", |config| config.state == DesiredState::Running).await.map(drop)
    })
}

#[test]
fn a_bad_change_leaves_the_running_configuration() -> Result<()> {
    shared("br-good", async |test| {
        test.topic_ready("br-good").await?;
        test.ns.apply(&bridge("b", &format!("{MQTT}  inbound: [{{name: a, from: x, to: br-good.x}}]\n"))).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        test.ns.apply(&bridge("b", &format!("{MQTT}  inbound: [{{name: a, from: x, to: 'br-good.{{1}}'}}]\n"))).await?;
        test.ns.condition::<Bridge>("b", "Ready", "False", "InvalidMapping").await?;
        let config = test.config("b", |_| true).await?;
        assert_eq!(config.inbound[0].to, "br-good.x");
        Ok(())
    })
}
