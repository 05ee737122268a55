//! `make demo`: examples/quickstart on the cluster, 20,000 events each way, a broker and a bridge killed in the middle,
//! and the account of what came.

use std::{
    cell::RefCell,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{Bridge, EventMesh, Subscription, Topic, bridge::MqttVersion};
use eventmesh_tests::{
    broker::Broker,
    cluster::{self, Cluster},
    flow::{Flow, Outcome},
    ledger,
    objects::{Conditions, Namespace, Object, is_ready},
    paths,
};
use serde_json::json;

const EVENTS: u32 = 20_000;
const STORES: u32 = 100;

#[tokio::main]
async fn main() -> ExitCode {
    let begun = Instant::now();
    match demo(begun).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: failed after {} s: {error:#}", begun.elapsed().as_secs());
            ExitCode::FAILURE
        }
    }
}

async fn demo(begun: Instant) -> Result<()> {
    let cluster = Cluster::connect().await?;
    let story = Story { platform: cluster.kube.namespace("platform"), shop: cluster.kube.namespace("shop"), begun };

    story.say("applying examples/quickstart: a mesh of three brokers, Topics, a Subscription and an MQTT Bridge");
    let example = paths::repository().join("examples/quickstart");
    cluster.kubectl(&["apply", "-k", &example.display().to_string()]).await?;
    if !cluster.is_local() {
        let url = format!("mqtt://{}:1883", cluster.site_host());
        story.shop.patch::<Bridge>("stores", json!({"spec": {"endpoint": {"mqtt": {"url": url}}}})).await?;
    }
    story.all_ready().await?;

    let (inbound, outbound) = story.events_through_two_kills(&cluster).await?;
    story.say("everything is Ready again:");
    story.all_ready().await?;

    println!("\n{}", ledger::head());
    println!("{}", ledger::row("in:  MQTT site -> mesh", inbound.verdict, inbound.time));
    println!("{}", ledger::row("out: mesh -> MQTT site", outbound.verdict, outbound.time));
    println!("{}", how_to_look_around(&cluster));
    let lost = inbound.verdict.lost + outbound.verdict.lost;
    println!("demo: in {}/{EVENTS} out {}/{EVENTS} lost {lost}", inbound.verdict.received, outbound.verdict.received);
    inbound.nothing_lost(EVENTS).context("in")?;
    outbound.nothing_lost(EVENTS).context("out")
}

/// The objects of examples/quickstart.
struct Story {
    platform: Namespace,
    shop: Namespace,
    begun: Instant,
}

impl Story {
    fn say(&self, text: &str) {
        println!("{:6.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    async fn all_ready(&self) -> Result<()> {
        self.ready::<EventMesh>(&self.platform, "retail").await?;
        self.ready::<Topic>(&self.shop, "sales").await?;
        self.ready::<Topic>(&self.shop, "prices").await?;
        self.ready::<Subscription>(&self.shop, "ledger").await?;
        self.ready::<Bridge>(&self.shop, "stores").await
    }

    /// Waits, and tells whenever the reason for waiting changes.
    async fn ready<K: Object + Conditions>(&self, namespace: &Namespace, name: &str) -> Result<()> {
        let title = format!("{} {}/{name}", K::kind(&()), namespace.name);
        let said = RefCell::new(String::new());
        let waiting = namespace.until::<K, _>(name, "Ready", |object| {
            if is_ready(object) {
                return Some(());
            }
            let ready = object.conditions().iter().find(|condition| condition.type_ == "Ready");
            let now = ready.map_or_else(|| "not seen yet".to_owned(), |c| format!("{}: {}", c.reason, c.message));
            if *said.borrow() != now {
                self.say(&format!("{title}: {now}"));
                *said.borrow_mut() = now;
            }
            None
        });
        if let Err(error) = waiting.await {
            eprintln!("{}", namespace.show().await);
            return Err(error);
        }
        self.say(&format!("{title}: Ready"));
        Ok(())
    }

    async fn events_through_two_kills(&self, cluster: &Cluster) -> Result<(Outcome, Outcome)> {
        let broker = cluster.broker(&self.platform, "retail").await?;
        let site = cluster.site();
        let run = format!("demo-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());

        self.say(&format!("{EVENTS} events each way, QoS 1 at the site, acknowledged publishes in the mesh"));
        let stream = eventmesh_wire::names::stream("shop", "sales");
        let (at_site, in_mesh) = ((&site, MqttVersion::V5), (&broker, stream.as_str()));
        let inbound = Flow::inbound(&run, EVENTS, at_site, |n| format!("store/s{}/sale", n % STORES), in_mesh).await?;
        let at_site = (&site, MqttVersion::V5, "store/+/price");
        let outbound = Flow::outbound(&run, EVENTS, &broker, |n| format!("prices.s{}", n % STORES), at_site).await?;

        let all = async {
            inbound.reached(EVENTS as usize / 5).await?;
            self.kill_broker(cluster, &broker, &stream).await?;
            inbound.reached(EVENTS as usize * 2 / 5).await?;
            self.kill_bridge(cluster).await?;
            anyhow::Ok(tokio::join!(inbound.finish(), outbound.finish()))
        };
        let mut tick = tokio::time::interval(Duration::from_secs(2));
        tick.tick().await;
        let telling = async {
            loop {
                tick.tick().await;
                self.say(&format!("arrived: in {:5}, out {:5}", inbound.arrivals(), outbound.arrivals()));
            }
        };
        tokio::select! {
            outcomes = all => outcomes,
            () = telling => unreachable!("it tells until the other future is done"),
        }
    }

    /// The broker that leads the stream, since that is the worst one to lose.
    async fn kill_broker(&self, cluster: &Cluster, broker: &Broker, stream: &str) -> Result<()> {
        let info = broker.stream(stream).await?.context("no stream")?;
        let leader = info["cluster"]["leader"].as_str().unwrap_or("retail-broker-0").to_owned();
        self.say(&format!("killing broker pod {leader}, the leader of stream {stream}"));
        cluster.kill_pod(&self.platform, &leader).await
    }

    async fn kill_bridge(&self, cluster: &Cluster) -> Result<()> {
        let bridge: Bridge = self.shop.get("stores").await?;
        let selector = bridge.status.and_then(|status| status.selector).context("status.selector of the Bridge")?;
        let pods = cluster::pods(&self.shop, &selector).await?;
        ensure!(!pods.is_empty(), "the Bridge {} has no pod", bridge.metadata.name.unwrap_or_default());
        self.say(&format!("killing bridge pod {}", pods[0]));
        cluster.kill_pod(&self.shop, &pods[0]).await
    }
}

fn how_to_look_around(cluster: &Cluster) -> String {
    let kubeconfig = cluster.kubeconfig().strip_prefix(paths::repository()).unwrap_or(cluster.kubeconfig()).display();
    format!(
        "
The cluster is still up. To look around:
  export KUBECONFIG=$PWD/{kubeconfig} PATH=$PWD/.build/bin:$PATH
  kubectl get eventmesh --all-namespaces                  # every mesh, Topic, Subscription and Bridge
  kubectl -n platform describe em retail                  # brokers, conditions, Events
  kubectl -n shop get emb stores -o yaml                  # the books of each route
  kubectl -n platform get pods -o wide
  kubectl -n eventmesh-system logs deploy/eventmesh-operator
make down takes it away.
"
    )
}
