//! An event as a request to the application, and what its answer means.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use eventmesh_wire::config::sidecar::PushSubscription;
use http_body_util::Full;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use tokio::time::timeout;

use super::connections::{Answer, Connections};
use crate::endpoint::http::answer;
use crate::endpoint::http::exchange::{self, Trouble};
use crate::endpoint::http::outgoing::{self, Origin};
use crate::jetstream::Told;
use crate::route::may_cross;

/// What came of sending an event.
#[derive(Debug)]
pub enum Fate {
    /// The application has it.
    Taken,
    /// It wants to be sent less, and not before this time; this is no try.
    SlowDown(Option<Duration>, String),
    /// It did not take it, or did not say that it did.
    Refused(String),
    /// No part of it has left: the application is not there. This is no try.
    Unsent(String),
}

/// # Errors
/// Why nothing can be sent there.
pub fn path(config: &PushSubscription) -> Result<Uri, String> {
    let path = &config.path;
    if !path.starts_with('/') {
        return Err(format!("push.path: `{path}` does not begin with /"));
    }
    // As a part of a whole URL, so that it is nothing but a path.
    let uri: Result<Uri, _> = format!("http://127.0.0.1{path}").parse();
    let path = uri.ok().and_then(|uri| uri.into_parts().path_and_query);
    path.map(Uri::from).ok_or_else(|| format!("push.path: `{}` is no path of a URL", config.path))
}

/// Where the events of a subscription go.
pub struct Target {
    connections: Connections,
    path: Uri,
    timeout: Duration,
    /// What every request carries.
    host: HeaderValue,
    subscription: HeaderValue,
    stream: HeaderValue,
    /// Where events come from that do not say so themselves.
    source: String,
}

const ATTEMPT: HeaderName = HeaderName::from_static("em-attempt");
const SUBSCRIPTION: HeaderName = HeaderName::from_static("em-subscription");
const STREAM: HeaderName = HeaderName::from_static("em-stream");
const SEQUENCE: HeaderName = HeaderName::from_static("em-sequence");
const SUBJECT: HeaderName = HeaderName::from_static("em-subject");

impl Target {
    /// # Errors
    /// Why nothing can be sent there.
    pub fn new(config: &PushSubscription, namespace: &str) -> Result<Self, String> {
        let path = path(config)?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| format!("`{text}`: {error}"));
        let topic = config.stream.split_once('_');
        Ok(Self {
            connections: Connections::new(config.port),
            path,
            timeout: Duration::from_millis(config.timeout_ms),
            host: value(&format!("127.0.0.1:{}", config.port))?,
            subscription: value(&format!("{namespace}/{}", config.name))?,
            stream: value(&config.stream)?,
            source: topic
                .map_or_else(|| format!("/{}", config.stream), |(namespace, topic)| format!("/{namespace}/{topic}")),
        })
    }

    fn request(&self, message: &Message, told: &Told) -> Request<Full<Bytes>> {
        let subject = message.subject.as_str();
        let stream = self.stream.to_str().unwrap_or_default();
        let origin = Origin { source: &self.source, subject, stream, sequence: told.place.0 };
        let event = message.headers.iter().flat_map(async_nats::HeaderMap::iter);
        let event = event.flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())));
        let mut headers = outgoing::binary(event.filter(|(name, value)| may_cross(name, value)), &origin);
        self.explain(&mut headers, subject, told);
        let mut request = Request::new(Full::new(message.payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = headers;
        request
    }

    /// What the mesh says of the event, beside what its publisher says; no event brings these along.
    fn explain(&self, headers: &mut HeaderMap, subject: &str, told: &Told) {
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("eventmesh-sidecar"));
        headers.insert(ATTEMPT, told.deliveries.into());
        headers.insert(SUBSCRIPTION, self.subscription.clone());
        headers.insert(STREAM, self.stream.clone());
        headers.insert(SEQUENCE, told.place.0.into());
        if let Ok(subject) = HeaderValue::from_str(subject) {
            headers.insert(SUBJECT, subject);
        }
    }

    /// One try.
    pub async fn send(&self, message: &Message, told: &Told) -> Fate {
        let name = self.connections.name();
        match timeout(self.timeout, self.connections.send(self.request(message, told))).await {
            Ok(Ok(answer)) => self.judge(answer).await,
            Ok(Err(Trouble { before_the_request: true, message, .. })) => Fate::Unsent(message),
            Ok(Err(trouble)) => Fate::Refused(trouble.message),
            Err(_) => Fate::Refused(format!("{name} gave no answer in {} ms", self.timeout.as_millis())),
        }
    }

    async fn judge(&self, answer: Answer) -> Fate {
        let name = self.connections.name();
        let status = answer.response.status();
        if status.is_success() {
            // Its place is free for another when its connection is, so an answer without end holds up one place only.
            self.connections.finish(answer, async |response| answer::drain(response.into_body()).await).await;
            return Fate::Taken;
        }
        let wait = exchange::wait_asked_for(&answer.response);
        let complaint =
            self.connections.finish(answer, async |response| exchange::complaint(name, response).await).await;
        if exchange::asks_for_rest(status) { Fate::SlowDown(wait, complaint) } else { Fate::Refused(complaint) }
    }

    /// Closes connections that nobody has used for long; tells whether others are left.
    pub fn sweep(&self) -> bool {
        self.connections.sweep()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn target(path: &str) -> Result<Target, String> {
        let config = json!({"name": "mail", "stream": "shop_accounts", "consumer": "sub_shop_mail", "port": 8080,
            "path": path, "maxInFlight": 10, "timeoutMs": 1000});
        Target::new(&serde_json::from_value(config).unwrap(), "shop")
    }

    #[test]
    fn an_event_is_a_cloud_event_and_the_mesh_says_what_it_knows() {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Shop", "7");
        headers.insert("Em-Attempt", "99");
        headers.insert("Nats-Msg-Id", "x");
        let message = Message {
            subject: "accounts.opened".into(),
            reply: None,
            payload: Bytes::from_static(b"{}"),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        };
        let told = Told { place: (12, 1), deliveries: 3, turn: 12, pending: 0 };
        let request = target("/events?kind=a").unwrap().request(&message, &told);
        assert_eq!(request.uri(), "/events?kind=a");
        let expected = [
            ("host", "127.0.0.1:8080"),
            ("ce-specversion", "1.0"),
            ("ce-id", "shop_accounts/12"),
            ("ce-source", "/shop/accounts"),
            ("ce-type", "dev.eventmesh.event"),
            ("ce-subject", "accounts.opened"),
            ("shop", "7"),
            ("em-attempt", "3"),
            ("em-subscription", "shop/mail"),
            ("em-stream", "shop_accounts"),
            ("em-sequence", "12"),
            ("em-subject", "accounts.opened"),
        ];
        for (name, value) in expected {
            assert_eq!(request.headers()[name], value, "{name}");
        }
        assert_eq!(
            (request.headers().get("nats-msg-id"), request.headers().get_all("em-attempt").iter().count()),
            (None, 1)
        );
    }

    #[rstest]
    #[case("events", "not begin")]
    #[case("0/events", "not begin")]
    #[case("@elsewhere/", "not begin")]
    #[case("/a b", "no path")]
    fn what_is_no_path_is_told(#[case] path: &str, #[case] problem: &str) {
        let error = target(path).err().unwrap();
        assert!(error.contains(problem), "{error}");
    }
}
