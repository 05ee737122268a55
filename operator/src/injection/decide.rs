//! What a pod gets: the sidecar, nothing, or a reason why not. Pure.
//!
//! A refusal never keeps a pod from starting. What is missing is told where people look: in an annotation of the pod, and
//! in an Event.

use std::{collections::BTreeMap, fmt, sync::Arc};

use eventmesh_crds::{EventMesh, mesh::ServiceMesh};
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{ADMIN_PORT, CONTAINER, HTTP_PORT, INJECT, INJECTION, NATS_PORT, VOLUME};
use crate::{
    broker::MeshKey,
    identity::{credentials, party::Party},
    labels, refs,
    service_mesh::{self, Proxies},
};

/// A namespace as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// What a pod gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Neither the pod nor its namespace asks.
    NotAsked,
    /// The pod declines, or has what it asks for.
    Nothing,
    Inject(Box<Sidecar>),
    Refuse(Refusal),
}

/// Everything that is particular to one sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    pub mesh: MeshKey,
    /// The Secret that the identity controller keeps for the pod's ServiceAccount.
    pub secret: String,
    pub resources: Option<ResourceRequirements>,
    /// Where the application tells whether it is ready.
    pub app_ready: Option<String>,
    /// Annotations for the service mesh around the pod.
    pub marks: BTreeMap<String, String>,
}

/// Why a pod that asks gets no sidecar. The texts say what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoMesh,
    SeveralMeshes(String),
    NotAName(String),
    MeshNotFound(MeshKey),
    MeshDeleted(MeshKey),
    NotPermitted { mesh: MeshKey, namespace: String },
    HostNetwork,
    Windows,
    PortTaken { port: i32, container: String },
    NameTaken(&'static str),
}

impl Refusal {
    /// Whether it may follow from a picture of the cluster that is a moment old.
    #[must_use]
    pub fn may_be_outdated(&self) -> bool {
        match self {
            Self::NoMesh
            | Self::SeveralMeshes(_)
            | Self::NotAName(_)
            | Self::MeshNotFound(_)
            | Self::MeshDeleted(_)
            | Self::NotPermitted { .. } => true,
            Self::HostNetwork | Self::Windows | Self::PortTaken { .. } | Self::NameTaken(_) => false,
        }
    }

    /// The value of the annotation [`INJECTION`].
    #[must_use]
    pub fn annotation(&self) -> String {
        format!("refused: {self}")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMesh => write!(
                f,
                "no mesh is named; set annotation {} to <namespace>/<name> on the pod or its namespace",
                labels::MESH
            ),
            Self::SeveralMeshes(value) => {
                write!(f, "annotation {} names more than one mesh ({value}); a pod has one", labels::MESH)
            }
            Self::NotAName(value) => {
                write!(f, "annotation {} must be <namespace>/<name> or <name>, and is {value:?}", labels::MESH)
            }
            Self::MeshNotFound(mesh) => {
                write!(f, "EventMesh {mesh} does not exist; create it, then create the pod again")
            }
            Self::MeshDeleted(mesh) => write!(f, "EventMesh {mesh} is being deleted"),
            Self::NotPermitted { mesh, namespace } => write!(
                f,
                "EventMesh {mesh} does not let namespace {namespace} in; its owner can add it to spec.allowedNamespaces"
            ),
            Self::HostNetwork => f.write_str(
                "the pod uses the network of its node (hostNetwork), where the sidecar's ports would be everybody's",
            ),
            Self::Windows => f.write_str("the pod is one for Windows, for which there is no sidecar"),
            Self::PortTaken { port, container } => write!(
                f,
                "container {container} uses port {port}, which the sidecar needs ({NATS_PORT}, {HTTP_PORT} and \
                 {ADMIN_PORT}); move the container to another port"
            ),
            Self::NameTaken(name) => {
                write!(f, "the pod has a container or volume of its own that is called {name}; call it something else")
            }
        }
    }
}

/// Decides. `mesh` looks an EventMesh up.
pub fn decide(pod: &Pod, home: &Home, mesh: impl FnOnce(&MeshKey) -> Option<Arc<EventMesh>>) -> Decision {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(INJECT));
    match label.map(String::as_str) {
        Some("true") => {}
        Some("false") => return Decision::Nothing,
        // Other values ask for nothing.
        _ if home.labels.get(INJECT).is_some_and(|value| value == "true") => {}
        _ => return Decision::NotAsked,
    }
    let spec = pod.spec.clone().unwrap_or_default();
    if is_mirror(pod) || is_ours(pod) || is_injected(&spec) {
        return Decision::Nothing;
    }
    match sidecar(pod, &spec, home, mesh) {
        Ok(sidecar) => Decision::Inject(Box::new(sidecar)),
        // It was told already, before another injector changed the pod.
        Err(refusal) if annotation(pod, INJECTION) == Some(&refusal.annotation()) => Decision::Nothing,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// The picture of a pod that a node runs by itself. Nothing that is changed in it would come true.
fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, "kubernetes.io/config.mirror").is_some()
}

/// Brokers and bridges are of the mesh themselves, and may be where all pods get a sidecar.
fn is_ours(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(labels::MANAGED_BY)).is_some_and(|value| value == labels::MANAGED_BY_VALUE)
}

fn is_injected(spec: &PodSpec) -> bool {
    spec.init_containers.iter().flatten().any(|container| container.name == CONTAINER)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(name)
}

fn sidecar(
    pod: &Pod,
    spec: &PodSpec,
    home: &Home,
    mesh: impl FnOnce(&MeshKey) -> Option<Arc<EventMesh>>,
) -> Result<Sidecar, Refusal> {
    has_room(spec)?;
    let named = annotation(pod, labels::MESH).or_else(|| home.annotations.get(labels::MESH));
    let key = mesh_key(named.map(String::as_str).unwrap_or_default(), &home.name)?;
    let Some(mesh) = mesh(&key) else { return Err(Refusal::MeshNotFound(key)) };
    if mesh.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::MeshDeleted(key));
    }
    if !refs::is_permitted(&mesh, &key, &home.name, || home.labels.clone()) {
        return Err(Refusal::NotPermitted { mesh: key, namespace: home.name.clone() });
    }
    let account = spec.service_account_name.clone().filter(|name| !name.is_empty());
    let party =
        Party::ServiceAccount { namespace: home.name.clone(), name: account.unwrap_or_else(|| "default".to_owned()) };
    Ok(Sidecar {
        secret: credentials::place(&key, &party).1,
        resources: mesh.spec.sidecar.as_ref().and_then(|sidecar| sidecar.resources.clone()),
        app_ready: spec.containers.iter().find_map(readiness),
        marks: marks(pod, home, mesh.spec.service_mesh()),
        mesh: key,
    })
}

fn marks(pod: &Pod, home: &Home, setting: ServiceMesh) -> BTreeMap<String, String> {
    let proxies = Proxies::of_namespace(setting, &home.labels, &home.annotations).of_pod(setting, &pod.metadata);
    service_mesh::of_injected(proxies, pod.metadata.annotations.as_ref(), &home.annotations, ADMIN_PORT)
}

/// Whether the sidecar fits into the pod.
fn has_room(spec: &PodSpec) -> Result<(), Refusal> {
    if spec.host_network == Some(true) {
        return Err(Refusal::HostNetwork);
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Refusal::Windows);
    }
    // Init containers too: the sidecar runs beside them.
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if containers().any(|container| container.name == CONTAINER) {
        return Err(Refusal::NameTaken(CONTAINER));
    }
    if spec.volumes.iter().flatten().any(|volume| volume.name == VOLUME) {
        return Err(Refusal::NameTaken(VOLUME));
    }
    for container in containers() {
        let tcp = container.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let taken = tcp.map(|port| port.container_port).find(|port| [NATS_PORT, HTTP_PORT, ADMIN_PORT].contains(port));
        if let Some(port) = taken {
            return Err(Refusal::PortTaken { port, container: container.name.clone() });
        }
    }
    Ok(())
}

/// Reads the annotation. A mesh is always named: one that is taken because it happens to be the only one would be another,
/// or none, for the next pod once there is a second.
fn mesh_key(value: &str, namespace: &str) -> Result<MeshKey, Refusal> {
    let mut names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    let Some(first) = names.next() else { return Err(Refusal::NoMesh) };
    if names.any(|other| other != first) {
        return Err(Refusal::SeveralMeshes(shown(value)));
    }
    let (namespace, name) = first.split_once('/').unwrap_or((namespace, first));
    if !is_label(namespace) || !is_label(name) {
        return Err(Refusal::NotAName(shown(value)));
    }
    Ok(MeshKey { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Names of namespaces and meshes: nothing else may get into a message, or into the name of a Secret.
fn is_label(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
}

/// A user's text, short enough for a message.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where a container tells whether it is ready, as a URL at `127.0.0.1`: only probes that the sidecar can do as well.
fn readiness(container: &Container) -> Option<String> {
    let probe = container.readiness_probe.as_ref()?;
    let is_here = |host: &Option<String>| matches!(host.as_deref(), None | Some("" | "127.0.0.1" | "localhost"));
    if let Some(get) = probe.http_get.as_ref().filter(|get| is_here(&get.host)) {
        let port = number(container, &get.port)?;
        // The sidecar verifies no certificate of the application: it asks whether somebody listens there.
        if get.scheme.as_deref() == Some("HTTPS") {
            return Some(format!("tcp://127.0.0.1:{port}"));
        }
        let path = get.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        return Some(format!("http://127.0.0.1:{port}{slash}{path}"));
    }
    let tcp = probe.tcp_socket.as_ref().filter(|tcp| is_here(&tcp.host))?;
    Some(format!("tcp://127.0.0.1:{}", number(container, &tcp.port)?))
}

fn number(container: &Container, port: &IntOrString) -> Option<i32> {
    match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn home() -> Home {
        let annotations = BTreeMap::from([(labels::MESH.to_owned(), "platform/retail".to_owned())]);
        Home { name: "shop".to_owned(), labels: BTreeMap::new(), annotations }
    }

    fn asking() -> Home {
        Home { labels: BTreeMap::from([(INJECT.to_owned(), "true".to_owned())]), ..home() }
    }

    /// A pod that asks, with more of its metadata and spec.
    fn pod(metadata: &Value, spec: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"labels": {INJECT: "true"}},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        json_patch::merge(&mut pod, &json!({"metadata": metadata, "spec": spec}));
        serde_json::from_value(pod).expect("a pod")
    }

    fn mesh(allowed: &Value) -> Arc<EventMesh> {
        let mesh = json!({
            "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
            "metadata": {"name": "retail", "namespace": "platform"},
            "spec": {"brokers": {}, "allowedNamespaces": allowed},
        });
        Arc::new(serde_json::from_value(mesh).expect("a mesh"))
    }

    fn lookup(key: &MeshKey) -> Option<Arc<EventMesh>> {
        (key.to_string() == "platform/retail").then(|| mesh(&json!({"from": "All"})))
    }

    fn refused(pod: &Pod, home: &Home) -> String {
        match decide(pod, home, lookup) {
            Decision::Refuse(refusal) => refusal.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[rstest]
    #[case::pod_asks(Some("true"), false, true)]
    #[case::namespace_asks(None, true, true)]
    #[case::nobody_asks(None, false, false)]
    #[case::pod_declines(Some("false"), true, false)]
    #[case::another_word_is_no_wish(Some("yes"), false, false)]
    #[case::another_word_declines_nothing(Some("yes"), true, true)]
    fn the_pod_is_heard_before_its_namespace(
        #[case] label: Option<&str>,
        #[case] by_home: bool,
        #[case] injected: bool,
    ) {
        let pod = pod(&json!({"labels": {INJECT: label}}), &json!({}));
        let home = if by_home { asking() } else { home() };
        let decision = decide(&pod, &home, lookup);
        assert_eq!(matches!(decision, Decision::Inject(_)), injected, "{decision:?}");
    }

    #[rstest]
    #[case::of_another_namespace("platform/retail")]
    #[case::said_twice("platform/retail, platform/retail")]
    fn the_annotation_of_the_pod_wins(#[case] value: &str) {
        let home = Home { annotations: BTreeMap::from([(labels::MESH.to_owned(), "other".to_owned())]), ..home() };
        let pod = pod(&json!({"annotations": {labels::MESH: value}}), &json!({}));
        let Decision::Inject(sidecar) = decide(&pod, &home, lookup) else { panic!("not injected") };
        assert_eq!(
            (sidecar.mesh.to_string().as_str(), sidecar.secret.as_str()),
            ("platform/retail", "platform.retail.default")
        );
    }

    #[test]
    fn the_secret_is_that_of_the_service_account() {
        let pod = pod(&json!({}), &json!({"serviceAccountName": "ledger"}));
        let Decision::Inject(sidecar) = decide(&pod, &home(), lookup) else { panic!("not injected") };
        assert_eq!(sidecar.secret, "platform.retail.ledger");
    }

    #[rstest]
    #[case("platform/retail,platform/other", "names more than one mesh")]
    #[case("", "no mesh is named")]
    #[case(" , ", "no mesh is named")]
    #[case("retail", "EventMesh shop/retail does not exist")]
    #[case("platform/nowhere", "EventMesh platform/nowhere does not exist")]
    #[case("Platform/retail", "must be <namespace>/<name>")]
    #[case("a/b/c", "must be <namespace>/<name>")]
    #[case("/retail", "must be <namespace>/<name>")]
    #[case("platform/retail\nwarning", "must be <namespace>/<name>")]
    fn a_mesh_that_is_not_one_is_refused(#[case] value: &str, #[case] expected: &str) {
        let text = refused(&pod(&json!({"annotations": {labels::MESH: value}}), &json!({})), &home());
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_long_annotation_is_not_repeated_whole() {
        let value = "é,".repeat(100_000);
        let text = refused(&pod(&json!({"annotations": {labels::MESH: value}}), &json!({})), &home());
        assert!(text.len() < 1000, "{}", text.len());
    }

    #[test]
    fn a_mesh_that_does_not_let_the_namespace_in_is_refused() {
        let decision = decide(&pod(&json!({}), &json!({})), &home(), |_| Some(mesh(&json!(null))));
        let Decision::Refuse(refusal) = decision else { panic!("not refused: {decision:?}") };
        assert!(refusal.to_string().contains("does not let namespace shop in"), "{refusal}");
        assert!(refusal.may_be_outdated());
    }

    #[rstest]
    #[case(json!({"hostNetwork": true}), "hostNetwork")]
    #[case(json!({"os": {"name": "windows"}}), "Windows")]
    #[case(json!({"containers": [{"name": "app", "ports": [{"containerPort": 4380}]}]}), "container app uses port 4380")]
    #[case(json!({"initContainers": [{"name": "old", "ports": [{"containerPort": 4222, "protocol": "TCP"}]}]}), "container old uses port 4222")]
    #[case(json!({"containers": [{"name": "app", "ports": [{"containerPort": 4381}]}]}), "port 4381")]
    #[case(json!({"containers": [{"name": CONTAINER}]}), "called eventmesh-sidecar")]
    #[case(json!({"volumes": [{"name": VOLUME}]}), "called eventmesh-binding")]
    fn a_pod_without_room_is_refused(#[case] spec: Value, #[case] expected: &str) {
        let text = refused(&pod(&json!({}), &spec), &home());
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_port_of_udp_is_another() {
        let spec = json!({"containers": [{"name": "app", "ports": [{"containerPort": 4222, "protocol": "UDP"}]}]});
        assert!(matches!(decide(&pod(&json!({}), &spec), &home(), lookup), Decision::Inject(_)));
    }

    #[rstest]
    #[case::injected(json!({}), json!({"initContainers": [{"name": CONTAINER}]}))]
    #[case::told_before(json!({"annotations": {INJECTION: Refusal::HostNetwork.annotation()}}), json!({"hostNetwork": true}))]
    #[case::broker_or_bridge(json!({"labels": {labels::MANAGED_BY: labels::MANAGED_BY_VALUE}}), json!({}))]
    #[case::mirror_of_a_static_pod(json!({"annotations": {"kubernetes.io/config.mirror": "x"}}), json!({}))]
    fn what_is_done_is_not_done_again(#[case] metadata: Value, #[case] spec: Value) {
        assert_eq!(decide(&pod(&metadata, &spec), &home(), lookup), Decision::Nothing);
    }

    #[rstest]
    #[case(json!({"httpGet": {"port": 8080, "path": "/ready"}}), Some("http://127.0.0.1:8080/ready"))]
    #[case(json!({"httpGet": {"port": "web"}}), Some("http://127.0.0.1:8081/"))]
    #[case(json!({"httpGet": {"port": "web", "path": "up"}}), Some("http://127.0.0.1:8081/up"))]
    #[case(json!({"httpGet": {"port": "web", "scheme": "HTTPS", "path": "up"}}), Some("tcp://127.0.0.1:8081"))]
    #[case(json!({"tcpSocket": {"port": "web"}}), Some("tcp://127.0.0.1:8081"))]
    #[case(json!({"httpGet": {"port": "nowhere"}}), None)]
    #[case(json!({"httpGet": {"port": 80, "host": "example.com"}}), None)]
    #[case(json!({"exec": {"command": ["true"]}}), None)]
    #[case(json!({"grpc": {"port": 80}}), None)]
    fn readiness_of_the_application_is_its_probe(#[case] probe: Value, #[case] expected: Option<&str>) {
        let containers = json!([
            {"name": "no-probe"},
            {"name": "app", "ports": [{"name": "web", "containerPort": 8081}], "readinessProbe": probe},
        ]);
        let Decision::Inject(sidecar) = decide(&pod(&json!({}), &json!({"containers": containers})), &home(), lookup)
        else {
            panic!("not injected")
        };
        assert_eq!(sidecar.app_ready.as_deref(), expected);
    }
}
