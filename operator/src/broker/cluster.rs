//! What the brokers say of the groups in which they keep copies: the metadata, and every replicated stream and consumer.
//!
//! Of a group only its leader knows who has what, so each group is told by its leader and by nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{BrokerError, MeshBroker, api::Api, system::ask_all};

/// How long another answer is awaited: a broker that is missing may only be slow.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was said, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Names of the brokers that have answered.
    pub brokers: BTreeSet<String>,
    /// The group of the metadata; absent where there is only one broker, or none leads.
    pub meta: Option<Group>,
    /// Streams and consumers with more than one copy.
    pub groups: Vec<Group>,
}

/// Brokers that keep copies of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// For people: `stream a_b`.
    pub name: String,
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
    /// Whether every member has everything, so that one of them may be away for a while.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.leader.is_some() && self.behind.is_empty() && !self.moving
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
}

#[derive(Deserialize)]
struct Info {
    meta_cluster: Option<GroupInfo>,
    #[serde(default)]
    account_details: Vec<Account>,
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
    consumer_detail: Vec<Consumer>,
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
        let request = json!({"accounts": true, "streams": true, "consumer": true, "limit": i32::MAX}).to_string();
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
}

fn read(answers: &[Answer]) -> Cluster {
    let mut cluster = Cluster::default();
    let mut groups = BTreeMap::new();
    for Answer { server: Server { name: by }, data } in answers {
        cluster.brokers.insert(by.clone());
        let Some(info) = data else { continue };
        if let Some(meta) = info.meta_cluster.as_ref().filter(|meta| meta.leader == *by) {
            cluster.meta = Some(group("metadata".to_owned(), by, meta));
        }
        for (account, stream) in info.account_details.iter().flat_map(|a| a.stream_detail.iter().map(|s| (&a.id, s))) {
            let consumers = stream.consumer_detail.iter().map(|consumer| (&consumer.name, &consumer.cluster));
            let consumers = consumers.map(|(name, of)| (format!("consumer {name} of stream {}", stream.name), of));
            let stream = (format!("stream {}", stream.name), &stream.cluster);
            for (name, of) in std::iter::once(stream).chain(consumers) {
                let Some(of) = of.as_ref().filter(|of| !of.replicas.is_empty()) else { continue };
                let told = group(name, by, of);
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

/// A group as one broker tells of it; who does not lead it does not know who leads.
fn group(name: String, by: &str, info: &GroupInfo) -> Group {
    let names = |wanted: fn(&Peer) -> bool| -> BTreeSet<String> {
        info.replicas.iter().filter(|peer| wanted(peer)).map(|peer| peer.name.clone()).collect()
    };
    Group {
        name,
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
        let stream = json!({"name": "s", "cluster": group, "consumer_detail": [{"name": "c", "cluster": group}]});
        let alone = json!({"name": "alone", "cluster": {"name": "m", "leader": by}});
        let data = json!({"meta_cluster": group, "account_details": [{"id": "A", "stream_detail": [stream, alone]}]});
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
    fn a_group_without_a_leader_is_known_and_not_current() {
        let cluster = read(&[answer("a", "", true), answer("c", "b", true)]);
        assert_eq!((cluster.meta, cluster.groups.len()), (None, 2));
        assert!(!cluster.groups.iter().any(Group::is_current), "{:?}", cluster.groups);
    }

    #[test]
    fn a_group_whose_members_change_is_not_current() {
        let mut one = answer("b", "b", true);
        let data = one.data.as_mut().expect("data");
        data.account_details[0].stream_detail[0].cluster.as_mut().expect("a group").desired =
            Some(serde::de::IgnoredAny);
        let cluster = read(&[one]);
        assert_eq!(cluster.groups.iter().filter(|group| group.is_current()).count(), 1, "its consumer still is");
    }
}
