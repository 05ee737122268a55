//! The ports: without TLS, with a server that nobody should believe, among brokers, and beyond limits.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Attempt, SOON,
    devices::{Device, Hello},
    wire::{Door, Heard, Proof, Publish, Session, Speech, Trust, basic, knock},
    world::{Attacker, MAX_CONNECTIONS, MESH, World},
};
use crate::{
    child::{Start, free_port},
    identity::Login,
    paths,
    process::certificates::Authority,
    wait::eventually,
};

const SPEECHES: [(Speech, &str); 3] =
    [(Speech::Nats, "NATS"), (Speech::WebSocket, "WebSocket"), (Speech::Leaf, "leaf node")];
/// Subscriptions that each party may have.
const MAX_SUBSCRIPTIONS: usize = 10_000;
/// The most that one event may hold.
const MAX_PAYLOAD: usize = 1 << 20;
/// How long a leaf node that is not let in is given to bind.
const BINDING: Duration = Duration::from_secs(6);

fn attempt(group: &str, what: impl Into<String>, outcome: Result<String>) -> Attempt {
    let (answer, succeeded) = match outcome {
        Ok(answer) => (answer, true),
        Err(error) => (format!("{error:#}"), false),
    };
    Attempt { group: group.to_owned(), what: what.into(), answer, succeeded }
}

fn client(world: &World) -> Result<&Attacker> {
    world.attackers.iter().find(|one| one.name == "client").context("a client")
}

/// Everything about ports.
pub async fn run(world: &World) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    if world.trust != Trust::Plain {
        attempts.extend(without_tls(world).await?);
        attempts.extend(man_in_the_middle(world).await?);
    }
    attempts.extend(routes(world).await);
    attempts.extend(monitors(world).await?);
    attempts.extend(leaf_nodes(world).await?);
    Ok(attempts)
}

/// The right credentials, and no TLS.
async fn without_tls(world: &World) -> Result<Vec<Attempt>> {
    let group = "ports without TLS";
    let mut attempts = Vec::new();
    let client = client(world)?;
    for (speech, name) in SPEECHES {
        let Some(door) = world.door(speech) else { continue };
        let outcome = door.with(Trust::Plain).enter(&client.proof()).await.map(|_| "let in".to_owned());
        attempts.push(attempt(group, format!("{name} port in the clear"), outcome));
    }
    if let (Some(address), Some(token)) = (&world.addresses.mqtt, &world.device) {
        let hello = Hello { id: "plain".into(), user: "press-42".into(), password: token.clone(), ..Hello::default() };
        let outcome = Device::enter(address, &Trust::Plain, &hello).await.map(|_| "let in".to_owned());
        attempts.push(attempt(group, "MQTT port in the clear", outcome));
    }
    Ok(attempts)
}

/// A client that trusts another authority must hang up before it has shown its credentials.
async fn man_in_the_middle(world: &World) -> Result<Vec<Attempt>> {
    let group = "a server that the client has no reason to believe";
    let stranger = Trust::Authorities(Authority::new()?.pem().to_owned());
    let mut attempts = Vec::new();
    let client = client(world)?;
    for (speech, name) in SPEECHES {
        let Some(door) = world.door(speech) else { continue };
        let outcome = door.with(stranger.clone()).enter(&client.proof()).await.map(|_| "believed".to_owned());
        attempts.push(attempt(group, format!("{name} client that trusts another authority"), outcome));
    }
    if let (Some(address), Some(token)) = (&world.addresses.mqtt, &world.device) {
        let hello = Hello { id: "mitm".into(), user: "press-42".into(), password: token.clone(), ..Hello::default() };
        let outcome = Device::enter(address, &stranger, &hello).await.map(|_| "believed".to_owned());
        attempts.push(attempt(group, "MQTT client that trusts another authority", outcome));
    }
    if let Some(address) = &world.addresses.other {
        let door = Door { address: address.clone(), ..world.door(Speech::Nats).context("a door")? };
        let outcome = door.enter(&client.proof()).await.map(|_| "believed".to_owned());
        attempts.push(attempt(group, "NATS client of this mesh at the other one", outcome));
    }
    Ok(attempts)
}

/// Whether anybody answers there at all: a network may keep strangers away from it.
async fn reachable(address: &str) -> bool {
    let connecting = tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(address));
    matches!(connecting.await, Ok(Ok(_)))
}

/// The port at which brokers meet, spoken to by somebody who is none.
async fn routes(world: &World) -> Vec<Attempt> {
    let group = "port of the brokers among themselves";
    let mut attempts = Vec::new();
    for address in &world.addresses.routes {
        if !reachable(address).await {
            attempts.push(attempt(group, "reach it", Err(anyhow::anyhow!("the network lets nobody through"))));
            continue;
        }
        let proofs = [
            ("nothing", Proof::Nothing),
            ("a guessed password", Proof::Password { user: "cluster".into(), password: "cluster".into() }),
            ("a client's token", client(world).map_or(Proof::Nothing, Attacker::proof)),
        ];
        for (how, proof) in proofs {
            for (what, trust) in [("in the clear", Trust::Plain), ("TLS without a certificate", Trust::Anybody)] {
                let door = Door { address: address.clone(), speech: Speech::Nats, trust };
                let outcome = door.enter(&proof).await.map(|_| "let in".to_owned());
                attempts.push(attempt(group, format!("{what}, with {how}"), outcome));
            }
        }
    }
    attempts
}

/// The monitoring port: in the clear, and what it tells of tokens.
async fn monitors(world: &World) -> Result<Vec<Attempt>> {
    let group = "monitoring port";
    let mut attempts = Vec::new();
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    // Somebody whose token could be told.
    let device = match (&world.addresses.mqtt, &world.other_device) {
        (Some(address), Some(token)) => {
            let hello = Hello {
                id: "press-43-watched".into(),
                user: "press-43".into(),
                password: token.clone(),
                ..Hello::default()
            };
            Some(Device::enter_surely(address, &world.trust, &hello).await.context("the other device")?)
        }
        _ => None,
    };
    // Tokens that need no key, and keys; a NATS token alone lets nobody in.
    let tokens = world.device.iter().chain(&world.other_device).cloned();
    let keys = world.attackers.iter().map(|one| &one.login).chain([&world.operator, &world.system, &world.auditor]);
    let usable: Vec<String> = tokens.chain(keys.map(|login| login.seed.clone())).collect();
    for address in &world.addresses.monitors {
        if !reachable(address).await {
            attempts.push(attempt(group, "reach it", Err(anyhow::anyhow!("the network lets nobody through"))));
            continue;
        }
        if world.trust != Trust::Plain {
            let basic = format!("Authorization: Basic {}\r\n", basic("admin", "admin"));
            for (what, more) in
                [("GET /varz in the clear", ""), ("GET /varz in the clear, with a password", basic.as_str())]
            {
                let answer = knock(address, &Trust::Plain, get("/varz", more).as_bytes()).await;
                attempts.push(attempt(group, what, answer.and_then(told)));
            }
        }
        let trust = if world.trust == Trust::Plain { Trust::Plain } else { Trust::Anybody };
        for path in [
            "/connz?auth=1&subs=detail&limit=1000",
            "/accountz",
            "/varz",
            "/leafz",
            "/routez",
            "/jsz?accounts=1&streams=1&consumers=1&config=1",
        ] {
            let answer = knock(address, &trust, get(path, "").as_bytes()).await.and_then(told).and_then(|text| {
                ensure!(
                    usable.iter().any(|token| text.contains(token.as_str())),
                    "it tells nothing by which one is let in"
                );
                Ok("it tells a token or a key".to_owned())
            });
            attempts.push(attempt(group, format!("tokens in {path}"), answer));
        }
    }
    drop(device);
    Ok(attempts)
}

fn told(answer: String) -> Result<String> {
    let first = answer.lines().next().unwrap_or_default().to_owned();
    ensure!(first.contains(" 200"), "{first}");
    Ok(answer)
}

/// Whether a NATS server with these credentials gets its leaf node connection in time.
async fn binds(world: &World, login: &Login, limit: Duration) -> Result<bool> {
    let address = world.addresses.leaf.as_ref().context("a port for leaf nodes")?;
    let folder = paths::scratch("leaf")?;
    let (port, monitor) = (free_port()?, free_port()?);
    let creds = folder.join("nats.creds");
    std::fs::write(
        &creds,
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            login.jwt, login.seed
        ),
    )?;
    let (scheme, tls) = match &world.trust {
        Trust::Authorities(pem) => {
            let ca = folder.join("ca.crt");
            std::fs::write(&ca, pem)?;
            ("tls", format!(", tls {{ ca_file: \"{}\" }}", ca.display()))
        }
        _ => ("nats", String::new()),
    };
    let config = format!(
        "server_name: site\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\n\
         leafnodes {{ remotes: [{{ url: \"{scheme}://{address}\", credentials: \"{}\"{tls} }}] }}\n",
        creds.display()
    );
    let file = folder.join("nats.conf");
    std::fs::write(&file, config)?;
    let server = Start::new(&paths::tool("nats-server")?, &folder).arg("--config").arg(&file).spawn()?;
    let bound = eventually("leaf node connection", limit, async || {
        if server.exited().is_some() {
            return Err("it has ended".to_owned());
        }
        let leafs = leafs(monitor).await.map_err(|error| format!("{error:#}"))?;
        Ok((leafs > 0).then_some(()))
    })
    .await;
    // What it knows is of no use to others.
    let _ = std::fs::remove_file(&creds);
    Ok(bound.is_ok())
}

async fn leafs(monitor: u16) -> Result<u64> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", monitor)).await?;
    stream.write_all(b"GET /leafz HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str::<serde_json::Value>(body)?["leafnodes"].as_u64().unwrap_or(0))
}

/// Nobody may run a NATS server as a part of the mesh.
async fn leaf_nodes(world: &World) -> Result<Vec<Attempt>> {
    if world.addresses.leaf.is_none() {
        return Ok(Vec::new());
    }
    let tries = world.attackers.iter().map(|attacker| async move {
        let outcome = if binds(world, &attacker.login, BINDING).await? {
            Ok("it is bound".to_owned())
        } else {
            Err(anyhow::anyhow!("it is not bound"))
        };
        anyhow::Ok(attempt("a NATS server as a leaf node", format!("credentials of the {}", attacker.name), outcome))
    });
    futures::stream::iter(tries).buffered(4).try_collect().await
}

/// What the mesh allows each party is not exceeded.
pub async fn limits(world: &World) -> Result<Vec<Attempt>> {
    let group = "limits";
    let door = world.door(Speech::Nats).context("a door")?;
    let publisher = world.attackers.iter().find(|one| one.publishes.is_some()).context("a publisher")?;
    let granted = publisher.publishes.clone().unwrap_or_default();
    let mut attempts = Vec::new();

    let mut session = door.enter_surely(&publisher.proof()).await?;
    let publish = Publish { subject: granted.clone(), body: vec![b'x'; MAX_PAYLOAD + 1], ..Publish::default() };
    let outcome = refusal(&mut session, &publish).await;
    attempts.push(attempt(group, "an event of one byte too many", outcome));

    let mut session = door.enter_surely(&publisher.proof()).await?;
    let mut lines = String::new();
    for number in 0..=MAX_SUBSCRIPTIONS {
        let _ = write!(lines, "SUB _INBOX.s{number} {}\r\n", number + 1);
    }
    let outcome = async {
        session.raw(&lines).await?;
        let heard = session.settle().await?;
        refused(&heard)
    };
    attempts.push(attempt(group, format!("{} subscriptions", MAX_SUBSCRIPTIONS + 1), outcome.await));
    drop(session);

    // Each broker hears of the others' connections a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reader = world.attackers.iter().find(|one| one.name == "reader").context("a reader")?;
    let mut open = Vec::new();
    let mut outcome = Ok(String::new());
    for _ in 0..=MAX_CONNECTIONS {
        match door.enter(&reader.proof()).await {
            Ok(session) => open.push(session),
            Err(error) => {
                outcome = Err(error.context(format!("after {}", open.len())));
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let outcome = outcome.map(|_| format!("{} are open", open.len()));
    attempts.push(attempt(group, format!("{} connections", MAX_CONNECTIONS + 1), outcome));
    Ok(attempts)
}

async fn refusal(session: &mut Session, publish: &Publish) -> Result<String> {
    // The broker may hang up in the middle of it.
    let _ = session.publish(publish).await;
    let heard = session.hear(SOON, |one| matches!(one, Heard::Error(_))).await;
    refused(&heard)
}

fn refused(heard: &[Heard]) -> Result<String> {
    for one in heard {
        match one {
            Heard::Error(text) => anyhow::bail!("{text}"),
            Heard::Closed => anyhow::bail!("it hangs up"),
            _ => {}
        }
    }
    Ok("not refused".to_owned())
}

/// What should work at the ports does.
pub async fn controls(world: &World) -> Result<usize> {
    let mut worked = 0;
    if world.addresses.leaf.is_some() {
        let operator = Login::operator(&world.places.mesh, MESH).await?;
        ensure!(binds(world, &operator, SOON).await?, "a NATS server with all rights is not bound as a leaf node");
        worked += 1;
    }
    // Where it is, only the mesh's Secrets tell.
    let config = world.places.mesh.secret(&format!("{MESH}-broker"), "auth.conf").await?;
    let path = config.split("http_base_path: \"").nth(1).and_then(|rest| rest.split('"').next()).context("a path")?;
    for address in &world.addresses.monitors {
        if !reachable(address).await {
            continue;
        }
        let trust = if world.trust == Trust::Plain { Trust::Plain } else { Trust::Anybody };
        let request = format!("GET {path}/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        knock(address, &trust, request.as_bytes()).await.and_then(told)?;
        worked += 1;
    }
    Ok(worked)
}
