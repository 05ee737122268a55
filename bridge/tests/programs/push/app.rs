//! An application, and a sidecar, as processes of their own, which can be killed: this test program, started again.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use eventmesh_bridge::mesh::Mesh;
use eventmesh_bridge::sidecar::push::{Push, Settings};
use eventmesh_tests::child::{Child, Start, free_port};
use eventmesh_tests::http::{Collector, Received, Reply};
use eventmesh_tests::paths::scratch;
use eventmesh_wire::config::MeshConfig;
use eventmesh_wire::config::sidecar::PushSubscription;
use serde_json::json;

use super::world::{World, body};

const PORT: &str = "PUSH_TEST_PORT";
const HISTORY: &str = "PUSH_TEST_HISTORY";
const MESH: &str = "PUSH_TEST_MESH";

/// How the test program names a test of this file.
fn own(test: &str) -> String {
    let module = module_path!().split_once("::").map_or("", |(_, module)| module);
    format!("{module}::{test}")
}

/// A running application. Killing and starting it again keeps port and history.
pub struct App {
    pub child: Child,
    pub port: u16,
    folder: PathBuf,
}

impl App {
    pub fn start() -> Self {
        let (port, folder) = (free_port().unwrap(), scratch("app").unwrap());
        Self { child: Self::spawn(port, &folder), port, folder }
    }

    fn spawn(port: u16, folder: &std::path::Path) -> Child {
        Start::new(&std::env::current_exe().unwrap(), folder)
            .args(["--exact", &own("serves_where_it_is_told_to"), "--nocapture"])
            .env(PORT, port.to_string())
            .env(HISTORY, folder.join("history").to_string_lossy().as_ref())
            .spawn()
            .unwrap()
    }

    pub fn start_again(&mut self) {
        self.child = Self::spawn(self.port, &self.folder);
    }

    /// What it took: number and attempt.
    pub fn history(&self) -> Vec<(usize, u64)> {
        let text = std::fs::read_to_string(self.folder.join("history")).unwrap_or_default();
        // A line that it was killed in is not whole.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                let (number, attempt) = line.split_once(' ').unwrap();
                (number.parse().unwrap(), attempt.parse().unwrap())
            })
            .collect()
    }
}

#[tokio::test]
async fn serves_where_it_is_told_to() {
    let (Ok(port), Ok(history)) = (std::env::var(PORT), std::env::var(HISTORY)) else { return };
    let history = std::fs::File::options().create(true).append(true).open(history).unwrap();
    let history = Arc::new(Mutex::new(history));
    let app = Collector::at(port.parse().unwrap()).await.unwrap();
    app.answer(move |request: &Received| {
        let line = format!("{} {}\n", body(request), request.header("em-attempt").unwrap());
        // One write a line, so that lines stay whole.
        history.lock().unwrap().write_all(line.as_bytes()).unwrap();
        Reply::Status(202)
    });
    std::future::pending::<()>().await;
}

/// A sidecar that pushes one subscription.
pub fn sidecar(world: &World, subscription: &PushSubscription) -> Child {
    let mesh = json!({"servers": [world.nats.url()], "credentials": world.accounts.bridge().unwrap().as_config()});
    Start::new(&std::env::current_exe().unwrap(), &scratch("sidecar").unwrap())
        .args(["--exact", &own("pushes_what_it_is_told_to"), "--nocapture"])
        .env(MESH, json!([mesh, subscription]).to_string())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn pushes_what_it_is_told_to() {
    let Ok(told) = std::env::var(MESH) else { return };
    let (mesh, subscription): (MeshConfig, PushSubscription) = serde_json::from_str(&told).unwrap();
    let mesh = Mesh::connect(&mesh, "sidecar shop/mail").await.unwrap();
    let _push = Push::start(mesh, Settings::new("shop", None), &[subscription]);
    std::future::pending::<()>().await;
}
