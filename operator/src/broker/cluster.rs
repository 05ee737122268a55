//! What the brokers say of the groups in which they keep copies: the metadata, and every replicated stream and consumer.
//!
//! Of a group only its leader knows who has what, so each group is told by its leader and by nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{BrokerError, MeshBroker, api::Api, system::ask_all, version::Version};

/// How long another answer is awaited: a broker that is missing may only be slow.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was said, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Names of the brokers that have answered, and whose storage is on.
    pub brokers: BTreeSet<String>,
    /// The group of the metadata; absent where there is only one broker, or none leads.
    pub meta: Option<Group>,
    /// Streams and consumers with more than one copy, or on their way to another broker.
    pub groups: Vec<Group>,
    /// What each broker stores, by its name.
    pub stores: BTreeMap<String, Store>,
    /// The version of each broker, by its name.
    pub versions: BTreeMap<String, Version>,
}

/// What one broker stores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Store {
    /// Streams of which it has a copy, or the only one.
    pub streams: BTreeSet<String>,
    /// Bytes that are used or promised.
    pub used: u64,
    /// Bytes that it may use.
    pub limit: u64,
}

impl Store {
    #[must_use]
    pub fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// Brokers that keep copies of one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// For people: `stream a_b`.
    pub name: String,
    /// The stream that it is of; empty for the metadata.
    pub stream: String,
    /// Copies that the stream's configuration asks for; 0 where it is no stream.
    pub copies: usize,
    /// Absent while nobody says that it leads.
    pub leader: Option<String>,
    /// The members that do not have everything, or cannot be reached.
    pub behind: BTreeSet<String>,
    /// Everybody but the leader.
    pub others: BTreeSet<String>,
    /// Whether its members are being changed.
    pub moving: bool,
}

impl Group {
    /// Whether every member has everything and none is missing, so that one of them may be away for a while.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let is_whole = self.others.len() + 1 >= self.copies;
        self.leader.is_some() && self.behind.is_empty() && !self.moving && is_whole
    }

    /// Whether the broker is one of its members.
    #[must_use]
    pub fn has(&self, broker: &str) -> bool {
        self.leader.as_deref() == Some(broker) || self.others.contains(broker)
    }

    /// Whether enough of its other members have everything, so that this broker may be away for a while.
    #[must_use]
    pub fn goes_on_without(&self, broker: &str) -> bool {
        let Some(leader) = &self.leader else { return false };
        let members = self.others.len() + 1;
        let working = self.others.iter().chain([leader]).filter(|name| !self.behind.contains(*name));
        working.filter(|name| *name != broker).count() > members / 2
    }
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    data: Option<Info>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
    #[serde(default)]
    ver: String,
}

#[derive(Deserialize)]
struct Info {
    meta_cluster: Option<GroupInfo>,
    /// Its storage is off, and it takes part in nothing.
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    account_details: Vec<Account>,
    #[serde(default)]
    storage: u64,
    #[serde(default)]
    reserved_storage: u64,
    #[serde(default)]
    config: Limits,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Limits {
    max_storage: i64,
}

#[derive(Deserialize)]
struct Account {
    id: String,
    #[serde(default)]
    stream_detail: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    name: String,
    cluster: Option<GroupInfo>,
    #[serde(default)]
    config: StreamConfig,
    #[serde(default)]
    consumer_detail: Vec<Consumer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamConfig {
    num_replicas: usize,
}

#[derive(Deserialize)]
struct Consumer {
    name: String,
    cluster: Option<GroupInfo>,
}

#[derive(Deserialize)]
struct GroupInfo {
    #[serde(default)]
    leader: String,
    #[serde(default)]
    replicas: Vec<Peer>,
    desired: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Peer {
    name: String,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
    #[serde(default)]
    pending: bool,
}

impl MeshBroker {
    /// Asks `expected` brokers for everything that they keep copies of.
    pub async fn cluster(&self, expected: usize) -> Result<Cluster, BrokerError> {
        let request =
            json!({"accounts": true, "streams": true, "consumer": true, "config": true, "limit": i32::MAX}).to_string();
        let mut messages = Vec::new();
        let asked = ask_all(self, "$SYS.REQ.SERVER.PING.JSZ", request.into(), |message| {
            messages.extend(message);
            (messages.len() < expected).then_some(PATIENCE)
        });
        asked.await.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        let answers: Result<Vec<Answer>, _> = messages.iter().map(|m| serde_json::from_slice(&m.payload)).collect();
        Ok(read(&answers?))
    }

    /// Makes the leader of the metadata hand over to another broker.
    pub async fn step_down(&self) -> Result<(), BrokerError> {
        let api = Api::new(self.system.clone());
        api.call::<_, Value>("$JS.API.META.LEADER.STEPDOWN".to_owned(), &json!({})).await.map(drop)
    }

    /// Moves the copy of a stream and of its consumers from one broker to another that has none: the new one is complete
    /// before the old one goes. Refused where no other can take it.
    pub async fn evacuate(&self, stream: &str, broker: &str) -> Result<(), BrokerError> {
        let subject = format!("$JS.API.STREAM.PEER.EVACUATE.{stream}");
        self.api().call::<_, Value>(subject, &json!({ "peer": broker })).await.map(drop)
    }

    /// Takes a member out of the metadata for good, by the name that its leader knows. Whatever it still stores is lost with it.
    pub async fn remove_peer(&self, member: &str) -> Result<(), BrokerError> {
        let request = match unnamed(member) {
            Some(id) => json!({ "peer_id": id }),
            None => json!({ "peer": member }),
        };
        Api::new(self.system.clone()).call::<_, Value>("$JS.API.SERVER.REMOVE".to_owned(), &request).await.map(drop)
    }

    /// Lets so many brokers, which are all that answer, lead the metadata for a few minutes. Only where the others are lost for good:
    /// each then has to be taken out.
    pub async fn rescue(&self, left: usize) -> Result<(), BrokerError> {
        let request = json!({ "quorum_needed": left });
        Api::new(self.system.clone()).call::<_, Value>("$JS.API.META.RESCUE".to_owned(), &request).await.map(drop)
    }
}

/// The id of a member whose name the leader does not know; there is one in what it says in place of the name.
fn unnamed(member: &str) -> Option<&str> {
    member.strip_prefix("Server name unknown")?.split_once("(peerID: ")?.1.strip_suffix(')')
}

fn read(answers: &[Answer]) -> Cluster {
    let mut cluster = Cluster::default();
    let mut groups = BTreeMap::new();
    for Answer { server: Server { name: by, ver }, data } in answers {
        if data.as_ref().is_some_and(|info| info.disabled) {
            continue;
        }
        cluster.brokers.insert(by.clone());
        cluster.versions.extend(Version::read(ver).map(|version| (by.clone(), version)));
        let Some(info) = data else { continue };
        cluster.stores.insert(by.clone(), store(info));
        if let Some(meta) = info.meta_cluster.as_ref().filter(|meta| meta.leader == *by) {
            cluster.meta = Some(group("metadata".to_owned(), ("", 0), by, meta));
        }
        for (account, stream) in info.account_details.iter().flat_map(|a| a.stream_detail.iter().map(|s| (&a.id, s))) {
            for (name, copies, of) in groups_of(stream) {
                let Some(of) = of.filter(|of| !of.replicas.is_empty() || of.desired.is_some()) else { continue };
                let told = group(name, (&stream.name, copies), by, of);
                let known = groups.entry((account.clone(), told.name.clone())).or_insert_with(|| told.clone());
                if told.leader.is_some() {
                    *known = told;
                }
            }
        }
    }
    cluster.groups = groups.into_values().collect();
    cluster
}

fn store(info: &Info) -> Store {
    let streams = info.account_details.iter().flat_map(|account| &account.stream_detail);
    Store {
        streams: streams.map(|stream| stream.name.clone()).collect(),
        used: info.storage.max(info.reserved_storage),
        limit: info.config.max_storage.try_into().unwrap_or_default(),
    }
}

/// A stream and its consumers: name, copies asked for, and who has them.
fn groups_of(stream: &Stream) -> impl Iterator<Item = (String, usize, Option<&GroupInfo>)> {
    let consumer = |one: &Consumer| format!("consumer {} of stream {}", one.name, stream.name);
    let consumers = stream.consumer_detail.iter().map(move |one| (consumer(one), 0, one.cluster.as_ref()));
    let own = (format!("stream {}", stream.name), stream.config.num_replicas.max(1), stream.cluster.as_ref());
    std::iter::once(own).chain(consumers)
}

/// A group as one broker tells of it; who does not lead it does not know who leads.
fn group(name: String, (stream, copies): (&str, usize), by: &str, info: &GroupInfo) -> Group {
    let names = |wanted: fn(&Peer) -> bool| -> BTreeSet<String> {
        info.replicas.iter().filter(|peer| wanted(peer)).map(|peer| peer.name.clone()).collect()
    };
    Group {
        name,
        stream: stream.to_owned(),
        copies,
        leader: (info.leader == by).then(|| by.to_owned()),
        behind: names(|peer| !peer.current || peer.offline || peer.pending),
        others: names(|_| true),
        moving: info.desired.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One stream `s` and its consumer `c`, as a broker tells of them; `behind` is what it says of the other two.
    fn answer(by: &str, leader: &str, current: bool) -> Answer {
        let others: Vec<Value> = ["a", "b", "c"]
            .into_iter()
            .filter(|name| *name != by)
            .map(|name| json!({"name": name, "current": current, "peer": "x", "active": 1}))
            .collect();
        let group = json!({"name": "m", "leader": leader, "replicas": others});
        let stream = json!({"name": "s", "config": {"num_replicas": 3}, "cluster": group, "consumer_detail": [{"name": "c", "cluster": group}]});
        let alone = json!({"name": "alone", "cluster": {"name": "m", "leader": by}});
        let data = json!({"meta_cluster": group, "account_details": [{"id": "A", "stream_detail": [stream, alone]}],
            "storage": 3, "reserved_storage": 5, "config": {"max_storage": 7}});
        serde_json::from_value(json!({"server": {"name": by}, "data": data})).expect("an answer")
    }

    #[test]
    fn each_group_is_told_by_its_leader() {
        // Those that follow know nothing of each other.
        let cluster = read(&[answer("a", "b", false), answer("b", "b", true), answer("c", "b", false)]);
        assert_eq!(cluster.brokers.len(), 3);
        assert!(cluster.meta.as_ref().is_some_and(Group::is_current));
        assert_eq!(cluster.groups.len(), 2, "what has one copy is no group: {:?}", cluster.groups);
        assert!(cluster.groups.iter().all(Group::is_current), "{:?}", cluster.groups);
        let behind = read(&[answer("a", "b", true), answer("b", "b", false), answer("c", "b", true)]);
        assert!(behind.groups.iter().all(|group| group.behind.len() == 2), "{:?}", behind.groups);
    }

    #[test]
    fn a_member_without_a_name_has_an_id() {
        assert_eq!(unnamed("Server name unknown at this time (peerID: KnFl9prV)"), Some("KnFl9prV"));
        assert_eq!(unnamed("m-broker-1"), None);
    }

    #[test]
    fn a_group_that_lacks_a_copy_is_not_current() {
        let mut one = answer("b", "b", true);
        let stream = &mut one.data.as_mut().expect("data").account_details[0].stream_detail[0];
        stream.cluster.as_mut().expect("a group").replicas.truncate(1);
        let cluster = read(&[one]);
        let current: Vec<_> =
            cluster.groups.iter().filter(|group| group.is_current()).map(|group| &group.name).collect();
        assert_eq!(current, ["consumer c of stream s"]);
    }

    #[test]
    fn each_broker_tells_what_it_stores() {
        let cluster = read(&[answer("a", "b", false), answer("b", "b", true)]);
        let store = &cluster.stores["a"];
        assert_eq!(
            (store.streams.iter().map(String::as_str).collect::<Vec<_>>(), store.free()),
            (vec!["alone", "s"], 2)
        );
        let copies: Vec<_> = cluster.groups.iter().map(|group| (group.stream.as_str(), group.copies)).collect();
        assert_eq!(copies, [("s", 0), ("s", 3)], "the consumer, and the stream");
        assert!(cluster.groups.iter().all(|group| group.has("a") && group.has("b") && !group.has("d")));
    }

    #[test]
    fn a_group_without_a_leader_is_known_and_not_current() {
        let cluster = read(&[answer("a", "", true), answer("c", "b", true)]);
        assert_eq!((cluster.meta, cluster.groups.len()), (None, 2));
        assert!(!cluster.groups.iter().any(Group::is_current), "{:?}", cluster.groups);
    }

    #[test]
    fn a_broker_whose_storage_is_off_is_not_one_of_them() {
        let off = json!({"server": {"name": "c"}, "data": {"disabled": true, "config": {}}});
        let off: Answer = serde_json::from_value(off).expect("an answer");
        let cluster = read(&[answer("a", "b", true), answer("b", "b", true), off]);
        assert_eq!(cluster.brokers, ["a", "b"].map(str::to_owned).into());
    }

    #[test]
    fn a_member_may_go_while_a_majority_of_the_others_has_everything() {
        let group = |behind: &[&str]| Group {
            leader: Some("a".to_owned()),
            others: ["b", "c"].map(str::to_owned).into(),
            behind: behind.iter().map(|&name| name.to_owned()).collect(),
            ..Group::default()
        };
        assert!(group(&[]).goes_on_without("a") && group(&["c"]).goes_on_without("c"));
        assert!(!group(&["c"]).goes_on_without("b") && !group(&["c"]).goes_on_without("a"));
        assert!(!Group { leader: None, ..group(&[]) }.goes_on_without("b"), "nobody leads");
    }

    #[test]
    fn a_group_whose_members_change_is_not_current() {
        let mut one = answer("b", "b", true);
        let data = one.data.as_mut().expect("data");
        data.account_details[0].stream_detail[0].cluster.as_mut().expect("a group").desired =
            Some(serde::de::IgnoredAny);
        let cluster = read(&[one]);
        assert_eq!(cluster.groups.iter().filter(|group| group.is_current()).count(), 1, "its consumer still is");
        let mut one = answer("b", "b", true);
        let alone = &mut one.data.as_mut().expect("data").account_details[0].stream_detail[1];
        alone.cluster.as_mut().expect("a group").desired = Some(serde::de::IgnoredAny);
        assert_eq!(read(&[one]).groups.iter().filter(|group| group.moving).count(), 1, "the only copy is on its way");
    }
}
