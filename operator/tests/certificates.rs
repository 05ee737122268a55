//! Certificates on real brokers, which run the configuration that the operator makes: what is refused, and what a renewal
//! and a rollover do to those who are connected.

#![expect(clippy::unwrap_used, clippy::panic, reason = "an unwrap and a panic are assertions")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use async_nats::Client;
use eventmesh_crds::{EventMesh, tls::TlsIssuer};
use eventmesh_operator::{
    broker::{Brokers, ConnectSpec, MeshBroker, MeshKey, health::Health},
    identity::MeshKeys,
    mesh::{
        build::{config_file, listeners::Listener},
        certificates::{Files, Found, Seen, Stored, plan},
        validate::{self, ValidMesh},
    },
    pki::{Authorities, Authority, Pair, Phase, Policy},
    settings::Images,
};
use eventmesh_tests::{
    child::{Child, Start, free_port},
    paths::{scratch, tool},
    process::exchange,
    tls::{Begin, serial_of, served, trusting},
    wait::eventually,
};
use futures::StreamExt;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_mins(2);
const POLICY: Policy =
    Policy { leaf: Duration::from_hours(1), authority: Duration::from_hours(100), overlap: Duration::from_mins(1) };

fn key() -> MeshKey {
    MeshKey { namespace: "platform".to_owned(), name: "retail".to_owned() }
}

fn mesh(replicas: i32) -> ValidMesh {
    let mesh: EventMesh = serde_json::from_value(json!({
        "apiVersion": "eventmesh.dev/v1alpha1", "kind": "EventMesh",
        "metadata": {"name": "retail", "namespace": "platform", "uid": "u-1"},
        "spec": {"brokers": {"replicas": replicas}, "listeners": {"mqtt": {}, "websocket": {}, "leaf": {}}},
    }))
    .unwrap();
    validate::run(&mesh, &Images { broker: "broker:1".to_owned(), bridge: "bridge:1".to_owned() }).ok().unwrap()
}

fn names() -> BTreeSet<String> {
    ["localhost", "127.0.0.1"].map(str::to_owned).into()
}

/// What a mesh has of its own, as if it were in Kubernetes.
struct World {
    mesh: ValidMesh,
    keys: Arc<MeshKeys>,
    brokers: Vec<Broker>,
    authorities: Found<Authorities>,
    stored: Stored,
    request: String,
    now: Timestamp,
}

/// One broker, in a folder that stands for its pod.
struct Broker {
    name: String,
    folder: PathBuf,
    ports: Ports,
    process: Option<Child>,
}

#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    cluster: u16,
    monitor: u16,
    mqtt: u16,
    websocket: u16,
    leaf: u16,
}

impl World {
    /// Brokers that are to run, with the first certificates planned.
    fn new(replicas: i32) -> Self {
        Self::made(replicas, Timestamp::now())
    }

    fn made(replicas: i32, now: Timestamp) -> Self {
        let broker = |ordinal: i32| Broker {
            name: format!("retail-broker-{ordinal}"),
            folder: scratch(&format!("broker-{ordinal}")).unwrap(),
            ports: Ports {
                client: free_port().unwrap(),
                cluster: free_port().unwrap(),
                monitor: free_port().unwrap(),
                mqtt: free_port().unwrap(),
                websocket: free_port().unwrap(),
                leaf: free_port().unwrap(),
            },
            process: None,
        };
        let mut world = Self {
            mesh: mesh(replicas),
            keys: Arc::new(MeshKeys::generate(Timestamp::now().as_second() - 60)),
            brokers: (0..replicas).map(broker).collect(),
            authorities: Found::Absent,
            stored: Stored::default(),
            request: String::new(),
            now,
        };
        world.pass();
        world
    }

    async fn start(replicas: i32) -> Self {
        Self::launched(Self::new(replicas)).await
    }

    async fn launched(mut world: Self) -> Self {
        for ordinal in 0..world.brokers.len() {
            world.sync(ordinal);
            world.launch(ordinal);
        }
        world.formed().await;
        world
    }

    /// A pass of the operator when all brokers are up to date; what is planned is stored.
    fn pass(&mut self) -> Files {
        let plan = plan::run(&Seen {
            key: &key(),
            issuer: TlsIssuer::Managed,
            policy: POLICY,
            names: names(),
            request: &self.request,
            authorities: &self.authorities,
            remembered: None,
            stored: &self.stored,
            outside: None,
            taken_up: true,
            now: self.now,
        })
        .unwrap();
        self.authorities = Found::Good(plan.authorities.unwrap());
        let files = plan.files.unwrap();
        self.stored = Stored::read(&files.entries());
        files
    }

    fn phase(&self) -> Phase {
        match &self.authorities {
            Found::Good(authorities) => authorities.phase(),
            _ => panic!("no authorities"),
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now.saturating_add(SignedDuration::try_from(time).unwrap()).unwrap();
    }

    fn files(&self) -> Files {
        self.stored.whole().unwrap()
    }

    fn trust(&self) -> String {
        self.stored.authority.clone().unwrap()
    }

    /// The kubelet's part for one broker.
    fn sync(&self, ordinal: usize) {
        self.sync_with(ordinal, &self.files());
    }

    fn sync_with(&self, ordinal: usize, files: &Files) {
        let files = files.entries().into_iter().map(|(name, bytes)| (name, bytes.0)).collect();
        exchange(&self.brokers[ordinal].folder, "tls", &files).unwrap();
    }

    /// The configuration that the operator makes, with this broker's own folders and ports.
    fn launch(&mut self, ordinal: usize) {
        let others: Vec<(String, u16)> =
            self.brokers.iter().map(|broker| (broker.name.clone(), broker.ports.cluster)).collect();
        let broker = &mut self.brokers[ordinal];
        let (folder, ports) = (broker.folder.display().to_string(), broker.ports);
        let mut main = config_file::broker(&self.mesh);
        let mut cluster = config_file::cluster(&self.mesh, &self.keys);
        let mut auth = config_file::auth(&self.keys);
        for (name, port) in others {
            let host = format!("{name}.retail-brokers.platform.svc:6222");
            assert!(cluster.contains(&host), "{cluster}");
            cluster = cluster.replace(&host, &format!("localhost:{port}"));
        }
        for (port, own) in [
            (4222, ports.client),
            (6222, ports.cluster),
            (8222, ports.monitor),
            (8883, ports.mqtt),
            (8443, ports.websocket),
            (7422, ports.leaf),
        ] {
            for text in [&mut main, &mut cluster] {
                *text = text.replace(&format!("0.0.0.0:{port}"), &format!("127.0.0.1:{own}"));
            }
        }
        for text in [&mut main, &mut cluster, &mut auth] {
            for path in ["/etc/nats/tls", "/var/run/nats", "\"/data"] {
                let own = match path {
                    "/etc/nats/tls" => format!("{folder}/tls"),
                    "/var/run/nats" => folder.clone(),
                    _ => format!("\"{folder}/data"),
                };
                *text = text.replace(path, &own);
            }
        }
        std::fs::write(broker.folder.join("nats.conf"), main).unwrap();
        std::fs::write(broker.folder.join("cluster.conf"), cluster).unwrap();
        std::fs::write(broker.folder.join("auth.conf"), auth).unwrap();
        let config = broker.folder.join("nats.conf");
        let start = Start::new(&tool("nats-server").unwrap(), &broker.folder).arg("--config").arg(config);
        broker.process = Some(start.env("POD_NAME", &broker.name).spawn().unwrap());
    }

    fn url(&self, ordinal: usize) -> String {
        format!("tls://127.0.0.1:{}", self.brokers[ordinal].ports.client)
    }

    async fn client(&self, ordinal: usize, trust: &str) -> Result<Client, String> {
        let keys = self.keys.clone();
        let options = async_nats::ConnectOptions::with_auth_callback(move |nonce| {
            let keys = keys.clone();
            async move { keys.sign_in(&nonce, Timestamp::now().as_second()) }
        });
        let options = options.require_tls(true).tls_client_config(trusting(trust).unwrap());
        let options = options.connection_timeout(Duration::from_secs(20));
        options.connect(self.url(ordinal)).await.map_err(|error| format!("{error:?}"))
    }

    /// The operator's own connection to the broker of this ordinal.
    async fn operator(&self, brokers: &Brokers, ordinal: usize) -> Arc<MeshBroker> {
        let spec = ConnectSpec { address: self.url(ordinal), keys: self.keys.clone(), trust: Some(self.trust()) };
        let known = brokers.get(&key()).is_some_and(|before| before.is_ready());
        let broker = brokers.ensure(&key(), spec).await.unwrap();
        assert!(broker.is_ready() || !known, "what was known is forgotten");
        self.health(&broker).await;
        broker
    }

    /// What the brokers say when all of them answer: a slow one misses a round.
    async fn health(&self, operator: &MeshBroker) -> Health {
        eventually("answers of all brokers", LIMIT, async || {
            operator.ask_health().await.map_err(|error| error.to_string())?;
            let health = operator.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let found = health.brokers.len();
            if found == self.brokers.len() { Ok(Some(health)) } else { Err(format!("{found} answer")) }
        })
        .await
        .unwrap()
    }

    /// What a broker's monitoring says; it speaks TLS too.
    async fn monitor(&self, ordinal: usize, path: &str) -> Result<Value, String> {
        let path = format!("{}{path}", self.keys.monitoring_path());
        let (port, trust) = (self.brokers[ordinal].ports.monitor, self.trust());
        tokio::task::spawn_blocking(move || https(port, &trust, &path)).await.unwrap()
    }

    /// Waits until every running broker has a route to every other one.
    async fn formed(&self) {
        let running: Vec<usize> = (0..self.brokers.len()).filter(|n| self.brokers[*n].process.is_some()).collect();
        for ordinal in &running {
            eventually("a whole cluster", LIMIT, async || {
                let routes = self.monitor(*ordinal, "/routez").await?;
                let mut peers: BTreeMap<String, usize> = BTreeMap::new();
                for route in routes["routes"].as_array().into_iter().flatten() {
                    *peers.entry(route["remote_name"].to_string()).or_default() += 1;
                }
                // Doubles of the first moment are gone when each pair has its three routes, and one for the system.
                let whole = peers.len() == running.len() - 1 && peers.values().all(|count| *count == 4);
                if whole { Ok(Some(())) } else { Err(format!("{peers:?}")) }
            })
            .await
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.log(*ordinal)));
        }
    }

    fn log(&self, ordinal: usize) -> String {
        self.brokers[ordinal].process.as_ref().map(|process| process.log_tail(30)).unwrap_or_default()
    }

    /// Brings one broker up to date as the operator does, over its connection to another.
    async fn reload(&self, operator: &MeshBroker, ordinal: usize) {
        self.sync(ordinal);
        let (name, revision) = (&self.brokers[ordinal].name, self.files().revision());
        // One that has just started is known by another id.
        eventually("a reload", LIMIT, async || {
            operator.ask_health().await.map_err(|error| error.to_string())?;
            operator.reload(name).await.map(Some).map_err(|error| error.to_string())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.log(ordinal)));
        assert_eq!(
            self.health(operator).await.brokers[name].certificates,
            Some(revision),
            "{name} tells what it has loaded"
        );
    }

    /// Every way in of a broker, and how it begins.
    fn ways_in(&self, ordinal: usize) -> [(&'static str, SocketAddr, Begin); 5] {
        let ports = self.brokers[ordinal].ports;
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        [
            ("nats", at(ports.client), Begin::Nats),
            ("monitor", at(ports.monitor), Begin::Tls),
            (Listener::Mqtt.name(), at(ports.mqtt), Begin::Tls),
            (Listener::Websocket.name(), at(ports.websocket), Begin::Tls),
            (Listener::Leaf.name(), at(ports.leaf), Begin::Nats),
        ]
    }
}

fn https(port: u16, trust: &str, path: &str) -> Result<Value, String> {
    use std::io::{Read, Write};
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| told(&e))?;
    socket.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| told(&e))?;
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").map_err(|e| told(&e))?;
    let config = Arc::new(trusting(trust).map_err(|e| told(&e))?);
    let mut tls = rustls::ClientConnection::new(config, name).map_err(|e| told(&e))?;
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(|e| told(&e))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| told(&e))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let body = answer.split_once("\r\n\r\n").ok_or("no body")?.1;
    serde_json::from_str(body).map_err(|e| told(&e))
}

/// A certificate for the brokers that an authority signed, when the clock was `ago` from now.
fn leaf(authority: &Authority, lifetime: Duration, ago: Duration) -> Pair {
    let then = Timestamp::now().saturating_sub(SignedDuration::try_from(ago).unwrap()).unwrap();
    authority.issue(&names(), lifetime, then).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_do_not_hold_are_refused_by_clients() {
    let mut world = World::new(1);
    let long = Duration::from_hours(1000);
    let past = Timestamp::now().saturating_sub(SignedDuration::from_hours(500)).unwrap();
    let authority = Authority::generate("m", long, past).unwrap();
    let trust = authority.certificate.clone();
    let good = leaf(&authority, long, Duration::ZERO);
    let stranger = Authority::generate("stranger", long, past).unwrap();
    let future = Timestamp::now().saturating_add(SignedDuration::from_hours(10)).unwrap();
    let cases = [
        ("good", good.clone(), None),
        ("expired", leaf(&authority, Duration::from_hours(1), Duration::from_hours(3)), Some("Expired")),
        ("early", authority.issue(&names(), POLICY.leaf, future).unwrap(), Some("NotValidYet")),
        ("foreign", leaf(&stranger, long, Duration::ZERO), Some("UnknownIssuer")),
        (
            "named otherwise",
            authority.issue(&["x.example".to_owned()].into(), long, past).unwrap(),
            Some("NotValidForName"),
        ),
    ];
    for (what, pair, refusal) in cases {
        world.sync_with(0, &Files { serving: Some(pair), ..world.files() });
        world.launch(0);
        let found = eventually("an answer", LIMIT, async || match world.client(0, &trust).await {
            Err(error) if error.contains("ConnectionRefused") => Err(error),
            other => Ok(Some(other.err())),
        });
        match (found.await.unwrap(), refusal) {
            (None, None) => {}
            (Some(error), Some(refusal)) => assert!(error.contains(refusal), "{what}: {error}"),
            (found, _) => panic!("{what}: {found:?}"),
        }
        world.brokers[0].process.take().unwrap().kill().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_certificate_of_another_authority_is_no_member() {
    let mut world = World::new(3);
    for ordinal in [0, 1] {
        world.sync(ordinal);
        world.launch(ordinal);
    }
    world.formed().await;
    // It knows the password of the routes, and trusts the mesh's authority.
    let stranger = Authority::generate("m", POLICY.authority, Timestamp::now()).unwrap();
    let route = leaf(&stranger, POLICY.leaf, Duration::ZERO);
    world.sync_with(2, &Files { route, ..world.files() });
    world.launch(2);
    eventually("a refusal", LIMIT, async || {
        let said = [world.log(0), world.log(1)].concat();
        if said.contains("certificate signed by unknown authority") { Ok(Some(())) } else { Err(said) }
    })
    .await
    .unwrap();
    let routes = world.monitor(0, "/routez").await.unwrap();
    assert!(!routes.to_string().contains("retail-broker-2"), "{routes}");
    // With its own certificate it is.
    world.brokers[2].process.take().unwrap().kill().unwrap();
    world.sync(2);
    world.launch(2);
    world.formed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_taken_up_by_every_listener_and_nobody_loses_the_connection() {
    // Made so long ago that two thirds of the life are over soon.
    let life = Duration::from_mins(50);
    let then = Timestamp::now().saturating_sub(SignedDuration::try_from(life).unwrap()).unwrap();
    let mut world = World::launched(World::made(3, then)).await;
    let registry = Brokers::new(CancellationToken::new());
    let operator = world.operator(&registry, 0).await;
    let client = world.client(1, &world.trust()).await.unwrap();
    let mut received = client.subscribe("t.>").await.unwrap();
    client.flush().await.unwrap();
    let cid = client.server_info().client_id;
    let before = serial_of(&world.files().route.certificate).unwrap();
    let mut starts = Vec::new();
    for ordinal in 0..3 {
        starts.push(world.monitor(ordinal, "/varz").await.unwrap()["start"].clone());
        for (way, address, begin) in world.ways_in(ordinal) {
            let shown = served(address, "127.0.0.1", begin, &world.trust()).await.unwrap();
            assert_eq!(shown, before, "{way} of broker {ordinal}");
        }
    }
    let routes = world.monitor(0, "/routez").await.unwrap();

    world.advance(life);
    let after = serial_of(&world.pass().route.certificate).unwrap();
    assert_ne!(after, before);
    for ordinal in 0..3 {
        world.reload(&operator, ordinal).await;
        for (way, address, begin) in world.ways_in(ordinal) {
            let shown = served(address, "127.0.0.1", begin, &world.trust()).await.unwrap();
            assert_eq!(shown, after, "{way} of broker {ordinal}");
        }
        client.publish("t.a", ordinal.to_string().into()).await.unwrap();
        let message = tokio::time::timeout(LIMIT, received.next()).await.unwrap().unwrap();
        assert_eq!(message.payload, ordinal.to_string());
    }
    // The client was never away, and no broker was.
    assert_eq!(client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed), 1);
    let connections = world.monitor(1, "/connz").await.unwrap();
    let found = connections["connections"].as_array().unwrap().iter().find(|c| c["cid"] == cid).unwrap();
    assert_eq!(found["cid"], cid, "{connections}");
    for (ordinal, start) in starts.iter().enumerate() {
        assert_eq!(world.monitor(ordinal, "/varz").await.unwrap()["start"], *start);
    }
    let rids = |routes: &Value| -> BTreeSet<u64> {
        routes["routes"].as_array().unwrap().iter().filter_map(|route| route["rid"].as_u64()).collect()
    };
    assert_eq!(rids(&world.monitor(0, "/routez").await.unwrap()), rids(&routes), "routes stay too");
    let varz = world.monitor(0, "/varz").await.unwrap();
    for part in [&varz, &varz["cluster"], &varz["mqtt"], &varz["websocket"], &varz["leaf"]] {
        assert_eq!(part["tls_cert_not_after"], varz["tls_cert_not_after"], "{varz}");
    }
}

/// Brokers take a rollover up one after another; at every moment each pair of brokers can connect, and so can every client
/// that read the bundle in this phase or the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollover_cuts_off_no_broker_and_no_client_at_any_moment() {
    let mut world = World::start(3).await;
    let registry = Brokers::new(CancellationToken::new());
    let mut operator = world.operator(&registry, 0).await;
    eventually("a complete view", LIMIT, async || Ok(operator.is_ready().then_some(()))).await.unwrap();
    let old = world.trust();
    world.request = "please".to_owned();
    world.advance(Duration::from_secs(1));
    let mut expected = [Phase::Introducing, Phase::Retiring, Phase::Stable].into_iter();
    let mut earlier = old.clone();
    let mut new = String::new();
    for phase in expected.by_ref() {
        world.pass();
        assert_eq!(world.phase(), phase);
        if let Found::Good(Authorities { next: Some(next), .. }) = &world.authorities {
            new.clone_from(&next.certificate);
        }
        // The operator's connection takes the new bundle and keeps what it knows.
        operator = world.operator(&registry, 0).await;
        assert!(operator.is_ready(), "a new trust is no news");
        for ordinal in 0..3 {
            world.reload(&operator, ordinal).await;
            // A broker that has to connect anew just now, whatever the others have taken up.
            let other = (ordinal + 1) % 3;
            if other != 0 {
                world.brokers[other].process.take().unwrap().kill().unwrap();
                world.formed().await;
                world.launch(other);
                world.formed().await;
            }
            for (whose, trust) in [("this phase", &world.trust()), ("the phase before", &earlier)] {
                for broker in 0..3 {
                    let connected = world.client(broker, trust).await;
                    assert!(
                        connected.is_ok(),
                        "{phase:?}, broker {ordinal} took it up; trust of {whose}: {connected:?}"
                    );
                }
            }
        }
        // Who trusts one end only.
        let knows = async |trust: &str| world.client(1, trust).await.map(drop);
        match phase {
            Phase::Introducing => {
                knows(&old).await.unwrap();
                assert!(knows(&new).await.unwrap_err().contains("UnknownIssuer"));
            }
            Phase::Retiring | Phase::Stable => {
                knows(&new).await.unwrap();
                assert!(knows(&old).await.unwrap_err().contains("UnknownIssuer"));
            }
        }
        earlier = world.trust();
        world.advance(POLICY.overlap);
    }
    assert_eq!(world.trust(), new, "the old authority is trusted no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_not_taken_up_and_the_good_one_goes_on() {
    let world = World::start(1).await;
    let registry = Brokers::new(CancellationToken::new());
    let operator = world.operator(&registry, 0).await;
    let before = world.files().revision();
    let broken = Pair { key: "nonsense".to_owned(), ..world.files().route };
    world.sync_with(0, &Files { serving: Some(broken), ..world.files() });
    operator.reload("retail-broker-0").await.expect_err("the broker refuses it");
    assert_eq!(world.health(&operator).await.brokers["retail-broker-0"].certificates, Some(before));
    world.client(0, &world.trust()).await.unwrap();
}
