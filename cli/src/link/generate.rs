//! The Secret for the other cluster, and the link to add there. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use eventmesh_crds::{
    EventMesh,
    common::LocalRef,
    link::{Link, LinkTarget, RemoteMesh},
    mesh::Expose,
    tls::TlsIssuer,
};
use eventmesh_wire::link_secret::{AUTHORITY, CREDS, EXPIRES, JWT};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::ResourceExt as _;

use super::{
    find, place,
    secret::{ISSUED_BY, LinkData},
};
use crate::{
    args::{Generate, Wanted},
    error::Error,
};

const PORT: i32 = 7422;
/// Where the address is not known.
const UNKNOWN: &str = "ADDRESS";
/// No name of a link is longer.
const LONGEST_NAME: usize = 32;

/// The link, if it is one over which a mesh of another cluster dials.
pub fn dialled<'m>(mesh: &'m EventMesh, name: &str) -> Result<&'m Link, Error> {
    let link = find(mesh, name)?;
    let (of, name) = (place(mesh), name.to_owned());
    if let Some(to) = &link.to.mesh {
        let namespace = to.namespace.clone().or_else(|| mesh.namespace()).unwrap_or_default();
        return Err(Error::LeadsHere { mesh: of, link: name, to: format!("{namespace}/{}", to.name) });
    }
    if let Some(secret) = link.to.remote.as_ref().and_then(|remote| remote.secret.as_ref()) {
        return Err(Error::Dials { mesh: of, link: name, secret: secret.name.clone() });
    }
    match mesh.spec.listeners.as_ref().and_then(|listeners| listeners.leaf.as_ref()) {
        Some(_) => Ok(link),
        None => Err(Error::NobodyListens { mesh: of }),
    }
}

/// Where the other side dials: what was asked for, or what the Service says. And what may be wrong with it.
pub fn addresses(mesh: &EventMesh, service: Option<&Service>, asked: &[String]) -> (Vec<String>, Vec<String>) {
    let tls = mesh.spec.has_tls();
    let scheme = if tls { "tls" } else { "nats" };
    let balancer = balancer(service);
    let mut doubts = Vec::new();
    let urls = match (asked, balancer.as_slice()) {
        ([], []) => {
            doubts.push(format!(
                "write the address into the link's `urls`, or give it by --url: {}",
                way_in(mesh, service)
            ));
            vec![format!("{scheme}://{UNKNOWN}:{PORT}")]
        }
        ([], hosts) => hosts.iter().map(|host| format!("{scheme}://{}:{PORT}", in_url(host))).collect(),
        (asked, _) => asked.to_vec(),
    };
    for url in asked {
        if url.starts_with("tls://") != tls {
            let has = if tls { "speaks TLS" } else { "has no TLS" };
            doubts.push(format!("{url}: EventMesh {} {has}, so the address begins with {scheme}://", place(mesh)));
        } else if tls && !named(mesh, &balancer, host(url)) {
            doubts.push(format!(
                "{url}: the certificates of EventMesh {} are not for {}; add it to its spec.tls.serverNames",
                place(mesh),
                host(url)
            ));
        }
    }
    (urls, doubts)
}

/// Addresses that a load balancer has given.
fn balancer(service: Option<&Service>) -> Vec<String> {
    let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref());
    status.into_iter().flatten().filter_map(|one| one.hostname.clone().or_else(|| one.ip.clone())).collect()
}

/// How the mesh can be reached from outside.
fn way_in(mesh: &EventMesh, service: Option<&Service>) -> String {
    let service_name = format!("{}-leaf", mesh.name_any());
    let leaf = mesh.spec.listeners.as_ref().and_then(|listeners| listeners.leaf.as_ref());
    let port = service.and_then(|service| service.spec.as_ref()?.ports.as_ref()?.first()?.node_port);
    match (leaf.and_then(|leaf| leaf.expose), port) {
        (Some(Expose::NodePort | Expose::LoadBalancer), Some(port)) => {
            format!("Service {service_name} is reached at port {port} of every node")
        }
        _ => format!("Service {service_name} is reached inside the cluster only, unless you have made another way in"),
    }
}

/// Whether the certificates are for this host, as far as the spec tells.
fn named(mesh: &EventMesh, balancer: &[String], host: &str) -> bool {
    let tls = mesh.spec.tls.clone().unwrap_or_default();
    if tls.issuer() == TlsIssuer::Secret {
        return true;
    }
    let matches = |name: &String| match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(host),
    };
    let always = ["localhost", "127.0.0.1"].contains(&host) || host.rsplit('.').next() == Some("svc");
    always || tls.server_names.iter().flatten().any(matches) || balancer.iter().any(matches)
}

/// The host of a URL of a leaf node listener.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => rest.rsplit_once(':').map_or(rest, |(host, _)| host),
    }
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// What is written. `at`: the place of the Secret here.
pub fn run(
    mesh: &EventMesh,
    link: &Link,
    at: &str,
    data: &LinkData,
    urls: &[String],
    wanted: &Generate,
    now: i64,
) -> Result<String, Error> {
    let unusable = |problem: String| Error::Unusable { secret: at.to_owned(), problem };
    let credentials = data.credentials().map_err(unusable)?;
    if let Some(problem) = credentials.problems(mesh.spec.has_tls(), now).into_iter().next() {
        return Err(unusable(problem));
    }
    let name = wanted.secret.clone().unwrap_or_else(|| at.rsplit('/').next().unwrap_or_default().to_owned());
    let entry = yaml(&[entry(mesh, link, urls, &name)])?;
    if wanted.output == Wanted::Entry {
        return Ok(entry);
    }
    let mut text = format!("# The other side of link {} of EventMesh {}.\n", link.name, place(mesh));
    if let Some(expires) = credentials.claims.exp {
        let renewal = expires - (expires - credentials.claims.iat) / 3;
        let _ = writeln!(
            text,
            "# Valid until {}; a new one is made at {}, of which you have to take a copy again.",
            time(expires),
            time(renewal)
        );
    }
    text.push_str("# It holds a private key: keep it as you keep passwords.\n");
    text.push_str("# Apply it in the namespace of the EventMesh that dials, and add to the spec.links of that:\n");
    for line in entry.lines() {
        let _ = writeln!(text, "#   {line}");
    }
    text.push_str(&yaml(&secret(mesh, data, name))?);
    Ok(text)
}

/// The link for the side that dials: what one side exports, the other imports.
fn entry(mesh: &EventMesh, link: &Link, urls: &[String], secret: &str) -> Link {
    let name: String = mesh.name_any().chars().take(LONGEST_NAME).collect();
    let remote = RemoteMesh { urls: Some(urls.to_vec()), secret: Some(LocalRef { name: secret.to_owned() }) };
    Link {
        name: name.trim_end_matches('-').to_owned(),
        to: LinkTarget { mesh: None, remote: Some(remote) },
        export: link.import.clone(),
        import: link.export.clone(),
    }
}

fn secret(mesh: &EventMesh, data: &LinkData, name: String) -> Secret {
    let kept = [CREDS, JWT, EXPIRES, AUTHORITY].into_iter();
    let kept = kept.filter_map(|key| Some((key.to_owned(), ByteString(data.values.get(key)?.clone()))));
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some(BTreeMap::from([(ISSUED_BY.to_owned(), place(mesh))])),
            ..ObjectMeta::default()
        },
        type_: Some("servicebinding.io/nats".to_owned()),
        data: Some(kept.collect()),
        ..Secret::default()
    }
}

fn yaml<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    serde_saphyr::to_string(value)
        .map_err(|error| Error::File { file: "what was to be written".to_owned(), problem: error.to_string() })
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::link::samples::{DIALLED, NOW, data, mesh};

    fn wanted(output: Wanted) -> Generate {
        Generate {
            mesh: "retail".to_owned(),
            link: "plant".to_owned(),
            urls: Vec::new(),
            secret: None,
            output,
            timeout: std::time::Duration::ZERO,
        }
    }

    fn generate(output: Wanted) -> String {
        let mesh = mesh(DIALLED);
        let link = dialled(&mesh, "plant").expect("a link");
        let urls = ["tls://mesh.example:7422".to_owned()];
        run(&mesh, link, "platform/retail-link-plant", &data("link/plant"), &urls, &wanted(output), NOW)
            .expect("written")
    }

    #[test]
    fn the_secret_is_written_with_the_entry_beside_it() {
        let text = generate(Wanted::Secret);
        // Values differ from run to run, and are long.
        let lines =
            text.lines().map(|line| if line.starts_with("    ") && !line.contains(':') { "    …" } else { line });
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn the_entry_alone_can_be_put_into_a_spec() {
        let text = generate(Wanted::Entry);
        insta::assert_snapshot!(text);
        let links: Vec<Link> = serde_saphyr::from_str(&text).expect("links");
        let spec = json!({"brokers": {}, "links": links});
        assert!(serde_json::from_value::<eventmesh_crds::mesh::EventMeshSpec>(spec).is_ok());
    }

    #[test]
    fn what_was_written_is_what_the_other_side_reads() {
        let copy = LinkData::read(&generate(Wanted::Secret)).expect("a Secret");
        let credentials = copy.credentials().expect("credentials");
        assert_eq!(credentials.problems(true, NOW), Vec::<String>::new());
        assert_eq!(copy.issued_by.as_deref(), Some("platform/retail"));
        assert!(!copy.values.contains_key("uri"), "addresses of one cluster are of no use in another");
    }

    #[test]
    fn what_cannot_be_used_is_not_written() {
        let mesh = mesh(DIALLED);
        let link = dialled(&mesh, "plant").expect("a link");
        let run = |data: &LinkData, now| run(&mesh, link, "n/s", data, &[], &wanted(Wanted::Secret), now);
        let text = |result: Result<String, Error>| result.expect_err("refused").to_string();
        assert_eq!(
            text(run(&data("client/c"), NOW)),
            "Secret n/s: its credentials are those of client/c, not of a link"
        );
        assert_eq!(text(run(&data("link/plant"), NOW * 2)), "Secret n/s: its credentials have expired");
    }

    #[rstest]
    #[case("ghost", "has no link ghost in spec.links; it has plant, office, far")]
    #[case("office", "leads to EventMesh platform/office of this cluster")]
    #[case("far", "this side dials over link far")]
    fn a_link_that_nobody_dials_says_why(#[case] link: &str, #[case] problem: &str) {
        let error = dialled(&mesh(DIALLED), link).expect_err("refused").to_string();
        assert!(error.contains(problem), "{error}");
    }

    #[test]
    fn a_mesh_that_does_not_listen_says_so() {
        let mesh = mesh(r#"{"brokers": {}, "links": [{"name": "plant", "to": {"remote": {}}}]}"#);
        let error = dialled(&mesh, "plant").expect_err("refused").to_string();
        assert!(error.contains("add `listeners: {leaf: {expose: LoadBalancer}}`"), "{error}");
    }

    fn service(value: Value) -> Service {
        serde_json::from_value(value).expect("a Service")
    }

    #[rstest]
    #[case(&[], json!({}), "tls://ADDRESS:7422", Some("inside the cluster only"))]
    #[case(&[], json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}), "tls://192.0.2.7:7422", None)]
    #[case(&[], json!({"status": {"loadBalancer": {"ingress": [{"ip": "2001:db8::1"}]}}}), "tls://[2001:db8::1]:7422", None)]
    #[case(&["tls://mesh.example:7422"], json!({}), "tls://mesh.example:7422", None)]
    #[case(&["tls://a.wild.example:7"], json!({}), "tls://a.wild.example:7", None)]
    #[case(&["tls://other.example:7"], json!({}), "tls://other.example:7", Some("are not for other.example"))]
    #[case(&["nats://mesh.example:7422"], json!({}), "nats://mesh.example:7422", Some("begins with tls://"))]
    fn addresses_are_found_or_asked_for(
        #[case] asked: &[&str],
        #[case] found: Value,
        #[case] url: &str,
        #[case] doubt: Option<&str>,
    ) {
        let asked: Vec<String> = asked.iter().map(|url| (*url).to_owned()).collect();
        let (urls, doubts) = addresses(&mesh(DIALLED), Some(&service(found)), &asked);
        assert_eq!(urls, [url]);
        match doubt {
            None => assert_eq!(doubts, Vec::<String>::new()),
            Some(doubt) => assert!(doubts.len() == 1 && doubts[0].contains(doubt), "{doubts:?}"),
        }
    }

    #[test]
    fn a_node_port_is_told() {
        let spec = r#"{"brokers": {}, "listeners": {"leaf": {"expose": "NodePort"}}}"#;
        let service = service(json!({"spec": {"ports": [{"port": 7422, "nodePort": 31422}]}}));
        let (_, doubts) = addresses(&mesh(spec), Some(&service), &[]);
        assert!(doubts[0].ends_with("Service retail-leaf is reached at port 31422 of every node"), "{doubts:?}");
    }
}
