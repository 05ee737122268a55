//! `link generate`, `link inspect`, `link list`: what is read, and what is made of it. All that decides is pure and in the files beside
//! this one.

mod authority;
mod generate;
mod inspect;
mod list;
#[cfg(test)]
mod samples;
mod secret;

use std::io::{self, Read as _, Write as _};

use eventmesh_crds::{EventMesh, link::Link};
use eventmesh_wire::link_secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::{
    Answer,
    args::{Access, Generate, Inspect, List},
    cluster::Cluster,
    error::Error,
};
use secret::LinkData;

/// Waits for the Secret that the operator makes, and writes it as the other cluster needs it.
pub async fn generate(access: &Access, wanted: &Generate) -> Result<Answer, Error> {
    let cluster = Cluster::connect(access).await?;
    let mesh = cluster.mesh(&wanted.mesh).await?;
    let link = generate::dialled(&mesh, &wanted.link)?;
    let name = link_secret::name(&wanted.mesh, &wanted.link);
    let place = format!("{}/{name}", cluster.namespace);
    let mut found = cluster.secret(&name).await?;
    if found.is_none() {
        let _ = writeln!(io::stderr(), "waiting for Secret {place}, which the operator makes");
        found = cluster.await_secret(&name, wanted.timeout).await?;
    }
    let Some(found) = found else {
        // What it said before the wait may be out of date.
        let why = list::standing(&cluster.mesh(&wanted.mesh).await?, &wanted.link);
        return Err(Error::NotMade { secret: place, seconds: wanted.timeout.as_secs(), why });
    };
    let service = cluster.service(&format!("{}-leaf", wanted.mesh)).await?;
    let (urls, doubts) = generate::addresses(&mesh, service.as_ref(), &wanted.urls);
    for doubt in doubts {
        let _ = writeln!(io::stderr(), "note: {doubt}");
    }
    let data = LinkData::of(&found);
    let text = generate::run(&mesh, link, &place, &data, &urls, wanted, now())?;
    Ok(Answer { text, good: true })
}

/// Tells what a Secret is, one of a cluster or in a file.
pub async fn inspect(access: &Access, wanted: &Inspect) -> Result<Answer, Error> {
    let (data, about) = match (&wanted.mesh, &wanted.link, &wanted.file) {
        (Some(mesh), Some(link), _) => {
            let cluster = Cluster::connect(access).await?;
            let mesh = cluster.mesh(mesh).await?;
            let link = find(&mesh, link)?;
            let (name, about) = inspect::place(&mesh, link)?;
            let missing = || Error::NoSecret {
                secret: format!("{}/{name}", cluster.namespace),
                why: list::standing(&mesh, &link.name),
            };
            (LinkData::of(&cluster.secret(&name).await?.ok_or_else(missing)?), about)
        }
        (_, _, file) => {
            let name = file.as_ref().map_or_else(|| "-".to_owned(), |file| file.display().to_string());
            let failed = |problem: String| Error::File { file: name.clone(), problem };
            let mut text = String::new();
            let read = match file.as_deref().filter(|file| file.as_os_str() != "-") {
                Some(file) => std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text)),
                None => io::stdin().read_to_string(&mut text),
            };
            read.map_err(|error| failed(error.to_string()))?;
            (LinkData::read(&text).map_err(failed)?, inspect::About::File(name))
        }
    };
    let report = inspect::run(&data, &about, now());
    Ok(Answer { good: report.is_good(), text: report.to_string() })
}

/// Lists the links of a namespace, or of all.
pub async fn list(access: &Access, wanted: &List) -> Result<Answer, Error> {
    let cluster = Cluster::connect(access).await?;
    let meshes = cluster.meshes(wanted.all_namespaces).await?;
    Ok(Answer { text: list::run(&meshes, wanted.output, now()), good: true })
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

fn find<'m>(mesh: &'m EventMesh, link: &str) -> Result<&'m Link, Error> {
    let links = mesh.spec.links.as_deref().unwrap_or_default();
    links.iter().find(|one| one.name == link).ok_or_else(|| {
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        let has = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        Error::NoLink { mesh: place(mesh), link: link.to_owned(), has }
    })
}

/// Namespace and name of a mesh.
fn place(mesh: &EventMesh) -> String {
    format!("{}/{}", mesh.namespace().unwrap_or_default(), mesh.name_any())
}
