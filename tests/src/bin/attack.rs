//! `make attack`: a mesh of three brokers on the cluster, and everything that must not work in it, tried.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::EventMesh;
use eventmesh_tests::{
    attack::{
        self,
        world::{Addresses, MESH, OTHER_MESH, Places, World, meshes},
    },
    cluster::Cluster,
    objects::Namespace,
    wait::eventually,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;

const BROKERS: u32 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let begun = Instant::now();
    match run(begun).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: failed after {} s: {error:#}", begun.elapsed().as_secs());
            ExitCode::FAILURE
        }
    }
}

async fn run(begun: Instant) -> Result<()> {
    let say = |text: &str| println!("{:6.1} s  {text}", begun.elapsed().as_secs_f64());
    let cluster = Cluster::connect().await?;
    ensure!(cluster.is_local(), "addresses of Services and pods can be reached from here on the local cluster only");
    cluster.kube.remove_leftovers().await?;
    let places = Places::make(&cluster.kube).await?;
    say("a mesh of three brokers with every listener, and another one beside it");
    places.mesh.apply(&meshes(BROKERS)).await?;
    places.mesh.ready::<EventMesh>(MESH).await?;
    places.mesh.ready::<EventMesh>(OTHER_MESH).await?;
    let addresses = addresses(&places.mesh).await?;
    say("a victim with its Topic, and those who will attack it");
    let world = World::build(places.clone(), addresses).await?;
    let report = attack::run(&world, &say).await?;
    println!("{}", report.table());
    if report.succeeded() > 0 {
        println!("succeeded:\n{}", report.successes());
    } else {
        places.remove().await?;
    }
    println!("{}", report.last_line());
    ensure!(report.succeeded() == 0, "{} of {} attempts succeeded", report.succeeded(), report.attempts.len());
    Ok(())
}

/// Where the brokers of both meshes listen.
async fn addresses(namespace: &Namespace) -> Result<Addresses> {
    let service = async |name: &str, port: u16| {
        let service = namespace.get::<Service>(name).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("a cluster address")?;
        let place = format!("{address}:{port}");
        eventually(&format!("way to {name}"), Duration::from_secs(20), async || {
            tokio::net::TcpStream::connect(&place).await.map(Some).map_err(|error| error.to_string())
        })
        .await?;
        anyhow::Ok(place)
    };
    let pod = namespace.get::<Pod>(&format!("{MESH}-broker-0")).await?;
    let pod = pod.status.and_then(|status| status.pod_ip).context("the address of a broker")?;
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?.items.len();
    ensure!(pods > BROKERS as usize, "only {pods} brokers");
    Ok(Addresses {
        nats: service(&format!("{MESH}-nats"), 4222).await?,
        websocket: Some(service(&format!("{MESH}-websocket"), 8443).await?),
        mqtt: Some(service(&format!("{MESH}-mqtt"), 8883).await?),
        leaf: Some(service(&format!("{MESH}-leaf"), 7422).await?),
        routes: vec![format!("{pod}:6222")],
        monitors: vec![format!("{pod}:8222")],
        other: Some(service(&format!("{OTHER_MESH}-nats"), 4222).await?),
    })
}
