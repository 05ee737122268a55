//! Bridges: what the operator makes of them. Their pods are played by the test, which sends the reports.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use eventmesh_crds::{Bridge, Topic};
use eventmesh_tests::{broker::Broker, identity::Login, wait::eventually};
use eventmesh_wire::{
    config::{BridgeConfig, DesiredState, EndpointConfig},
    names,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Secret, Service, ServiceAccount},
};
use kube::ResourceExt;
use serde_json::json;

use crate::{Test, assert_fields, object, shared};

const SOON: Duration = Duration::from_mins(1);

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
        let credentials = config.mesh.credentials.as_ref().context("credentials")?;
        let (jwt, seed) = (credentials.jwt.expose().to_owned(), credentials.seed.expose().to_owned());
        let login = Login { jwt, seed, ca: config.mesh.ca_pem.clone() };
        Broker::connect(&self.stack.broker_address(), &login).await
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
        let EndpointConfig::Mqtt(mqtt) = &config.endpoint else { anyhow::bail!("{:?}", config.endpoint) };
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
fn kafka_and_amqp_become_what_their_pods_read() -> Result<()> {
    shared("br-kinds", async |test| {
        test.topic_ready("br-kinds").await?;
        let login = "apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {username: u, password: p}\n";
        test.ns.apply(login).await?;
        let kafka = "
  endpoint:
    kafka:
      bootstrapServers: ['kafka.example:9093']
      credentials: {secret: {name: login}, mechanism: SCRAM-SHA-512}
      tls: {}
  inbound: [{name: orders, from: 'shop.*.orders', to: 'br-kinds.{1}'}]
  outbound: [{name: out, from: {topic: br-kinds, filter: ['br-kinds.*']}, to: invoices, key: '{1}'}]";
        test.ns.apply(&bridge("kafka", kafka)).await?;
        test.ns.condition::<Bridge>("kafka", "Programmed", "True", "Programmed").await?;
        let config = test.config("kafka", |_| true).await?;
        let file = serde_json::to_value(&config)?;
        assert_fields(
            &file["endpoint"]["kafka"],
            &json!({
                "bootstrapServers": ["kafka.example:9093"],
                "sasl": {"mechanism": "SCRAM-SHA-512", "username": "u", "password": "p"},
                "tls": {},
            }),
        );
        assert_eq!(file["delivery"]["ordering"], "PerSource");
        assert_eq!(config.outbound[0].key.as_deref(), Some("{1}"));
        assert!(config.lease.is_some(), "one pod at a time keeps order");

        for version in ["V091", "V1"] {
            let name = format!("amqp-{}", version.to_lowercase());
            let spec = format!(
                "
  endpoint:
    amqp: {{url: 'amqps://amqp.example:5671', version: {version}, credentials: {{secret: {{name: login}}}}}}
  inbound: [{{name: in, from: orders, to: br-kinds}}]
  outbound: [{{name: out, from: {{topic: br-kinds}}, to: target}}]"
            );
            test.ns.apply(&bridge(&name, &spec)).await?;
            test.ns.condition::<Bridge>(&name, "Programmed", "True", "Programmed").await?;
            let config = test.config(&name, |_| true).await?;
            assert_fields(
                &serde_json::to_value(&config)?["endpoint"]["amqp"],
                &json!({
                    "url": "amqps://amqp.example:5671", "version": version, "username": "u", "password": "p",
                }),
            );
            assert_eq!((config.lease, config.inbound[0].from.as_str()), (None, "orders"), "pods may compete");
        }
        Ok(())
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
                let EndpointConfig::Mqtt(mqtt) = &config.endpoint else { return false };
                serde_json::to_value(&mqtt.password).is_ok_and(|password| password == wanted)
            }
        };
        test.config("b", password("one")).await?;
        test.ns.apply(&secret("{username: u, password: two}")).await?;
        test.config("b", password("two")).await.map(drop)
    })
}

#[test]
fn a_listener_has_a_service_for_as_long_as_it_listens() -> Result<()> {
    shared("br-http", async |test| {
        test.topic_ready("br-http").await?;
        let secret =
            |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: senders}}\nstringData: {data}\n");
        test.ns.apply(&secret("{token: one}")).await?;
        let listen =
            "  endpoint: {http: {listen: {expose: NodePort, authentication: {bearer: {secret: {name: senders}}}}}}\n";
        let inbound = "  inbound: [{name: in, from: '/hooks/*', to: 'br-http.{1}'}]\n  replicas: 2\n";
        test.ns.apply(&bridge("b", &format!("{listen}{inbound}"))).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;

        let service = serde_json::to_value(test.ns.get::<Service>("b-bridge").await?.spec)?;
        assert_fields(&service, &json!({"type": "NodePort"}));
        let port = service.pointer("/ports/0").context("no port")?;
        assert_fields(port, &json!({"name": "events", "port": 80, "targetPort": "events", "appProtocol": "http"}));
        let deployment = serde_json::to_value(test.ns.get::<Deployment>("b-bridge").await?.spec)?;
        assert_eq!(deployment.pointer("/strategy/type"), Some(&json!("RollingUpdate")), "it is never away");
        let ports = deployment.pointer("/template/spec/containers/0/ports/1").context("no second port")?;
        assert_fields(ports, &json!({"name": "events", "containerPort": 8081}));
        let address = format!("http://b-bridge.{}.svc", test.ns.name);
        let shown = |bridge: &Bridge| bridge.status.as_ref().and_then(|status| status.endpoint.clone());
        test.ns
            .until::<Bridge, _>("b", "an address", |bridge| (shown(bridge) == Some(address.clone())).then_some(()))
            .await?;

        // A second token is good besides, and the file tells the pods.
        test.ns.apply(&secret("{token: one, token-next: two}")).await?;
        let both = |config: &BridgeConfig| {
            let tokens = serde_json::to_value(&config.endpoint).unwrap_or_default();
            tokens.pointer("/http/listen/authentication/bearer/tokens") == Some(&json!(["one", "two"]))
        };
        test.config("b", both).await?;

        let target = "  endpoint: {http: {target: {url: 'https://partner.example/events'}}}\n";
        let outbound = "  outbound: [{name: out, from: {topic: br-http}, to: /take}]\n";
        test.ns.apply(&bridge("b", &format!("{target}{outbound}"))).await?;
        test.ns.gone::<Service>("b-bridge").await?;
        let url = Some("https://partner.example/events".to_owned());
        test.ns.until::<Bridge, _>("b", "the target's address", |bridge| (shown(bridge) == url).then_some(())).await
    })
}

#[test]
fn a_bridge_of_one_active_pod_has_a_lease_of_its_own() -> Result<()> {
    shared("br-lease", async |test| {
        const SHORT: Duration = Duration::from_secs(2);
        test.topic_ready("br-lease").await?;
        let spec = |replicas: u8, ordering: &str| {
            bridge(
                "b",
                &format!(
                    "{MQTT}  outbound: [{{name: out, from: {{topic: br-lease}}, to: x}}]\n  delivery: {{ordering: {ordering}}}\n  replicas: {replicas}\n"
                ),
            )
        };
        test.ns.apply(&spec(2, "PerSource")).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        let ttl = |config: &BridgeConfig| config.lease.map(|lease| lease.ttl_ms);
        let config = test.config("b", |config| ttl(config) == Some(2_000)).await?;
        let stream = test.broker.stream(names::LEASE_STREAM).await?.context("no stream of leases")?;
        let wanted = json!({"subjects": [names::LEASE_SUBJECTS], "max_msgs_per_subject": 1, "allow_direct": true,
            "storage": "file"});
        assert_fields(&stream["config"], &wanted);

        let as_bridge = test.as_bridge(&config).await?;
        let answered = async |subject: String, limit: Duration| {
            let request = async_nats::Request::new().payload("{}".into()).timeout(Some(limit));
            as_bridge.client.send_request(subject, request).await.is_ok()
        };
        // The brokers may still be learning what the account may do.
        eventually("its own lease", SOON, async || {
            Ok(answered(names::lease_subject(&test.ns.name, "b"), SHORT).await.then_some(()))
        })
        .await?;
        assert!(answered(names::lease_read_subject(&test.ns.name, "b"), SOON).await);
        for (namespace, name) in [(test.ns.name.as_str(), "other"), ("platform", "b")] {
            assert!(!answered(names::lease_subject(namespace, name), SHORT).await, "the lease of {namespace}/{name}");
            assert!(
                !answered(names::lease_read_subject(namespace, name), SHORT).await,
                "the lease of {namespace}/{name}"
            );
        }

        test.broker.delete_stream(names::LEASE_STREAM).await?;
        eventually("the stream of leases again", SOON, async || {
            test.broker.stream(names::LEASE_STREAM).await.map_err(|error| error.to_string())
        })
        .await?;
        // Nobody waits for a single pod but its successor, so it renews seldom; and what can be shared needs no lease.
        test.ns.apply(&spec(1, "PerSource")).await?;
        test.config("b", |config| ttl(config) == Some(10_000)).await?;
        test.ns.apply(&spec(3, "None")).await?;
        test.config("b", |config| config.lease.is_none()).await?;
        Ok(())
    })
}

#[test]
fn a_nats_endpoint_becomes_a_configuration() -> Result<()> {
    shared("br-nats", async |test| {
        test.topic_ready("br-nats").await?;
        let spec = "  endpoint:
    nats: {urls: ['nats://a.example:4222', 'nats://b.example'], credentials: {secret: {name: partner}}, jetstream: {stream: ORDERS}}
  inbound: [{name: in, from: 'orders.*', to: 'br-nats.{1}'}]
  replicas: 2
";
        test.ns.apply(&bridge("b", spec)).await?;
        test.ns.condition::<Bridge>("b", "ResolvedRefs", "False", "SecretNotFound").await?;
        let secret =
            |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: partner}}\nstringData: {data}\n");
        test.ns.apply(&secret("{other: x}")).await?;
        test.ns.condition::<Bridge>("b", "ResolvedRefs", "False", "SecretKeyMissing").await?;
        test.ns.apply(&secret("{token: open-sesame}")).await?;
        test.ns.condition::<Bridge>("b", "Programmed", "True", "Programmed").await?;
        let config = test.config("b", |_| true).await?;
        let endpoint = serde_json::to_value(&config.endpoint)?;
        let expected = json!({"nats": {"urls": ["nats://a.example:4222", "nats://b.example"],
            "credentials": {"token": "open-sesame"}, "jetstream": {"stream": "ORDERS"}}});
        assert_eq!(endpoint, expected);
        assert_eq!(config.lease, None, "its pods share a consumer");
        let shown = "nats://a.example:4222,nats://b.example";
        test.ns
            .until::<Bridge, _>("b", "an address", |bridge| {
                (bridge.status.as_ref()?.endpoint.as_deref() == Some(shown)).then_some(())
            })
            .await
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

        // Whoever may publish on another subject does not speak for this pod.
        let other = names::report_subject(&test.ns.name, "other", "b-bridge-1");
        test.broker.client.publish(other, report(false, "Connecting", "forged").into()).await?;
        eventually("refusal in the operator's log", SOON, async || {
            let log = std::fs::read_to_string(test.stack.operator.process.log()).map_err(|error| error.to_string())?;
            Ok(log.contains("a report in the name of another pod").then_some(()))
        })
        .await?;
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
