//! An event as a request to the application, and what its answer means.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use eventmesh_wire::config::http::HttpMode;
use eventmesh_wire::config::sidecar::PushSubscription;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;

use crate::endpoint::http::outgoing::{Origin, Outgoing};
use crate::endpoint::http::{answer, exchange};
use crate::event::headers_of;
use crate::jetstream::Told;
use crate::route::may_cross;

/// How long a connection may take to come about. It goes to the same pod.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Shorter than any server's that is in use: some wait for no more than 2 s, and a connection inside the pod costs next to nothing.
const IDLE: Duration = Duration::from_millis(1500);

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

fn name(config: &PushSubscription) -> String {
    format!("http://127.0.0.1:{}", config.port)
}

/// # Errors
/// Why nothing can be sent there.
pub fn uri(config: &PushSubscription) -> Result<Uri, String> {
    let path = &config.path;
    if !path.starts_with('/') {
        return Err(format!("push.path: `{path}` does not begin with /"));
    }
    format!("{}{path}", name(config)).parse().map_err(|_| format!("push.path: `{path}` is no path of a URL"))
}

/// Where the events of a subscription go.
pub struct Target {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    /// As problems call it.
    name: String,
    timeout: Duration,
    /// What every request carries.
    subscription: HeaderValue,
    stream: HeaderValue,
    /// Where events come from that do not say so themselves.
    source: String,
}

impl Target {
    /// # Errors
    /// Why nothing can be sent there.
    pub fn new(config: &PushSubscription, namespace: &str) -> Result<Self, String> {
        let uri = uri(config)?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| format!("`{text}`: {error}"));
        let topic = config.stream.split_once('_');
        Ok(Self {
            client: exchange::client(exchange::tcp(CONNECT_TIMEOUT), config.max_in_flight as usize, IDLE),
            uri,
            name: name(config),
            timeout: Duration::from_millis(config.timeout_ms),
            subscription: value(&format!("{namespace}/{}", config.name))?,
            stream: value(&config.stream)?,
            source: topic
                .map_or_else(|| format!("/{}", config.stream), |(namespace, topic)| format!("/{namespace}/{topic}")),
        })
    }

    fn request(&self, message: &Message, told: &Told) -> Request<Full<Bytes>> {
        let mut headers = headers_of(message);
        headers.retain(|(name, value)| may_cross(name, value));
        let subject = message.subject.as_str();
        let stream = self.stream.to_str().unwrap_or_default();
        let origin = Origin { source: &self.source, subject, stream, sequence: told.place.0 };
        let Outgoing { mut headers, body, .. } = Outgoing::new(&headers, &message.payload, &origin, HttpMode::Binary);
        self.explain(&mut headers, subject, told);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }

    /// What the mesh says of the event, beside what its publisher says; no event brings these along.
    fn explain(&self, headers: &mut HeaderMap, subject: &str, told: &Told) {
        headers.insert(USER_AGENT, HeaderValue::from_static("eventmesh-sidecar"));
        headers.insert(HeaderName::from_static("em-attempt"), told.deliveries.into());
        headers.insert(HeaderName::from_static("em-subscription"), self.subscription.clone());
        headers.insert(HeaderName::from_static("em-stream"), self.stream.clone());
        headers.insert(HeaderName::from_static("em-sequence"), told.place.0.into());
        if let Ok(subject) = HeaderValue::from_str(subject) {
            headers.insert(HeaderName::from_static("em-subject"), subject);
        }
    }

    /// One try.
    pub async fn send(&self, message: &Message, told: &Told) -> Fate {
        let request = self.request(message, told);
        match exchange::exchange(&self.client, request, self.timeout, &self.name).await {
            Ok(response) if response.status().is_success() => {
                // Its place is free for another when its connection is, so an answer without end holds up one place only.
                answer::drain(response.into_body()).await;
                Fate::Taken
            }
            Ok(response) if exchange::asks_for_rest(response.status()) => {
                let wait = exchange::wait_asked_for(&response);
                Fate::SlowDown(wait, exchange::complaint(&self.name, response).await)
            }
            Ok(response) => Fate::Refused(exchange::complaint(&self.name, response).await),
            Err(trouble) if trouble.before_the_request => Fate::Unsent(trouble.message),
            Err(trouble) => Fate::Refused(trouble.message),
        }
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
        let told = Told { place: (12, 1), deliveries: 3, pending: 0 };
        let request = target("/events?kind=a").unwrap().request(&message, &told);
        assert_eq!(request.uri(), "http://127.0.0.1:8080/events?kind=a");
        let expected = [
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
