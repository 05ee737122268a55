//! Links and how it stands with them. Pure.

use eventmesh_crds::{
    EventMesh,
    link::{Link, LinkStatus},
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::place;
use crate::{args::Form, text};

const HEADING: [&str; 10] = ["NAMESPACE", "MESH", "LINK", "TO", "STATE", "SINCE", "RTT", "IN", "OUT", "MESSAGE"];

/// All links of some meshes.
pub fn run(meshes: &[EventMesh], form: Form, now: i64) -> String {
    let links = meshes.iter().flat_map(|mesh| mesh.spec.links.iter().flatten().map(move |link| (mesh, link)));
    match form {
        Form::Json => {
            let all: Vec<Value> = links.map(|(mesh, link)| value(mesh, link)).collect();
            format!("{:#}\n", Value::Array(all))
        }
        Form::Table => {
            let rows: Vec<Vec<String>> = links.map(|(mesh, link)| row(mesh, link, now)).collect();
            if rows.is_empty() { "no links\n".to_owned() } else { text::table(&HEADING, &rows) }
        }
    }
}

/// How it stands with a link, in a sentence.
pub fn standing(mesh: &EventMesh, link: &str) -> String {
    match status(mesh, link).map(|status| (message(status), &status.state)) {
        Some((Some(message), _)) => format!("the operator says: {message}"),
        Some((None, state)) => format!("the operator says that the link is {state}"),
        None => {
            format!("the operator has not looked at the link yet: does it run? `kubectl describe em {}`", place(mesh))
        }
    }
}

fn status<'m>(mesh: &'m EventMesh, link: &str) -> Option<&'m LinkStatus> {
    mesh.status.as_ref()?.links.iter().flatten().find(|status| status.name == link)
}

/// What is wrong; without a connection, why the last one ended.
fn message(status: &LinkStatus) -> Option<String> {
    let end = status.last_error.as_ref().filter(|_| status.connections == Some(0));
    status.message.clone().or_else(|| end.map(|reason| format!("the last connection ended with `{reason}`")))
}

fn row(mesh: &EventMesh, link: &Link, now: i64) -> Vec<String> {
    let unseen = LinkStatus { state: "Pending".to_owned(), ..LinkStatus::default() };
    let status = status(mesh, &link.name).unwrap_or(&unseen);
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let since = status.since.as_ref().and_then(|since| since.parse::<Timestamp>().ok());
    vec![
        mesh.namespace().unwrap_or_default(),
        mesh.name_any(),
        link.name.clone(),
        to(mesh, link),
        status.state.clone(),
        or_none(since.map(|since| text::duration(now - since.as_second()))),
        or_none(status.round_trip_milliseconds.map(|time| format!("{time}ms"))),
        or_none(status.bytes_in.map(text::bytes)),
        or_none(status.bytes_out.map(text::bytes)),
        message(status).unwrap_or_default(),
    ]
}

/// Where it leads.
fn to(mesh: &EventMesh, link: &Link) -> String {
    match (&link.to.mesh, &link.to.remote) {
        (Some(to), _) => {
            let namespace = to.namespace.clone().or_else(|| mesh.namespace()).unwrap_or_default();
            format!("{namespace}/{}", to.name)
        }
        (_, Some(remote)) if remote.urls.is_some() => {
            remote.urls.iter().flatten().cloned().collect::<Vec<_>>().join(",")
        }
        _ => "(dials in)".to_owned(),
    }
}

fn value(mesh: &EventMesh, link: &Link) -> Value {
    json!({
        "namespace": mesh.namespace(), "mesh": mesh.name_any(), "link": link.name, "to": link.to,
        "export": link.export, "import": link.import, "status": status(mesh, &link.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::samples::{DIALLED, NOW, mesh};

    fn meshes() -> Vec<EventMesh> {
        let mut mesh = mesh(DIALLED);
        let since = Timestamp::from_second(NOW - 7_500).expect("a time").to_string();
        let connected = LinkStatus {
            name: "plant".to_owned(),
            state: "Connected".to_owned(),
            since: Some(since.clone()),
            dials: Some(false),
            connections: Some(1),
            round_trip_milliseconds: Some(3),
            bytes_in: Some(1_536),
            bytes_out: Some(0),
            last_error: Some("Stale Connection".to_owned()),
            last_error_time: Some(since.clone()),
            message: None,
        };
        let refused = LinkStatus {
            name: "office".to_owned(),
            state: "LinkNotConsented".to_owned(),
            since: Some(since),
            message: Some("link office: its owner has to add a link".to_owned()),
            ..LinkStatus::default()
        };
        mesh.status =
            serde_json::from_value(json!({"conditions": [], "links": [connected, refused]})).expect("a status");
        vec![mesh]
    }

    #[test]
    fn a_line_a_link() {
        insta::assert_snapshot!(run(&meshes(), Form::Table, NOW));
        assert_eq!(run(&[], Form::Table, NOW), "no links\n");
    }

    #[test]
    fn programs_get_all_of_it() {
        let all: Value = serde_json::from_str(&run(&meshes(), Form::Json, NOW)).expect("JSON");
        assert_eq!(all.as_array().map(Vec::len), Some(3));
        assert_eq!((&all[0]["status"]["bytesIn"], &all[2]["status"]), (&json!(1_536), &Value::Null));
        assert_eq!(run(&[], Form::Json, NOW), "[]\n");
    }

    #[test]
    fn what_the_operator_says_is_passed_on() {
        let mesh = &meshes()[0];
        assert_eq!(standing(mesh, "office"), "the operator says: link office: its owner has to add a link");
        assert_eq!(standing(mesh, "plant"), "the operator says that the link is Connected");
        assert!(standing(mesh, "far").contains("does it run?"));
    }
}
