//! TLS towards the mesh: another authority takes the old one's place while events flow, and none is lost.

use std::net::SocketAddr;
use std::path::Path;

use crate::common::{LIMIT, Outside, World, complete, running, start};
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::certificates::{Authority, Identity};
use eventmesh_tests::process::{Bridge, Nats};
use eventmesh_tests::tls::{Begin, serial_of, served};
use eventmesh_tests::wait::eventually;
use serde_json::{Value, json};

/// The mesh's certificate, where its broker reads it.
struct Shown {
    folder: std::path::PathBuf,
}

impl Shown {
    fn write(&self, identity: &Identity) {
        std::fs::write(self.folder.join("tls.crt"), &identity.certificate).unwrap();
        std::fs::write(self.folder.join("tls.key"), &identity.key).unwrap();
    }

    /// The tests' own client stays without TLS; it is not what is tested.
    fn settings(&self) -> String {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let (certificate, key) = (file("tls.crt"), file("tls.key"));
        format!("allow_non_tls: true\ntls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}")
    }
}

fn config(world: &World, trust: &str) -> Value {
    let mut config = world.config("V5");
    config["mesh"]["servers"] = json!([format!("tls://127.0.0.1:{}", world.nats.port)]);
    config["mesh"]["caPem"] = json!(trust);
    config
}

/// Waits until the bridge runs with this configuration, and connected.
async fn taken_up(bridge: &Bridge, config: &Value) {
    let hash = eventmesh_wire::config_hash(config.to_string().as_bytes());
    bridge.write_config(&config.to_string()).unwrap();
    eventually("the next configuration", LIMIT, async || {
        let report = bridge.report().await.map_err(|error| error.to_string())?;
        assert_eq!(report.config_problem, None);
        if report.config_hash == hash && report.connected.mesh { Ok(Some(())) } else { Err(format!("{report:?}")) }
    })
    .await
    .unwrap();
}

async fn serves(nats: &Nats, identity: &Identity, trust: &str) {
    let wanted = serial_of(&identity.certificate).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], nats.port));
    eventually("the next certificate", LIMIT, async || match served(address, "127.0.0.1", Begin::Nats, trust).await {
        Ok(serial) if serial == wanted => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_taken_up_while_events_flow_and_none_is_lost() {
    let (old, new) = (Authority::new().unwrap(), Authority::new().unwrap());
    let both = format!("{}{}", old.pem(), new.pem());
    let (first, second) = (old.server(&["127.0.0.1"]).unwrap(), new.server(&["127.0.0.1"]).unwrap());
    let shown = Shown { folder: scratch("mesh-certificate").unwrap() };
    shown.write(&first);
    let world = World::with(&shown.settings(), "").await;
    let bridge = start(&config(&world, old.pem()));
    running(&bridge, &["in", "out"]).await;

    let port = world.mosquitto.port;
    let publish = tokio::spawn(async move {
        let mut outside = Outside::connect(port, "outside", "set/#").await;
        for hundred in 0..60 {
            outside.publish("line/7/t", "i", hundred * 100..hundred * 100 + 100).await;
            tokio::task::yield_now().await;
        }
        outside
    });
    let stored = async |count: usize| {
        eventually("events on their way", LIMIT, async || {
            let found = world.stored("IN").await.len();
            if found >= count { Ok(Some(())) } else { Err(format!("{found} stored")) }
        })
        .await
        .unwrap();
    };
    stored(200).await;
    world.publish_mesh("o", 0..200).await;
    taken_up(&bridge, &config(&world, &both)).await;
    world.publish_mesh("o", 200..400).await;
    shown.write(&second);
    world.nats.reload().unwrap();
    serves(&world.nats, &second, &both).await;
    world.publish_mesh("o", 400..600).await;
    taken_up(&bridge, &config(&world, new.pem())).await;
    world.publish_mesh("o", 600..800).await;

    let mut outside = publish.await.unwrap();
    world.holds_all("IN", "i", 6000).await;
    outside.receives_all("o", 800).await;
    running(&bridge, &["in", "out"]).await;
    for route in ["in", "out"] {
        complete(&bridge.route(route, "an end", |route| route.counters.in_flight == 0).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_of_an_unknown_authority_is_not_believed() {
    let (known, unknown) = (Authority::new().unwrap(), Authority::new().unwrap());
    let shown = Shown { folder: scratch("mesh-certificate").unwrap() };
    shown.write(&unknown.server(&["127.0.0.1"]).unwrap());
    let world = World::with(&shown.settings(), "").await;
    let program = Path::new(env!("CARGO_BIN_EXE_eventmesh-bridge"));
    let bridge = Bridge::start(program, scratch("bridge").unwrap(), &config(&world, known.pem())).unwrap();
    let mut outside = Outside::connect(world.mosquitto.port, "outside", "none").await;
    let told = bridge.route("in", "word about the mesh", |route| crate::common::says(route, "mesh")).await.unwrap();
    assert_eq!(told.counters.delivered, 0, "{told:?}");
    outside.publish("line/7/t", "i", 0..10).await;
    // A good trust is all it takes.
    taken_up(&bridge, &config(&world, unknown.pem())).await;
    world.holds_all("IN", "i", 10).await;
}
