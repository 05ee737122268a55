//! The attempts of `make attack` against one real broker.

use anyhow::{Result, ensure};
use eventmesh_crds::EventMesh;
use eventmesh_tests::{
    attack::{
        self,
        world::{Addresses, MESH, OTHER_MESH, Places, World, meshes},
    },
    child::free_port,
};
use k8s_openapi::api::core::v1::Secret;

use crate::alone;

#[test]
fn nothing_that_is_forbidden_works() -> Result<()> {
    alone("attack", async |stack, mesh| {
        let kube = &stack.kube;
        let places = Places {
            mesh: mesh.clone(),
            victim: kube.make_namespace("victim").await?,
            attacker: kube.make_namespace("attacker").await?,
        };
        mesh.apply(&meshes(1)).await?;
        mesh.condition::<EventMesh>(MESH, "Programmed", "True", "Programmed").await?;
        // Nothing runs the other mesh; its keys are there all the same.
        mesh.until::<Secret, _>(&format!("{OTHER_MESH}-keys"), "the keys", |secret| secret.data.as_ref().map(drop))
            .await?;
        let [mqtt, websocket, leaf, monitor] = [free_port()?, free_port()?, free_port()?, free_port()?];
        let more = |tls: &str| {
            format!(
                "mqtt {{ listen: 127.0.0.1:{mqtt}\n{tls} }}\nwebsocket {{ listen: 127.0.0.1:{websocket}\n{tls} }}\n\
                 leafnodes {{ listen: 127.0.0.1:{leaf}\nno_advertise: true\n{tls} }}\nhttps: 127.0.0.1:{monitor}\n"
            )
        };
        stack.start_broker_with(mesh, MESH, more).await?;
        let at = |port: u16| Some(format!("127.0.0.1:{port}"));
        let addresses = Addresses {
            nats: stack.broker_address().replace("nats://", ""),
            websocket: at(websocket),
            mqtt: at(mqtt),
            leaf: at(leaf),
            routes: Vec::new(),
            monitors: at(monitor).into_iter().collect(),
            other: None,
        };
        let world = World::build(places, addresses).await?;
        let report = attack::run(&world, &|line| println!("{} {line}", k8s_openapi::jiff::Timestamp::now())).await?;
        println!("{}{}", report.table(), report.last_line());
        ensure!(report.attempts.len() >= 300 && report.controls >= 50, "{}", report.last_line());
        ensure!(report.succeeded() == 0, "{}\n{}", report.successes(), report.last_line());
        Ok(())
    })
}
