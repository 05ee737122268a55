//! The marks that Istio and Linkerd need, on whatever needs them. Pure; what each mark means is in `docs/service-mesh.md`.
//!
//! In NATS the server speaks first, and the brokers encrypt by themselves and know each client by its token. A proxy that
//! waits for the client's first bytes would wait for ever, and one that encrypts once more would add nothing. So the pods
//! of our making stay outside, and what a client's proxy reads is on the Services.

use std::collections::BTreeMap;

use eventmesh_crds::mesh::{PodTemplate, ServiceMesh};
use k8s_openapi::{api::core::v1::ServicePort, apimachinery::pkg::apis::meta::v1::ObjectMeta};

type Texts = BTreeMap<String, String>;

/// Labels of namespaces and pods by which Istio's injector decides.
const ISTIO_INJECTION: &str = "istio-injection";
const ISTIO_REVISION: &str = "istio.io/rev";
const ISTIO_INJECT: &str = "sidecar.istio.io/inject";
/// Annotation of pods: ports that are not redirected to Istio's proxy.
const ISTIO_EXCLUDED: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// Annotation of namespaces and pods by which Linkerd's injector decides.
const LINKERD_INJECT: &str = "linkerd.io/inject";
/// Annotation of pods and namespaces: ports that are not redirected to Linkerd's proxy.
const LINKERD_SKIPPED: &str = "config.linkerd.io/skip-inbound-ports";
/// Annotation of Services: ports on which Linkerd does not wait for the client's first bytes.
const LINKERD_OPAQUE: &str = "config.linkerd.io/opaque-ports";

/// Which proxies pods get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proxies {
    pub istio: bool,
    pub linkerd: bool,
}

impl Proxies {
    /// Those that pods of a namespace get which say nothing themselves.
    #[must_use]
    pub fn of_namespace(setting: ServiceMesh, labels: &Texts, annotations: &Texts) -> Self {
        let is = |texts: &Texts, name: &str, value: &str| texts.get(name).is_some_and(|found| found == value);
        match setting {
            ServiceMesh::None => Self::default(),
            ServiceMesh::Istio => Self { istio: true, linkerd: false },
            ServiceMesh::Linkerd => Self { istio: false, linkerd: true },
            ServiceMesh::Auto => Self {
                // The first label decides where it is there.
                istio: match labels.get(ISTIO_INJECTION) {
                    Some(value) => value == "enabled",
                    None => labels.contains_key(ISTIO_REVISION),
                },
                linkerd: is(annotations, LINKERD_INJECT, "enabled") || is(annotations, LINKERD_INJECT, "ingress"),
            },
        }
    }

    /// Those that one pod gets.
    #[must_use]
    pub fn of_pod(self, setting: ServiceMesh, pod: &ObjectMeta) -> Self {
        if setting != ServiceMesh::Auto {
            return self;
        }
        let read = |texts: &Option<Texts>, name: &str| texts.as_ref().and_then(|texts| texts.get(name).cloned());
        // An annotation before it was a label; the label wins.
        let istio = read(&pod.labels, ISTIO_INJECT).or_else(|| read(&pod.annotations, ISTIO_INJECT));
        let by_revision = read(&pod.labels, ISTIO_REVISION).map(|_| true);
        let linkerd = read(&pod.annotations, LINKERD_INJECT);
        Self {
            istio: istio.map(|value| value == "true").or(by_revision).unwrap_or(self.istio),
            linkerd: linkerd.map_or(self.linkerd, |value| value != "disabled"),
        }
    }
}

/// Keeps pods of our making outside. What the user has written into the template is left as it is: who knows better may
/// have them in.
pub fn keep_out(template: &mut PodTemplate, proxies: Proxies) {
    let mark = |texts: &mut Option<Texts>, name: &str, value: &str| {
        texts.get_or_insert_default().entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    if proxies.istio {
        mark(&mut template.labels, ISTIO_INJECT, "false");
    }
    if proxies.linkerd {
        mark(&mut template.annotations, LINKERD_INJECT, "disabled");
    }
}

/// Annotations of a Service of the brokers. They are there whether brokers have a proxy or not: clients have them, in
/// namespaces of which the mesh knows nothing.
#[must_use]
pub fn of_service(setting: ServiceMesh, ports: &[ServicePort]) -> Option<Texts> {
    if matches!(setting, ServiceMesh::Istio | ServiceMesh::None) {
        return None;
    }
    let opaque = ports.iter().filter(|port| port.app_protocol.as_deref() == Some("tcp"));
    let opaque = opaque.map(|port| port.port.to_string()).collect::<Vec<_>>().join(",");
    (!opaque.is_empty()).then(|| Texts::from([(LINKERD_OPAQUE.to_owned(), opaque)]))
}

/// Annotations that a pod with a sidecar needs: the kubelet asks `admin` for the sidecar's health, and has no certificate of
/// a service mesh; nor is there a proxy yet when it first asks. What the pod, or else its namespace, says is kept.
#[must_use]
pub fn of_injected(proxies: Proxies, pod: Option<&Texts>, namespace: &Texts, admin: i32) -> Texts {
    let with_port = |name: &str, inherited: Option<&String>| {
        let before = pod.and_then(|pod| pod.get(name)).or(inherited).map(String::as_str).unwrap_or_default();
        let port = admin.to_string();
        let mut ports: Vec<&str> = before.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
        // `*` is all of them.
        if !ports.contains(&port.as_str()) && !ports.contains(&"*") {
            ports.push(&port);
        }
        (name.to_owned(), ports.join(","))
    };
    let istio = proxies.istio.then(|| with_port(ISTIO_EXCLUDED, None));
    let linkerd = proxies.linkerd.then(|| with_port(LINKERD_SKIPPED, namespace.get(LINKERD_SKIPPED)));
    istio.into_iter().chain(linkerd).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn texts(value: &Value) -> Texts {
        serde_json::from_value(value.clone()).expect("texts")
    }

    const ISTIO: Proxies = Proxies { istio: true, linkerd: false };
    const LINKERD: Proxies = Proxies { istio: false, linkerd: true };
    const NEITHER: Proxies = Proxies { istio: false, linkerd: false };

    /// As the two projects document their injectors.
    #[rstest]
    #[case::nothing(json!({}), json!({}), NEITHER)]
    #[case::label(json!({"istio-injection": "enabled"}), json!({}), ISTIO)]
    #[case::revision(json!({"istio.io/rev": "1-27"}), json!({}), ISTIO)]
    #[case::the_label_is_before_the_revision(json!({"istio-injection": "disabled", "istio.io/rev": "1-27"}), json!({}), NEITHER)]
    #[case::ambient_has_no_sidecars(json!({"istio.io/dataplane-mode": "ambient"}), json!({}), NEITHER)]
    #[case::linkerd(json!({}), json!({"linkerd.io/inject": "enabled"}), LINKERD)]
    #[case::linkerd_ingress(json!({}), json!({"linkerd.io/inject": "ingress"}), LINKERD)]
    #[case::linkerd_disabled(json!({}), json!({"linkerd.io/inject": "disabled"}), NEITHER)]
    #[case::linkerd_reads_no_label(json!({"linkerd.io/inject": "enabled"}), json!({}), NEITHER)]
    fn a_namespace_is_read_as_the_injectors_read_it(
        #[case] labels: Value,
        #[case] annotations: Value,
        #[case] expected: Proxies,
    ) {
        let (labels, annotations) = (texts(&labels), texts(&annotations));
        assert_eq!(Proxies::of_namespace(ServiceMesh::Auto, &labels, &annotations), expected);
        assert_eq!(Proxies::of_namespace(ServiceMesh::None, &labels, &annotations), NEITHER);
        assert_eq!(Proxies::of_namespace(ServiceMesh::Istio, &labels, &annotations), ISTIO);
        assert_eq!(Proxies::of_namespace(ServiceMesh::Linkerd, &labels, &annotations), LINKERD);
    }

    #[rstest]
    #[case(ISTIO, json!({}), ISTIO)]
    #[case(ISTIO, json!({"labels": {"sidecar.istio.io/inject": "false"}}), NEITHER)]
    #[case(ISTIO, json!({"annotations": {"sidecar.istio.io/inject": "false"}}), NEITHER)]
    #[case(NEITHER, json!({"labels": {"sidecar.istio.io/inject": "true"}}), ISTIO)]
    #[case(NEITHER, json!({"labels": {"istio.io/rev": "canary"}}), ISTIO)]
    #[case(LINKERD, json!({"annotations": {"linkerd.io/inject": "disabled"}}), NEITHER)]
    #[case(NEITHER, json!({"annotations": {"linkerd.io/inject": "enabled"}}), LINKERD)]
    fn a_pod_is_heard_before_its_namespace(#[case] namespace: Proxies, #[case] pod: Value, #[case] expected: Proxies) {
        let pod: ObjectMeta = serde_json::from_value(pod).expect("metadata");
        assert_eq!(namespace.of_pod(ServiceMesh::Auto, &pod), expected);
        assert_eq!(ISTIO.of_pod(ServiceMesh::Istio, &pod), ISTIO, "what is set is not looked for");
    }

    #[test]
    fn our_pods_stay_outside_unless_their_template_says_otherwise() {
        let mut template = PodTemplate::default();
        keep_out(&mut template, NEITHER);
        assert_eq!(template, PodTemplate::default(), "where there is no service mesh, nothing may restart");
        keep_out(&mut template, Proxies { istio: true, linkerd: true });
        assert_eq!(template.labels, Some(texts(&json!({"sidecar.istio.io/inject": "false"}))));
        assert_eq!(template.annotations, Some(texts(&json!({"linkerd.io/inject": "disabled"}))));
        let own = Some(texts(&json!({"sidecar.istio.io/inject": "true"})));
        let mut template = PodTemplate { labels: own.clone(), ..PodTemplate::default() };
        keep_out(&mut template, ISTIO);
        assert_eq!(template.labels, own);
    }

    #[test]
    fn ports_on_which_the_server_speaks_first_are_opaque_for_the_proxies_of_clients() {
        let port = |port, protocol: &str| ServicePort {
            port,
            app_protocol: Some(protocol.to_owned()),
            ..ServicePort::default()
        };
        let ports = [port(4222, "tcp"), port(6222, "tcp"), port(8222, "https")];
        let expected = Some(texts(&json!({"config.linkerd.io/opaque-ports": "4222,6222"})));
        assert_eq!(of_service(ServiceMesh::Auto, &ports), expected);
        assert_eq!(of_service(ServiceMesh::Linkerd, &ports), expected);
        assert_eq!(of_service(ServiceMesh::Istio, &ports), None, "Istio reads appProtocol");
        assert_eq!(of_service(ServiceMesh::None, &ports), None);
        assert_eq!(of_service(ServiceMesh::Auto, &ports[2..]), None);
    }

    #[rstest]
    #[case(NEITHER, json!({}), json!({}), json!({}))]
    #[case(ISTIO, json!({}), json!({}), json!({"traffic.sidecar.istio.io/excludeInboundPorts": "4381"}))]
    #[case(LINKERD, json!({}), json!({}), json!({"config.linkerd.io/skip-inbound-ports": "4381"}))]
    #[case(
        ISTIO,
        json!({"traffic.sidecar.istio.io/excludeInboundPorts": "80, 443"}),
        json!({}),
        json!({"traffic.sidecar.istio.io/excludeInboundPorts": "80,443,4381"})
    )]
    #[case(
        ISTIO,
        json!({"traffic.sidecar.istio.io/excludeInboundPorts": "*"}),
        json!({}),
        json!({"traffic.sidecar.istio.io/excludeInboundPorts": "*"})
    )]
    #[case(
        LINKERD,
        json!({}),
        json!({"config.linkerd.io/skip-inbound-ports": "9000-9010"}),
        json!({"config.linkerd.io/skip-inbound-ports": "9000-9010,4381"})
    )]
    #[case(
        LINKERD,
        json!({"config.linkerd.io/skip-inbound-ports": "4381"}),
        json!({"config.linkerd.io/skip-inbound-ports": "9000"}),
        json!({"config.linkerd.io/skip-inbound-ports": "4381"})
    )]
    fn an_injected_pod_is_probed_beside_the_proxy(
        #[case] proxies: Proxies,
        #[case] pod: Value,
        #[case] namespace: Value,
        #[case] expected: Value,
    ) {
        assert_eq!(of_injected(proxies, Some(&texts(&pod)), &texts(&namespace), 4381), texts(&expected));
    }
}
