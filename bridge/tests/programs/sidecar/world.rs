//! A mesh with TLS, an application's account in it, and a sidecar beside the application.

use std::path::Path;
use std::time::Duration;

use async_nats::Client;
use eventmesh_tests::http::Collector;
use eventmesh_tests::paths::scratch;
use eventmesh_tests::process::nats::{create_consumer, create_stream};
use eventmesh_tests::process::{Accounts, Authority, Nats, Rights, Sidecar};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;

pub const LIMIT: Duration = Duration::from_mins(2);

const RIGHTS: Rights = Rights {
    publish: &["in.>", "gone.>", "small.>", "full.>"],
    consume: &[("OUT", "c")],
    inspect: &[],
    reports_as: ("shop", "api"),
};

/// The streams are in the mesh's account; the application is in its own, and there it also talks on `core.>`.
pub struct World {
    pub accounts: Accounts,
    pub nats: Nats,
    pub authority: Authority,
    pub sidecar: Sidecar,
    /// With all rights in the mesh's account.
    pub mesh: Client,
}

impl World {
    /// A sidecar that is connected.
    pub async fn new() -> Self {
        let world = Self::unbound("debug: true").await;
        world.bind(&world.accounts.bridge().unwrap(), Some(&sidecar_json()));
        world.sidecar.is(200, "ok").await.unwrap();
        world
    }

    /// A sidecar without a binding.
    pub async fn unbound(nats: &str) -> Self {
        let accounts = Accounts::of_application(RIGHTS, &["core.>"], 300);
        let authority = Authority::new().unwrap();
        let nats = broker(&accounts, &authority, nats).await;
        let mesh = nats.client().await.unwrap();
        create_stream(&mesh, "IN", &["in.>"], &json!({})).await.unwrap();
        create_stream(&mesh, "SMALL", &["small.>"], &json!({"max_msg_size": 100})).await.unwrap();
        create_stream(&mesh, "FULL", &["full.>"], &json!({"max_msgs": 1, "discard": "new"})).await.unwrap();
        create_stream(&mesh, "OUT", &["out.>"], &json!({})).await.unwrap();
        create_consumer(&mesh, "OUT", "c", 30).await.unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_eventmesh-sidecar"));
        let sidecar = Sidecar::start(program, scratch("sidecar").unwrap()).unwrap();
        Self { accounts, nats, authority, sidecar, mesh }
    }

    /// Where the broker is, with TLS.
    pub fn uri(&self) -> String {
        format!("tls://127.0.0.1:{}", self.nats.port)
    }

    /// Gives the sidecar credentials.
    pub fn bind(&self, login: &eventmesh_tests::identity::Login, sidecar: Option<&Value>) {
        self.bind_to(&self.uri(), login, sidecar);
    }

    pub fn bind_to(&self, uri: &str, login: &eventmesh_tests::identity::Login, sidecar: Option<&Value>) {
        let login = eventmesh_tests::identity::Login { ca: Some(self.authority.pem().to_owned()), ..login.clone() };
        self.sidecar.bind(uri, &login, sidecar).unwrap();
    }

    /// An application beside the sidecar: it knows an address and nothing else.
    pub async fn application(&self) -> Client {
        async_nats::connect(self.sidecar.url()).await.unwrap()
    }

    /// Another pod of the same application, which connects to the broker itself.
    pub async fn other(&self) -> Client {
        self.accounts.bridge().unwrap().connect(&self.nats).await.unwrap()
    }

    /// An application that speaks for itself.
    pub async fn raw(&self) -> Raw {
        Raw(BufStream::new(TcpStream::connect(("127.0.0.1", self.sidecar.nats)).await.unwrap()))
    }
}

/// A broker that shows a certificate of the authority.
pub async fn broker(accounts: &Accounts, authority: &Authority, extra: &str) -> Nats {
    let folder = scratch("nats").unwrap();
    let identity = authority.server(&["127.0.0.1"]).unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    let (certificate, key) = (file("tls.crt", &identity.certificate), file("tls.key", &identity.key));
    // The tests' own client stays without TLS; it is not what is tested.
    let tls = format!("allow_non_tls: true\ntls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}\n{extra}");
    Nats::verifying(folder, "2m", &tls, accounts).await.unwrap()
}

/// What the operator tells the sidecar.
pub fn sidecar_json() -> Value {
    json!({"version": 1, "mesh": {"namespace": "platform", "name": "retail"}, "namespace": "shop", "serviceAccount": "api",
        "publish": ["in.>", "gone.>", "small.>", "full.>"]})
}

/// Waits until the broker knows all that the client has said, its subscriptions included.
pub async fn heard(client: &Client) {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    tokio::time::timeout(LIMIT, own.next()).await.unwrap().unwrap();
}

/// The same with the events of `OUT` pushed to `/events` of an application.
pub fn sidecar_json_with_push(application: &Collector) -> Value {
    let port: u16 = application.url().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    let mut binding = sidecar_json();
    binding["push"] = json!([{"name": "mail", "stream": "OUT", "consumer": "c", "port": port, "path": "/events",
        "maxInFlight": 10, "timeoutMs": 10_000}]);
    binding
}

/// The NATS protocol, line by line.
pub struct Raw(pub BufStream<TcpStream>);

impl Raw {
    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next line, without its end; empty at the end.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(LIMIT, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
        line.trim_end().to_owned()
    }

    /// The greeting.
    pub async fn info(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(line.strip_prefix("INFO ").expect(&line)).unwrap()
    }

    /// All that comes before the other side closes.
    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        tokio::time::timeout(LIMIT, self.0.read_to_string(&mut rest)).await.expect("an end in time").unwrap();
        rest
    }
}
