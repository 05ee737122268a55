//! Links between real brokers, with the accounts that the operator makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, ConnectOptions};
use eventmesh_tests::{
    child::free_port,
    paths,
    process::{
        Nats,
        nats::{create_stream, messages, stored},
    },
    wait::eventually,
};
use eventmesh_wire::subject::Pattern;
use futures::StreamExt as _;
use nkeys::KeyPair;
use serde_json::{Value, json};

mod copies;

use super::{
    account::{Carried, handed_on},
    remote::{self, Remote},
};
use crate::identity::{
    MeshKeys,
    claims::{self, Account, SigningKey, User, creds_file},
    credentials::Credentials,
    live::{self, Live},
    party::Party,
    rights::{self, PartyLimits, Rights},
};

const SOON: Duration = Duration::from_secs(20);
const PAYLOAD: i64 = 1 << 20;

/// An account whose signing key the test has.
struct Signed {
    account: String,
    signing: KeyPair,
}

impl Signed {
    fn new() -> Self {
        Self { account: KeyPair::new_account().public_key(), signing: KeyPair::new_account() }
    }

    fn user(&self) -> Result<Credentials> {
        let party = Party::Client { name: "test".to_owned() };
        Ok(Credentials::issue(&self.signing, &self.account, &party, now(), 3600)?)
    }
}

fn now() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

/// One mesh: its accounts and brokers.
struct Mesh {
    name: &'static str,
    keys: MeshKeys,
    live: Signed,
    parties: BTreeMap<&'static str, (Signed, Live)>,
    links: BTreeMap<&'static str, (Signed, Carried)>,
    /// Who sends copies: its account, the link and the stream.
    sender: Option<(Signed, &'static str, &'static str)>,
    /// Signs users who may do everything in the accounts of its links: what a far side could do that means no good.
    evil: Option<KeyPair>,
    leaf_ports: Vec<u16>,
    brokers: Vec<Nats>,
}

fn patterns(subjects: &[&str]) -> Vec<Pattern> {
    subjects.iter().map(|subject| Pattern::parse(subject).expect("a pattern")).collect()
}

fn rights_in(subjects: &[&str]) -> BTreeMap<Pattern, Pattern> {
    patterns(subjects).into_iter().map(|one| (one.clone(), one)).collect()
}

impl Mesh {
    fn new(name: &'static str, brokers: usize) -> Result<Self> {
        let leaf_ports = (0..brokers).map(|_| free_port()).collect::<std::io::Result<_>>()?;
        Ok(Self {
            name,
            keys: MeshKeys::generate(now()),
            live: Signed::new(),
            parties: BTreeMap::new(),
            links: BTreeMap::new(),
            sender: None,
            evil: None,
            leaf_ports,
            brokers: Vec::new(),
        })
    }

    fn party(mut self, name: &'static str, publish: &[&str], hear: &[&str], reply: &[&str]) -> Self {
        let live = Live { publish: rights_in(publish), hear: rights_in(hear), reply: rights_in(reply) };
        self.parties.insert(name, (Signed::new(), live));
        self
    }

    fn link(mut self, name: &'static str, carried: Carried) -> Self {
        self.links.insert(name, (Signed::new(), carried));
        self
    }

    fn accounts(&self) -> Vec<(String, Account)> {
        let mesh = self.keys.mesh.public_key();
        let live = Some(self.live.account.as_str());
        let limits = PartyLimits { max_payload: PAYLOAD, max_connections: 100 };
        let mut own = self.keys.mesh_account();
        let stored: BTreeSet<Pattern> = self.links.values().flat_map(|(_, c)| c.to_store.clone()).collect();
        let copied = self.links.values().flat_map(|(_, c)| &c.copies_in).flat_map(|held| held.subjects.clone());
        own.exports = rights::exports(stored.into_iter().chain(copied).collect::<BTreeSet<_>>().iter());
        let parties = self.parties.values().map(|(signed, live)| (signed.account.as_str(), live));
        let mut between = live::account(parties);
        let mut all = Vec::new();
        for (signed, carried) in self.links.values() {
            own.imports.extend(carried.store_imports(&signed.account));
            between.imports.extend(carried.live_imports(&signed.account));
            let of = |link: &str| self.links.get(link).map(|(signed, _)| signed.account.as_str());
            let key = signed.signing.public_key();
            let mut account = carried.account(&mesh, live, of, &[&key], PAYLOAD);
            if self.evil.is_some() {
                for key in &mut account.signing_keys {
                    if let SigningKey::Scoped(scope) = key {
                        (scope.template.publish, scope.template.subscribe) = Default::default();
                    }
                }
            }
            account.signing_keys.extend(self.evil.iter().map(|key| SigningKey::Plain(key.public_key())));
            all.push((signed.account.clone(), account));
        }
        for (signed, live_rights) in self.parties.values() {
            let rights = Rights { live: live_rights.clone(), ..Rights::default() };
            let key = signed.signing.public_key();
            all.push((signed.account.clone(), rights.account(&mesh, live, &[&key], "party", limits)));
        }
        if let Some((signed, link, stream)) = &self.sender {
            let rights = Rights { copies: [((*link).to_owned(), (*stream).to_owned())].into(), ..Rights::default() };
            let key = signed.signing.public_key();
            let mut account = rights.account(&mesh, live, &[&key], "sender", limits);
            account.imports.extend(Carried::copy_imports(&self.links[link].0.account, stream));
            all.push((signed.account.clone(), account));
        }
        all.extend([(mesh, own), (self.live.account.clone(), between)]);
        all
    }

    /// Starts its brokers; `dials` are the links that they dial, each with the mesh and the link at the other side.
    async fn start(&mut self, dials: &[(&str, &Mesh, &str)]) -> Result<()> {
        let system = self.keys.system.public_key();
        let mut trust = format!(
            "operator: \"{}\"\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n{system}: \"{}\"\n",
            self.keys.operator_token, self.keys.system_token
        );
        for (id, account) in self.accounts() {
            let token = self.keys.account_token(&id, "test", now() - 60, &account)?;
            let _ = writeln!(trust, "{id}: \"{token}\"");
        }
        trust.push_str("}\n");
        let routes: Vec<u16> = self.leaf_ports.iter().map(|_| free_port()).collect::<std::io::Result<_>>()?;
        let urls = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect::<Vec<_>>().join(", ");
        for (index, leaf) in self.leaf_ports.clone().into_iter().enumerate() {
            let folder = paths::scratch(&format!("link-{}-{index}", self.name))?;
            let remotes: Vec<Remote> = dials
                .iter()
                .map(|(own, far, theirs)| {
                    let user = far.links[theirs].0.user()?;
                    std::fs::write(folder.join(remote::credentials_file(own)), creds_file(&user.token, &user.seed))?;
                    let urls = far.leaf_ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
                    Ok(Remote {
                        link: (*own).to_owned(),
                        urls,
                        account: self.links[own].0.account.clone(),
                        authority: String::new(),
                    })
                })
                .collect::<Result<_>>()?;
            let remotes = remote::config(&remotes, &folder.display().to_string());
            let mut extra = format!(
                "{trust}leafnodes {{\n  listen: \"127.0.0.1:{leaf}\"\n  no_advertise: true\n  reconnect: 1\n{remotes}}}\n"
            );
            let (name, own) = (self.name, routes[index]);
            let _ = match routes.len() {
                1 => writeln!(extra, "cluster {{ name: {name} }}"),
                _ => writeln!(extra, "cluster {{ name: {name}, listen: \"127.0.0.1:{own}\", routes: [{urls}] }}"),
            };
            self.brokers.push(Nats::named(folder, &format!("{}-{index}", self.name), &extra).await?);
        }
        Ok(())
    }

    /// As the operator, in the mesh's own account.
    async fn store(&self, broker: usize) -> Result<Client> {
        self.sign_in(broker, MeshKeys::sign_in).await
    }

    async fn sign_in(
        &self,
        broker: usize,
        how: fn(&MeshKeys, &[u8], i64) -> Result<async_nats::Auth, async_nats::AuthError>,
    ) -> Result<Client> {
        let keys = std::sync::Arc::new(MeshKeys::read(self.keys.entries()).map_err(anyhow::Error::msg)?);
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let keys = keys.clone();
            async move { how(&keys, &nonce, now()) }
        });
        Ok(options.connect(self.brokers[broker].url()).await?)
    }

    async fn client(&self, party: &str, broker: usize) -> Result<Client> {
        self.client_of(&self.parties[party].0, broker).await
    }

    async fn client_of(&self, party: &Signed, broker: usize) -> Result<Client> {
        let user = party.user()?;
        let key = std::sync::Arc::new(KeyPair::from_seed(&user.seed)?);
        let options = ConnectOptions::with_jwt(user.token, move |nonce| {
            let key = key.clone();
            async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
        });
        options.connect(self.brokers[broker].url()).await.context("cannot connect")
    }

    /// In the account of a link, where nobody should be.
    async fn evil(&self, link: &str) -> Result<Client> {
        let account = &self.links[link].0.account;
        let user = KeyPair::new_user();
        let evil = self.evil.as_ref().context("no key")?;
        let claims = User::unlimited(account.clone());
        let token = claims::sign(evil, &user.public_key(), "evil", now() - 60, Some(now() + 3600), &claims)?;
        let user = std::sync::Arc::new(user);
        let options = ConnectOptions::with_jwt(token, move |nonce| {
            let user = user.clone();
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        });
        Ok(options.connect(self.brokers[0].url()).await?)
    }

    /// What the brokers say of their leaf node connections.
    async fn leafs(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for index in 0..self.brokers.len() {
            let client = self.sign_in(index, MeshKeys::sign_in_to_system).await?;
            let id = client.server_info().server_id;
            let body = json!({"subscriptions": true}).to_string();
            let answer = client.request(format!("$SYS.REQ.SERVER.{id}.LEAFZ"), body.into()).await?;
            let answer: Value = serde_json::from_slice(&answer.payload)?;
            all.extend(answer["data"]["leafs"].as_array().cloned().unwrap_or_default());
        }
        Ok(all)
    }

    async fn linked(&self, connections: usize) -> Result<()> {
        let up = eventually("leaf nodes", SOON, async || {
            let leafs = self.leafs().await.map_err(|error| error.to_string())?;
            if leafs.len() == connections { Ok(Some(())) } else { Err(format!("{leafs:?}")) }
        });
        up.await.with_context(|| self.brokers.iter().map(Nats::log).collect::<String>())
    }

    /// Bytes of events that went out to other meshes.
    async fn sent(&self) -> Result<i64> {
        Ok(self.leafs().await?.iter().map(|leaf| leaf["out_bytes"].as_i64().unwrap_or_default()).sum())
    }

    fn logs(&self) -> String {
        self.brokers.iter().map(Nats::log).collect()
    }
}

/// A Topic that a link exports hands on what it has stored.
async fn topic(client: &Client, name: &str, subjects: &[&str], replicas: usize) -> Result<()> {
    let more =
        json!({"republish": {"src": ">", "dest": handed_on(">")}, "num_replicas": replicas, "allow_atomic": false});
    eventually("the Topic", SOON, async || {
        create_stream(client, name, subjects, &more).await.map(Some).map_err(|error| error.to_string())
    })
    .await
}

async fn publish(client: &Client, subject: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    let context = async_nats::jetstream::new(client.clone());
    for number in numbers {
        context.publish(subject.to_owned(), number.to_string().into()).await?.await?;
    }
    Ok(())
}

async fn holds(client: &Client, stream: &str, count: u64) -> Result<()> {
    eventually("events", SOON, async || {
        let found = stored(client, stream).await.map_err(|error| error.to_string())?;
        if found >= count { Ok(Some(())) } else { Err(format!("{found} of {count}")) }
    })
    .await
}

fn run(test: impl Future<Output = Result<()>>) {
    eventmesh_tests::RUNTIME.block_on(test).expect("the test");
}

/// `a` sends `orders.>` to `b`, both of so many brokers; `a_dials` says who dials.
async fn stored_over(brokers: (usize, usize), a_dials: bool) -> Result<()> {
    let orders = patterns(&["orders.>"]);
    let out = Carried { export: orders.clone(), from_store: orders.clone(), ..Carried::default() };
    let into = Carried { import: orders.clone(), to_store: orders.clone(), ..Carried::default() };
    let mut a = Mesh::new("a", brokers.0)?.link("b", out);
    let mut b = Mesh::new("b", brokers.1)?.link("a", into);
    if a_dials {
        b.start(&[]).await?;
        a.start(&[("b", &b, "a")]).await?;
        a.linked(brokers.0).await?;
    } else {
        a.start(&[]).await?;
        b.start(&[("a", &a, "b")]).await?;
        b.linked(brokers.1).await?;
    }
    let (source, target) = (a.store(0).await?, b.store(0).await?);
    topic(&target, "shop_orders", &["orders.>"], brokers.1).await?;
    topic(&source, "shop_orders", &["orders.>"], brokers.0).await?;
    topic(&source, "shop_other", &["other.>"], brokers.0).await?;
    for broker in 0..brokers.0 {
        let client = a.store(broker).await?;
        publish(&client, "other.x", 0..10).await?;
        publish(&client, "orders.x", broker * 100..broker * 100 + 100).await?;
    }
    let count = brokers.0 * 100;
    let all = holds(&target, "shop_orders", count as u64).await;
    all.with_context(|| format!("A:\n{}\nB:\n{}", a.logs(), b.logs()))?;
    // Another that nobody could send twice comes after all of them.
    publish(&source, "orders.last", 0..1).await?;
    holds(&target, "shop_orders", count as u64 + 1).await?;
    let found = messages(&target, "shop_orders").await?;
    let subjects: Vec<&str> = found.iter().map(|message| message.subject.as_str()).collect();
    ensure!(found.len() == count + 1 && subjects.last() == Some(&"orders.last"), "{}: {subjects:?}", found.len());
    Ok(())
}

#[test]
fn what_a_topic_has_stored_is_stored_once_at_the_other_side() {
    run(async {
        for (brokers, a_dials) in [((1, 1), true), ((1, 1), false), ((3, 3), true), ((3, 3), false)] {
            Box::pin(stored_over(brokers, a_dials))
                .await
                .with_context(|| format!("{brokers:?}, a dials: {a_dials}"))?;
        }
        Ok(())
    });
}

/// A link by which `live` subjects go out and come in.
fn live_link(export: &[&str], import: &[&str]) -> Carried {
    let (export, import) = (patterns(export), patterns(import));
    Carried { from_live: export.clone(), to_live: import.clone(), export, import, ..Carried::default() }
}

/// Passes on to other links what comes in.
fn passing(carried: Carried, to: &[(&str, &str)]) -> Carried {
    let to_link = to.iter().map(|(link, subject)| ((*link).to_owned(), patterns(&[subject]).remove(0))).collect();
    Carried { to_link, ..carried }
}

/// Waits until a request is answered: brokers tell each other of interest in their own time.
async fn answered(client: &Client, subject: &str) -> Result<String> {
    eventually("an answer", SOON, async || match client.request(subject.to_owned(), "?".into()).await {
        Ok(answer) => Ok(Some(String::from_utf8_lossy(&answer.payload).into_owned())),
        Err(error) => Err(error.to_string()),
    })
    .await
}

/// Answers requests, and tells how many it was asked.
fn answer(
    client: &Client,
    mut requests: async_nats::Subscriber,
    asked: &std::sync::Arc<std::sync::atomic::AtomicUsize>,
) {
    let (client, asked) = (client.clone(), asked.clone());
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if let Some(reply) = request.reply {
                let _ = client.publish(reply, request.payload).await;
            }
        }
    });
}

/// By which a test finds out whether somebody is heard; they do not count.
const PROBE: &str = "probe";

/// Waits until what a client says reaches a listener: brokers tell each other of interest in their own time.
async fn reaches(client: &Client, subject: &str, events: &mut async_nats::Subscriber) -> Result<()> {
    let said = tokio::time::timeout(SOON, async {
        loop {
            client.publish(subject.to_owned(), PROBE.into()).await?;
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
                return heard.map(drop).context("the end");
            }
        }
    });
    said.await.with_context(|| format!("{subject} does not get through"))?
}

/// The numbers that come, up to the one that is last.
async fn heard(events: &mut async_nats::Subscriber, last: &str) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    while all.last().is_none_or(|one| one != last) {
        let next = tokio::time::timeout(SOON, events.next()).await.with_context(|| format!("heard only {all:?}"))?;
        let text = String::from_utf8_lossy(&next.context("the end")?.payload).into_owned();
        if text != PROBE {
            all.push(text);
        }
    }
    Ok(all)
}

/// `a` asks and tells, `b` hears and answers; whoever is asked shares the work with others of its group on each broker.
async fn live_over(brokers: (usize, usize), a_dials: bool) -> Result<()> {
    let own = ["live.>"];
    let mut a = Mesh::new("a", brokers.0)?.party("says", &own, &[], &[]).link("b", live_link(&own, &[]));
    let mut b = Mesh::new("b", brokers.1)?
        .party("hears", &[], &["live.told"], &[])
        .party("answers", &[], &[], &["live.ask"])
        .link("a", live_link(&[], &own));
    if a_dials {
        b.start(&[]).await?;
        a.start(&[("b", &b, "a")]).await?;
    } else {
        a.start(&[]).await?;
        b.start(&[("a", &a, "b")]).await?;
    }
    a.linked(if a_dials { brokers.0 } else { brokers.1 }).await?;
    let asked = std::sync::Arc::default();
    let mut ears = Vec::new();
    for broker in 0..brokers.1 {
        let client = b.client("answers", broker).await?;
        answer(&client, client.queue_subscribe("live.ask", "desk".to_owned()).await?, &asked);
        client.flush().await?;
        let client = b.client("hears", broker).await?;
        ears.push((client.subscribe("live.told").await?, client));
    }
    for (_, client) in &ears {
        client.flush().await?;
    }
    let says = a.client("says", brokers.0 - 1).await?;
    answered(&says, "live.ask").await.with_context(|| format!("A:\n{}\nB:\n{}", a.logs(), b.logs()))?;
    for (ears, _) in &mut ears {
        reaches(&says, "live.told", ears).await?;
    }
    let before = asked.load(std::sync::atomic::Ordering::Relaxed);
    for number in 0..100 {
        says.publish("live.told", number.to_string().into()).await?;
        says.request("live.ask", number.to_string().into()).await?;
    }
    says.publish("live.told", "last".into()).await?;
    for (ears, _) in &mut ears {
        let heard = heard(ears, "last").await?;
        ensure!(heard.len() == 101, "heard {heard:?}");
    }
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed) - before;
    ensure!(asked == 100, "{asked} requests came of 100");
    Ok(())
}

#[test]
fn live_events_and_requests_cross_once() {
    run(async {
        for (brokers, a_dials) in [((1, 1), true), ((1, 1), false), ((3, 3), true), ((3, 1), false)] {
            Box::pin(live_over(brokers, a_dials)).await.with_context(|| format!("{brokers:?}, a dials: {a_dials}"))?;
        }
        Ok(())
    });
}

#[test]
fn nothing_crosses_that_nobody_wants_or_that_is_not_exported() {
    run(async {
        let orders = patterns(&["orders.>"]);
        let out = Carried { export: orders.clone(), from_store: orders.clone(), ..Carried::default() };
        let into = Carried {
            import: patterns(&["orders.>", "secret.>"]),
            to_store: patterns(&["secret.>", "orders.a.>"]),
            ..Carried::default()
        };
        let mut a = Mesh::new("a", 1)?.link("b", out);
        let mut b = Mesh::new("b", 1)?.link("a", into);
        b.start(&[]).await?;
        a.start(&[("b", &b, "a")]).await?;
        a.linked(1).await?;
        let (source, target) = (a.store(0).await?, b.store(0).await?);
        topic(&target, "shop_all", &["orders.>", "secret.>"], 1).await?;
        topic(&source, "shop_orders", &["orders.>"], 1).await?;
        topic(&source, "shop_secret", &["secret.>"], 1).await?;
        publish(&source, "secret.x", 0..100).await?;
        publish(&source, "orders.b.x", 0..100).await?;
        ensure!(a.sent().await? == 0, "{:?}", a.leafs().await?);
        publish(&source, "orders.a.x", 0..1).await?;
        holds(&target, "shop_all", 1).await?;
        ensure!(stored(&target, "shop_all").await? == 1 && a.sent().await? > 0);
        Ok(())
    });
}

#[test]
fn a_mesh_that_dials_both_its_neighbours_passes_on() {
    run(async {
        let orders = patterns(&["orders.>"]);
        let out = Carried { export: orders.clone(), from_store: orders.clone(), ..Carried::default() };
        let into = Carried { import: orders.clone(), to_store: orders.clone(), ..Carried::default() };
        let arriving = passing(Carried { import: orders.clone(), ..Carried::default() }, &[("c", "orders.>")]);
        let leaving = Carried { export: orders, ..Carried::default() };
        let mut a = Mesh::new("a", 1)?.link("b", out);
        let mut b = Mesh::new("b", 1)?.link("a", arriving).link("c", leaving);
        let mut c = Mesh::new("c", 1)?.link("b", into);
        a.start(&[]).await?;
        c.start(&[]).await?;
        b.start(&[("a", &a, "b"), ("c", &c, "b")]).await?;
        b.linked(2).await?;
        let (source, target) = (a.store(0).await?, c.store(0).await?);
        topic(&target, "shop_orders", &["orders.>"], 1).await?;
        topic(&source, "shop_orders", &["orders.>"], 1).await?;
        publish(&source, "orders.x", 0..100).await?;
        let all = holds(&target, "shop_orders", 100).await;
        all.with_context(|| format!("{}{}{}", a.logs(), b.logs(), c.logs()))?;
        publish(&source, "orders.last", 0..1).await?;
        holds(&target, "shop_orders", 101).await?;
        ensure!(messages(&target, "shop_orders").await?.len() == 101);
        Ok(())
    });
}

#[test]
fn chains_pass_on_and_rings_do_not_go_round() {
    run(async {
        let told = ["live.>"];
        let names = [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")];
        let mut meshes = Vec::new();
        for (own, next, before) in names {
            let party =
                Mesh::new(own, 1)?.party("says", &told, &[], &[]).party("answers", &[], &["live.told"], &["live.ask"]);
            // The own events of the first leave, since it imports none of these subjects.
            meshes.push(if own == "a" {
                party.link(next, live_link(&told, &[]))
            } else {
                let to_live = patterns(&told);
                let arriving = Carried { import: to_live.clone(), to_live, ..Carried::default() };
                let leaving = Carried { export: patterns(&told), ..Carried::default() };
                party.link(before, passing(arriving, &[(next, "live.>")])).link(next, leaving)
            });
        }
        let [mut a, mut b, mut c] = <[Mesh; 3]>::try_from(meshes).map_err(|_| anyhow::anyhow!("three"))?;
        // What comes back to `a` from `c` is stored nowhere and heard by nobody: it imports nothing.
        a = a.link("c", Carried::default());
        c.start(&[]).await?;
        b.start(&[("c", &c, "b")]).await?;
        a.start(&[("b", &b, "a"), ("c", &c, "a")]).await?;
        a.linked(2).await?;
        let mut ears = Vec::new();
        for mesh in [&a, &b, &c] {
            let client = mesh.client("answers", 0).await?;
            ears.push((client.subscribe("live.told").await?, client));
        }
        let client = c.client("answers", 0).await?;
        let asked = std::sync::Arc::default();
        answer(&client, client.subscribe("live.ask").await?, &asked);
        let says = a.client("says", 0).await?;
        // Through `b`, where nobody answers.
        answered(&says, "live.ask").await.with_context(|| format!("{}{}{}", a.logs(), b.logs(), c.logs()))?;
        for (ears, _) in &mut ears {
            reaches(&says, "live.told", ears).await?;
        }
        for number in 0..50 {
            says.publish("live.told", number.to_string().into()).await?;
        }
        says.publish("live.told", "last".into()).await?;
        for (ears, _) in &mut ears {
            let heard = heard(ears, "last").await?;
            ensure!(heard.len() == 51, "heard {heard:?}");
        }
        // Of `b`, which imports these subjects, nothing leaves.
        let b_says = b.client("says", 0).await?;
        b_says.publish("live.told", "of b".into()).await?;
        heard(&mut ears[1].0, "of b").await?;
        answered(&says, "live.ask").await?;
        says.publish("live.told", "end".into()).await?;
        for index in [0, 2] {
            ensure!(heard(&mut ears[index].0, "end").await? == ["end"]);
        }
        Ok(())
    });
}

#[test]
fn a_star_of_five_sites_tells_every_site_once() {
    run(async {
        let names = ["s1", "s2", "s3", "s4", "s5"];
        let subject = |name: &str| format!("site.{name}.>");
        let mut hub = Mesh::new("hub", 1)?;
        let mut sites = Vec::new();
        for name in names {
            let own = subject(name);
            let others: Vec<String> =
                names.iter().filter(|other| **other != name).map(|other| subject(other)).collect();
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            let to: Vec<(&str, &str)> =
                names.iter().filter(|other| **other != name).map(|other| (*other, own.as_str())).collect();
            let arriving = Carried { export: patterns(&others), import: patterns(&[&own]), ..Carried::default() };
            hub = hub.link(name, passing(arriving, &to));
            let site = Mesh::new(name, 1)?.party("one", &[&own], &others, &[]);
            sites.push(site.link("hub", live_link(&[&own], &others)));
        }
        hub.start(&[]).await?;
        for site in &mut sites {
            let name = site.name;
            site.start(&[("hub", &hub, name)]).await?;
        }
        hub.linked(5).await?;
        let mut ears = Vec::new();
        for site in &sites {
            let client = site.client("one", 0).await?;
            let mut all = Vec::new();
            for name in names.iter().filter(|name| **name != site.name) {
                all.push(client.subscribe(subject(name)).await?);
            }
            client.flush().await?;
            ears.push((site.name, client, all));
        }
        let clients: Vec<(&str, Client)> = ears.iter().map(|(name, client, _)| (*name, client.clone())).collect();
        for (own, _, all) in &mut ears {
            for ((name, client), events) in clients.iter().filter(|(name, _)| name != own).zip(all) {
                reaches(client, &format!("site.{name}.x"), events).await?;
            }
        }
        for (name, client, _) in &ears {
            for number in 0..20 {
                client.publish(format!("site.{name}.x"), number.to_string().into()).await?;
            }
            client.publish(format!("site.{name}.x"), "last".into()).await?;
        }
        for (_, _, all) in &mut ears {
            for events in all {
                ensure!(heard(events, "last").await?.len() == 21);
            }
        }
        Ok(())
    });
}

/// A far side whose brokers do what they like gets no further than the lists of this side.
async fn attacked(evil_dials: bool) -> Result<()> {
    let (out, into) = (patterns(&["orders.>"]), patterns(&["in.>"]));
    let carried =
        Carried { from_store: out.clone(), to_store: into.clone(), export: out, import: into, ..Carried::default() };
    let everything = Carried { export: patterns(&["orders.>"]), import: patterns(&["in.>"]), ..Carried::default() };
    let mut good = Mesh::new("good", 1)?.link("evil", carried);
    let mut evil = Mesh::new("evil", 1)?.link("good", everything);
    evil.evil = Some(KeyPair::new_account());
    if evil_dials {
        good.start(&[]).await?;
        evil.start(&[("good", &good, "evil")]).await?;
    } else {
        evil.start(&[]).await?;
        good.start(&[("evil", &evil, "good")]).await?;
    }
    good.linked(1).await?;
    let store = good.store(0).await?;
    for (name, subjects) in [("shop_in", "in.>"), ("shop_orders", "orders.>"), ("shop_secret", "secret.>")] {
        topic(&store, name, &[subjects], 1).await?;
    }
    publish(&store, "secret.x", 0..1).await?;
    let client = evil.evil("good").await?;
    let mut ears = client.subscribe(">").await?;
    client.flush().await?;
    for reply in
        ["$JS.API.STREAM.DELETE.shop_secret", "$JS.API.STREAM.PURGE.shop_secret", "secret.x", "$EM.link.orders.x"]
    {
        client.publish_with_reply("in.x", reply.to_owned(), "{}".into()).await?;
    }
    let closed = ["$JS.API.STREAM.DELETE.shop_secret", "secret.x", "orders.x", "$EM.link.orders.x", "$EM.in.x"];
    for subject in closed {
        client.publish(subject, "{}".into()).await?;
        client.flush().await?;
    }
    publish(&store, "secret.y", 0..1).await?;
    // A forbidden publish may have cost the connection.
    eventually("the last event", SOON, async || {
        client.publish("in.last", "x".into()).await.map_err(|error| error.to_string())?;
        let all = messages(&store, "shop_in").await.map_err(|error| error.to_string())?;
        if all.iter().any(|one| one.subject.as_str() == "in.last") { Ok(Some(())) } else { Err("not yet".to_owned()) }
    })
    .await?;
    publish(&store, "orders.end", 0..1).await?;
    let found = messages(&store, "shop_secret").await?;
    ensure!(found.len() == 2, "{found:?}");
    ensure!(stored(&store, "shop_orders").await? == 1);
    // Its own words come back to it; of this side's it hears the end, and nothing before.
    let own = ["in.", "$JS.API", "secret.x", "orders.x", "$EM.", "_INBOX"];
    loop {
        let next =
            tokio::time::timeout(SOON, ears.next()).await.context("the end is not heard")?.context("an event")?;
        if next.subject.as_str() == "orders.end" {
            return Ok(());
        }
        ensure!(own.iter().any(|own| next.subject.starts_with(own)), "heard {next:?}");
    }
}

#[test]
fn a_far_side_that_means_no_good_gets_no_further_than_the_lists() {
    run(async {
        for evil_dials in [true, false] {
            Box::pin(attacked(evil_dials)).await.with_context(|| format!("evil dials: {evil_dials}"))?;
        }
        Ok(())
    });
}
