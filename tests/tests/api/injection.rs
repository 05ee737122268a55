//! The webhook, called by a real API server: who gets a sidecar, what the others are told, and what becomes of pods when the
//! webhook or its certificate does not hold.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use eventmesh_tests::{
    objects::Namespace,
    pod_security::{self, Token},
    stack::Stack,
    wait::eventually,
};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Container, Pod, Secret},
        events::v1::Event,
    },
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::{alone, object, shared};

const SIDECAR: &str = "eventmesh-sidecar";
const CERTIFICATE: &str = "eventmesh-operator-webhook";

/// A pod that asks for a mesh, with more of its metadata and spec.
fn pod(name: &str, mesh: &str, metadata: &Value, spec: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "labels": {"eventmesh.dev/inject": "true"}, "annotations": {"eventmesh.dev/mesh": mesh},
        },
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "app", "image": "app", "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            }}],
        },
    });
    merge(&mut pod["metadata"], metadata);
    merge(&mut pod["spec"], spec);
    serde_json::from_value(pod).expect("a pod")
}

/// RFC 7396, except that entries of lists are merged by their place.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) if into.len() == from.len() => {
            into.iter_mut().zip(from).for_each(|(into, from)| merge(into, from));
        }
        (into, from) => *into = from.clone(),
    }
}

async fn create(namespace: &Namespace, pod: &Pod) -> Result<Pod> {
    Ok(namespace.api::<Pod>().create(&PostParams::default(), pod).await?)
}

/// A pod `name` that asks for the shared mesh.
async fn create_plain(namespace: &Namespace, name: &str) -> Result<Pod> {
    create(namespace, &pod(name, "platform/retail", &json!({}), &json!({}))).await
}

fn sidecars(pod: &Pod) -> Vec<&Container> {
    let spec = pod.spec.as_ref();
    spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|found| found.name == SIDECAR).collect()
}

fn told(pod: &Pod) -> &str {
    pod.annotations().get("eventmesh.dev/injection").map(String::as_str).unwrap_or_default()
}

#[test]
fn a_pod_that_asks_gets_a_closed_sidecar_before_its_other_init_containers() -> Result<()> {
    shared("injected", async |test| {
        let closed = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        });
        let spec = json!({
            "initContainers": [{"name": "migrate", "image": "app", "securityContext": closed}],
            "containers": [{"readinessProbe": {"httpGet": {"port": "web", "path": "/up"}}, "ports": [{"name": "web", "containerPort": 8080}]}],
        });
        // The namespace enforces Pod Security `restricted`, so it would not take an open container.
        let pod = create(test.ns, &pod("a", "platform/retail", &json!({}), &spec)).await?;
        let names: Vec<&str> = pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, [SIDECAR, "migrate"]);
        assert_eq!(told(&pod), "injected");
        let found = sidecars(&pod);
        let sidecar = found.first().context("no sidecar")?;
        assert_eq!(sidecar.restart_policy.as_deref(), Some("Always"));
        assert_eq!(sidecar.image.as_deref(), Some("localhost/event-mesh/bridge:test"));
        let args = sidecar.args.clone().unwrap_or_default();
        assert_eq!(args, ["run", "--binding", "/etc/eventmesh", "--app-ready", "http://127.0.0.1:8080/up"]);
        let spec = pod.spec.clone().context("a spec")?;
        let problems = pod_security::problems(&spec, Token::Mounted);
        assert!(problems.is_empty(), "{problems:?}");
        let volume =
            spec.volumes.iter().flatten().find(|volume| volume.name == "eventmesh-binding").context("a volume")?;
        let secret = volume.secret.clone().context("a Secret")?;
        assert_eq!((secret.secret_name.as_deref(), secret.optional), (Some("platform.retail.default"), Some(true)));
        Ok(())
    })
}

#[test]
fn the_application_has_the_token_of_its_service_account_and_the_sidecar_has_not() -> Result<()> {
    shared("injected-token", async |test| {
        let pod = create_plain(test.ns, "a").await?;
        let spec = pod.spec.clone().context("a spec")?;
        let token = |container: &Container| {
            let mounts = container.volume_mounts.iter().flatten();
            mounts.filter(|mount| mount.name.starts_with("kube-api-access")).count()
        };
        assert_eq!(token(&spec.containers[0]), 1, "the API server gives tokens to containers without");
        assert_eq!(token(sidecars(&pod)[0]), 0, "{:?}", sidecars(&pod)[0].volume_mounts);
        Ok(())
    })
}

#[test]
fn a_namespace_asks_for_its_pods_and_a_pod_may_decline() -> Result<()> {
    shared("injected-namespace", async |test| {
        let metadata = json!({"metadata": {
            "labels": {"eventmesh.dev/inject": "true"}, "annotations": {"eventmesh.dev/mesh": "platform/retail"},
        }});
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(test.ns.kube.client.clone());
        namespaces.patch(&test.ns.name, &PatchParams::default(), &Patch::Merge(&metadata)).await?;
        let unlabelled = json!({"labels": null, "annotations": null});
        // The API server hears of the namespace's new label by a watch of its own.
        let mut count = 0;
        eventually("an injected pod", test.ns.kube.patience, async || {
            count += 1;
            let pod = pod(&format!("by-namespace-{count}"), "", &unlabelled, &json!({}));
            let pod = create(test.ns, &pod).await.map_err(|error| error.to_string())?;
            Ok((sidecars(&pod).len() == 1).then_some(()))
        })
        .await?;
        let declines = json!({"labels": {"eventmesh.dev/inject": "false"}, "annotations": null});
        let pod = create(test.ns, &pod("declines", "", &declines, &json!({}))).await?;
        assert!(sidecars(&pod).is_empty() && told(&pod).is_empty(), "{pod:?}");
        Ok(())
    })
}

#[test]
fn an_injected_pod_that_is_copied_has_one_sidecar() -> Result<()> {
    shared("injected-copy", async |test| {
        let first = create_plain(test.ns, "first").await?;
        let mut copy = Pod { spec: first.spec.clone(), ..Pod::default() };
        copy.metadata.name = Some("copy".to_owned());
        copy.metadata.labels.clone_from(&first.metadata.labels);
        copy.metadata.annotations.clone_from(&first.metadata.annotations);
        let copy = create(test.ns, &copy).await?;
        assert_eq!(sidecars(&copy).len(), 1);
        assert_eq!(copy.spec.context("a spec")?.volumes, first.spec.context("a spec")?.volumes);
        Ok(())
    })
}

#[test]
fn what_cannot_be_injected_starts_and_says_why() -> Result<()> {
    shared("refused", async |test| {
        test.ns.apply(&object("EventMesh", "own", "  brokers: {replicas: 1}")).await?;
        let elsewhere = test.stack.kube.make_namespace("refused-elsewhere").await?;
        let own = format!("{}/own", test.ns.name);
        let none = || json!({});
        let cases = [
            ("missing", &test.ns, "platform/nowhere", none(), "EventMesh platform/nowhere does not exist"),
            ("several", &test.ns, "platform/retail,own", none(), "names more than one mesh"),
            ("rubbish", &test.ns, "Platform!", none(), "must be <namespace>/<name>"),
            ("outsider", &&elsewhere, own.as_str(), none(), "does not let namespace"),
            (
                "clash",
                &test.ns,
                "own",
                json!({"containers": [{"ports": [{"containerPort": 4222}]}]}),
                "container app uses port 4222",
            ),
        ];
        for (name, namespace, mesh, spec, expected) in cases {
            let owner = json!({"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": format!("uid-{name}"), "controller": true},
            ]});
            let pod = create(namespace, &pod(name, mesh, &owner, &spec)).await?;
            assert!(sidecars(&pod).is_empty(), "{name}");
            assert!(told(&pod).starts_with("refused: ") && told(&pod).contains(expected), "{name}: {}", told(&pod));
            let event = refusal(namespace, name).await?;
            assert!(event.contains(expected) && event.contains(name), "{name}: {event}");
        }
        Ok(())
    })
}

/// Waits for the Event about a ReplicaSet, and gives its text.
async fn refusal(namespace: &Namespace, replica_set: &str) -> Result<String> {
    eventually(&format!("Event about {replica_set}"), namespace.kube.patience, async || {
        let found = refusals(namespace).await.map_err(|error| error.to_string())?;
        Ok(found.get(&format!("ReplicaSet/{replica_set}")).cloned())
    })
    .await
}

async fn refusals(namespace: &Namespace) -> Result<BTreeMap<String, String>> {
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let refusals = events.items.into_iter().filter(|event| event.reason.as_deref() == Some("InjectionRefused"));
    Ok(refusals
        .map(|event| {
            let regarding = event.regarding.unwrap_or_default();
            let who = format!("{}/{}", regarding.kind.unwrap_or_default(), regarding.name.unwrap_or_default());
            (who, event.note.unwrap_or_default())
        })
        .collect())
}

#[test]
fn a_dry_run_leaves_no_trace() -> Result<()> {
    shared("injected-dry-run", async |test| {
        let dry = PostParams { dry_run: true, field_manager: None };
        let refused = |name: &str| {
            let owner = json!({"ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": true},
            ]});
            pod(name, "nowhere", &owner, &json!({}))
        };
        let shown = test.ns.api::<Pod>().create(&dry, &refused("dry")).await?;
        assert!(told(&shown).contains("does not exist"), "{}", told(&shown));
        // Events are told in order, so that of the dry run would be there before this one.
        create(test.ns, &refused("wet")).await?;
        refusal(test.ns, "wet").await?;
        let told: Vec<String> = refusals(test.ns).await?.into_keys().collect();
        assert_eq!(told, ["ReplicaSet/wet"]);
        Ok(())
    })
}

#[test]
fn a_pod_right_after_its_namespace_and_its_mesh_is_injected() -> Result<()> {
    shared("injected-at-once", async |test| {
        for round in 0..10 {
            let namespace = test.stack.kube.make_namespace(&format!("at-once-{round}")).await?;
            namespace.apply(&object("EventMesh", "own", "  brokers: {replicas: 1}")).await?;
            let pod = create(&namespace, &pod("a", "own", &json!({}), &json!({}))).await?;
            assert_eq!(told(&pod), "injected", "round {round}");
        }
        Ok(())
    })
}

#[test]
fn pods_are_created_while_nobody_answers_and_injected_again_after_it() -> Result<()> {
    alone("injection-down", async |stack, ns| {
        ns.apply(&object("EventMesh", "own", "  brokers: {replicas: 1}")).await?;
        until_injected(ns, "before").await?;
        stack.operator.process.kill()?;
        let pod = create(ns, &pod("down", "own", &json!({}), &json!({}))).await?;
        assert!(sidecars(&pod).is_empty() && told(&pod).is_empty(), "{pod:?}");
        stack.start_operator().await?;
        until_injected(ns, "after").await
    })
}

#[test]
fn a_replica_that_does_not_lead_answers() -> Result<()> {
    alone("injection-follower", async |stack, ns| {
        ns.apply(&object("EventMesh", "own", "  brokers: {replicas: 1}")).await?;
        until_injected(ns, "leader").await?;
        stack.operator.process.kill()?;
        stack.start_follower().await?;
        let metrics = stack.operator.admin("/metrics").await?;
        ensure!(metrics.contains("eventmesh_operator_leader 0"), "it leads: {metrics}");
        until_injected(ns, "follower").await
    })
}

/// Creates pods until one has a sidecar: API servers hear of a new `caBundle` by a watch of theirs.
async fn until_injected(ns: &Namespace, name: &str) -> Result<()> {
    let mut count = 0;
    eventually(&format!("an injected pod ({name})"), ns.kube.patience, async || {
        count += 1;
        let pod = pod(&format!("{name}-{count}"), "own", &json!({}), &json!({}));
        let pod = create(ns, &pod).await.map_err(|error| error.to_string())?;
        Ok((sidecars(&pod).len() == 1).then_some(()))
    })
    .await
}

/// The Secret with the certificate of the webhook.
fn certificates(stack: &Stack) -> Api<Secret> {
    stack.kube.namespace("eventmesh-system").api()
}

async fn data(stack: &Stack) -> Result<BTreeMap<String, ByteString>> {
    certificates(stack).get(CERTIFICATE).await?.data.context("no data")
}

#[test]
fn an_expired_certificate_is_replaced_and_pods_are_injected_again() -> Result<()> {
    alone("injection-expired", async |stack, ns| {
        ns.apply(&object("EventMesh", "own", "  brokers: {replicas: 1}")).await?;
        until_injected(ns, "before").await?;
        stack.operator.process.kill()?;
        let (certificate, key) = expired(&data(stack).await?)?;
        let spoilt = json!({"stringData": {"tls.crt": certificate, "tls.key": key}});
        certificates(stack).patch(CERTIFICATE, &PatchParams::default(), &Patch::Merge(spoilt)).await?;

        // One that only answers shows what is there, and the API server does not take it.
        stack.start_follower().await?;
        let pod = create(ns, &pod("expired", "own", &json!({}), &json!({}))).await?;
        assert!(sidecars(&pod).is_empty(), "the API server took an expired certificate");

        stack.operator.process.kill()?;
        stack.start_operator().await?;
        until_injected(ns, "after").await?;
        let after = data(stack).await?;
        ensure!(after["tls.crt"].0 != certificate.as_bytes(), "the certificate is still there");
        Ok(())
    })
}

/// A certificate of the same authority and for the same names, of the last century.
fn expired(data: &BTreeMap<String, ByteString>) -> Result<(String, String)> {
    let text = |key: &str| Ok::<_, anyhow::Error>(String::from_utf8(data[key].0.clone())?);
    let issuer = Issuer::from_ca_cert_pem(&text("ca.crt")?, KeyPair::from_pem(&text("ca.key")?)?)?;
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params.not_before = rcgen::date_time_ymd(1998, 1, 1);
    params.not_after = rcgen::date_time_ymd(1999, 1, 1);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

#[test]
fn a_spoilt_certificate_and_a_removed_bundle_are_put_right() -> Result<()> {
    alone("injection-spoilt", async |stack, ns| {
        ns.apply(&object("EventMesh", "own", "  brokers: {replicas: 1}")).await?;
        until_injected(ns, "before").await?;
        let before = data(stack).await?;
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(stack.kube.client.clone());
        let bundles = async || -> Result<Vec<Option<Vec<u8>>>> {
            let webhooks = configurations.get("eventmesh-operator-webhook").await?.webhooks.unwrap_or_default();
            Ok(webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.map(|bundle| bundle.0)).collect())
        };
        let wanted = vec![Some(before["ca.crt"].0.clone()); 2];
        assert_eq!(bundles().await?, wanted);

        for path in ["/webhooks/0/clientConfig/caBundle", "/webhooks/1/clientConfig/caBundle"] {
            let remove: json_patch::Patch = serde_json::from_value(json!([{"op": "remove", "path": path}]))?;
            configurations
                .patch("eventmesh-operator-webhook", &PatchParams::default(), &Patch::<()>::Json(remove))
                .await?;
            eventually("the bundle", ns.kube.patience, async || {
                let found = bundles().await.map_err(|error| error.to_string())?;
                Ok((found == wanted).then_some(()))
            })
            .await?;
        }

        let is_put_right = async |what: &str| {
            eventually(what, ns.kube.patience, async || {
                let found = data(stack).await.map_err(|error| error.to_string())?;
                let same = |key: &str| found.get(key) == before.get(key);
                Ok((same("ca.crt") && same("ca.key") && found.contains_key("tls.crt")).then_some(()))
            })
            .await
        };
        for spoilt in
            [json!({"ca.key": "eA=="}), json!({"ca.crt": null}), json!({"tls.key": "eA=="}), json!({"tls.crt": null})]
        {
            let patch = Patch::Merge(json!({"data": spoilt}));
            certificates(stack).patch(CERTIFICATE, &PatchParams::default(), &patch).await?;
            is_put_right(&format!("Secret without {spoilt}")).await?;
        }
        certificates(stack).delete(CERTIFICATE, &kube::api::DeleteParams::default()).await?;
        is_put_right("deleted Secret").await?;
        until_injected(ns, "after").await
    })
}
