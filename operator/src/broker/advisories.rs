//! Listens to what others do to streams and consumers, so that drift is seen within a second or two.
//!
//! Streams: the broker's advisories after a create, an update or a delete. Consumers: the advisories, and, since an
//! edit of a consumer has none, the requests themselves; the outcome is read shortly after.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::Subscriber;
use futures::{StreamExt, stream::select_all};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{BrokerChange, BrokerError, MeshBroker};

const SUBJECTS: [&str; 7] = [
    "$JS.EVENT.ADVISORY.STREAM.CREATED.>",
    "$JS.EVENT.ADVISORY.STREAM.UPDATED.>",
    "$JS.EVENT.ADVISORY.STREAM.DELETED.>",
    "$JS.EVENT.ADVISORY.CONSUMER.DELETED.>",
    "$JS.EVENT.ADVISORY.CONSUMER.PAUSE.>",
    "$JS.API.CONSUMER.CREATE.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.>",
];

/// Time between news and the look at its outcome: a request is seen before the broker has carried it out, and a burst
/// of news about one thing is looked at once.
const SETTLE: Duration = Duration::from_millis(500);

/// What news is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// A stream was created; the operator's own creations are in the view already.
    Created(String),
    Stream(String),
    Consumer(String, String),
}

/// Runs until the mesh is removed.
pub(super) async fn run(broker: Arc<MeshBroker>) -> Result<(), BrokerError> {
    let mut subscribers: Vec<Subscriber> = Vec::new();
    for subject in SUBJECTS {
        let subscriber = broker.client.subscribe(subject).await;
        subscribers.push(subscriber.map_err(|error| BrokerError::Unavailable(error.to_string()))?);
    }
    let mut news = select_all(subscribers);
    let mut dirty = BTreeSet::new();
    let mut settle = Instant::now();
    loop {
        tokio::select! {
            () = broker.stop().cancelled() => return Ok(()),
            message = news.next() => {
                let Some(message) = message else { return Ok(()) };
                if let Some(subject) = parse(&message.subject) {
                    if dirty.is_empty() {
                        settle = Instant::now() + SETTLE;
                    }
                    dirty.insert(subject);
                }
            }
            () = sleep_until(settle), if !dirty.is_empty() => {
                for subject in std::mem::take(&mut dirty) {
                    look(&broker, subject).await;
                }
            }
        }
    }
}

async fn look(broker: &MeshBroker, subject: Subject) {
    let (outcome, change) = match subject {
        Subject::Created(name) if broker.view().stream(&name).is_some() => return,
        Subject::Created(name) => (broker.reread_stream(&name).await, BrokerChange::Stream(name)),
        Subject::Stream(name) => (broker.reread_stream(&name).await, BrokerChange::Stream(name)),
        Subject::Consumer(stream, consumer) => {
            (broker.reread_consumer(&stream, &consumer).await, BrokerChange::Consumer { stream, consumer })
        }
    };
    match outcome {
        Ok(()) => broker.announce(change),
        // The next listing sees it.
        Err(error) => debug!(mesh = %broker.key(), %error, ?change, "could not look at a change"),
    }
}

fn parse(subject: &str) -> Option<Subject> {
    let mut tokens = subject.split('.');
    let mut after = |skip: usize| tokens.by_ref().nth(skip).map(ToOwned::to_owned);
    if subject.starts_with("$JS.EVENT.ADVISORY.STREAM.CREATED.") {
        return after(5).map(Subject::Created);
    }
    if subject.starts_with("$JS.EVENT.ADVISORY.STREAM.") {
        return after(5).map(Subject::Stream);
    }
    let skip = if subject.starts_with("$JS.API.CONSUMER.CREATE.") { 4 } else { 5 };
    let (stream, consumer) = (after(skip)?, after(0)?);
    Some(Subject::Consumer(stream, consumer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_names_its_stream_or_consumer() {
        let consumer = |s: &str, c: &str| Some(Subject::Consumer(s.into(), c.into()));
        assert_eq!(parse("$JS.EVENT.ADVISORY.STREAM.DELETED.ns_t"), Some(Subject::Stream("ns_t".into())));
        assert_eq!(parse("$JS.EVENT.ADVISORY.STREAM.CREATED.ns_t"), Some(Subject::Created("ns_t".into())));
        assert_eq!(parse("$JS.EVENT.ADVISORY.CONSUMER.DELETED.ns_t.sub_ns_a"), consumer("ns_t", "sub_ns_a"));
        assert_eq!(parse("$JS.API.CONSUMER.CREATE.ns_t.sub_ns_a"), consumer("ns_t", "sub_ns_a"));
        assert_eq!(parse("$JS.API.CONSUMER.CREATE.ns_t.sub_ns_a.filter.x"), consumer("ns_t", "sub_ns_a"));
        assert_eq!(parse("$JS.API.CONSUMER.DURABLE.CREATE.ns_t.sub_ns_a"), consumer("ns_t", "sub_ns_a"));
        assert_eq!(parse("$JS.API.CONSUMER.CREATE.ns_t"), None, "an unnamed consumer is nobody's");
    }
}
