//! What the operator knows of the streams and consumers of one mesh. Pure data, no I/O.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::api::{BrokerError, Config, ConsumerInfo, ConsumerState, StreamInfo, StreamState};

/// A stream as last seen.
#[derive(Debug, Clone)]
pub struct StreamEntry {
    config: Box<RawValue>,
    pub state: StreamState,
}

/// A consumer as last seen.
#[derive(Debug, Clone)]
pub struct ConsumerEntry {
    config: Box<RawValue>,
    pub state: ConsumerState,
}

impl StreamEntry {
    pub fn config(&self) -> Result<Config, BrokerError> {
        Ok(serde_json::from_str(self.config.get())?)
    }
}

impl ConsumerEntry {
    pub fn config(&self) -> Result<Config, BrokerError> {
        Ok(serde_json::from_str(self.config.get())?)
    }
}

/// Streams and consumers by name. Complete while the [`MeshBroker`](super::MeshBroker) is ready.
#[derive(Debug, Clone, Default)]
pub struct View {
    streams: BTreeMap<String, StreamEntry>,
    /// By stream, then by consumer.
    consumers: BTreeMap<String, BTreeMap<String, ConsumerEntry>>,
}

impl View {
    pub fn stream(&self, name: &str) -> Option<&StreamEntry> {
        self.streams.get(name)
    }

    pub fn consumer(&self, stream: &str, name: &str) -> Option<&ConsumerEntry> {
        self.consumers.get(stream)?.get(name)
    }

    /// Names of the consumers of a stream.
    pub fn consumer_names(&self, stream: &str) -> Vec<String> {
        self.consumers.get(stream).map(|all| all.keys().cloned().collect()).unwrap_or_default()
    }

    /// Streams and names of the consumers whose names begin so.
    pub fn consumers_with_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        let named = |(stream, all): (&String, &BTreeMap<String, ConsumerEntry>)| {
            let names = all.keys().filter(|name| name.starts_with(prefix));
            names.map(|name| (stream.clone(), name.clone())).collect::<Vec<_>>()
        };
        self.consumers.iter().flat_map(named).collect()
    }

    pub fn stream_names(&self) -> Vec<String> {
        self.streams.keys().cloned().collect()
    }

    /// Stores what was seen; true when it differs from what was known.
    pub fn put_stream(&mut self, name: String, info: StreamInfo) -> bool {
        let entry = StreamEntry { config: info.config, state: info.state };
        let same = self
            .streams
            .get(&name)
            .is_some_and(|old| old.config.get() == entry.config.get() && old.state == entry.state);
        self.streams.insert(name, entry);
        !same
    }

    /// Stores what was seen; true when it differs from what was known.
    pub fn put_consumer(&mut self, info: ConsumerInfo) -> bool {
        let entry = ConsumerEntry { config: info.config, state: info.state };
        let consumers = self.consumers.entry(info.stream_name).or_default();
        let same = consumers
            .get(&info.name)
            .is_some_and(|old| old.config.get() == entry.config.get() && old.state == entry.state);
        consumers.insert(info.name, entry);
        !same
    }

    /// Forgets a stream and its consumers; true when it was known.
    pub fn remove_stream(&mut self, name: &str) -> bool {
        self.consumers.remove(name);
        self.streams.remove(name).is_some()
    }

    /// Forgets a consumer; true when it was known.
    pub fn remove_consumer(&mut self, stream: &str, name: &str) -> bool {
        self.consumers.get_mut(stream).is_some_and(|all| all.remove(name).is_some())
    }

    /// Whether a stream's consumers may have moved since they were last listed: there are some, and either the stream
    /// has changed or a consumer still had something to do.
    pub fn consumers_may_have_moved(&self, stream: &str, stream_changed: bool) -> bool {
        let known = self.consumers.get(stream);
        let listed = known.map_or(0, BTreeMap::len) as u64;
        let counted = self.streams.get(stream).map_or(0, |entry| entry.state.consumer_count);
        let busy = known.is_some_and(|all| {
            all.values().any(|c| c.state.num_pending + c.state.num_ack_pending + c.state.num_redelivered > 0)
        });
        counted != listed || listed > 0 && (stream_changed || busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(consumers: u64) -> StreamInfo {
        let text = format!(r#"{{"config":{{"name":"s"}},"state":{{"consumer_count":{consumers}}}}}"#);
        serde_json::from_str(&text).expect("a stream")
    }

    fn consumer(pending: u64) -> ConsumerInfo {
        let text = format!(r#"{{"stream_name":"s","name":"c","config":{{}},"num_pending":{pending}}}"#);
        serde_json::from_str(&text).expect("a consumer")
    }

    #[test]
    fn putting_the_same_again_is_no_change() {
        let mut view = View::default();
        assert!(view.put_stream("s".into(), stream(0)));
        assert!(!view.put_stream("s".into(), stream(0)));
        assert!(view.put_stream("s".into(), stream(1)));
    }

    #[test]
    fn consumers_are_listed_again_only_when_they_may_have_moved() {
        let mut view = View::default();
        view.put_stream("s".into(), stream(0));
        assert!(!view.consumers_may_have_moved("s", true), "no consumers");
        view.put_stream("s".into(), stream(1));
        assert!(view.consumers_may_have_moved("s", false), "one that is not known yet");
        view.put_consumer(consumer(0));
        assert!(!view.consumers_may_have_moved("s", false), "idle");
        assert!(view.consumers_may_have_moved("s", true), "the stream moved");
        view.put_consumer(consumer(4));
        assert!(view.consumers_may_have_moved("s", false), "still has events to read");
    }

    #[test]
    fn a_removed_stream_takes_its_consumers_along() {
        let mut view = View::default();
        view.put_stream("s".into(), stream(1));
        view.put_consumer(consumer(0));
        assert!(view.remove_stream("s"));
        assert!(view.consumer("s", "c").is_none());
        assert!(!view.remove_stream("s"));
    }
}
