//! The client side of a target: connections, and what is sent with every request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use data_encoding::BASE64;
use eventmesh_wire::config::http::{HttpTarget, HttpTargetAuthentication, HttpUrl};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use ring::hmac;
use rustls::pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tower_service::Service as _;

use super::exchange::{self, Trouble};
use super::rate::Bucket;
use super::signature;
use crate::tls;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed before most servers close them.
const IDLE: Duration = Duration::from_secs(15);

/// Everything that one configuration of a target says, ready to be used.
pub struct Link {
    pub config: HttpTarget,
    pub keys: Vec<hmac::Key>,
    /// Room for requests on their way.
    pub room: Arc<Semaphore>,
    url: HttpUrl,
    origin: Uri,
    headers: HeaderMap,
    connector: HttpsConnector<HttpConnector>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    rate: Option<Arc<Bucket>>,
    /// The target asked to be left alone until then.
    not_before: Mutex<Option<Instant>>,
    answered: AtomicBool,
}

impl Link {
    /// # Errors
    /// What `validate` would have found, and certificates that can not be used.
    pub fn new(config: &HttpTarget, before: Option<&Self>) -> anyhow::Result<Self> {
        let url = HttpUrl::parse(&config.url).map_err(|problem| anyhow::anyhow!(problem))?;
        let connector = connector(config)?;
        let client = exchange::client(connector.clone(), config.max_concurrency as usize, IDLE);
        let kept =
            before.and_then(|before| before.rate.as_ref()).filter(|bucket| Some(bucket.limit) == config.rate_limit);
        let rate = kept.cloned().or_else(|| Some(Arc::new(Bucket::new(config.rate_limit?, Instant::now()))));
        Ok(Self {
            keys: signature::webhook_keys(&config.signing_secrets),
            room: Arc::new(Semaphore::new(config.max_concurrency as usize)),
            origin: url.origin().parse().context("the URL can not be used")?,
            headers: headers(config)?,
            config: config.clone(),
            url,
            connector,
            client,
            rate,
            not_before: Mutex::new(None),
            answered: AtomicBool::new(false),
        })
    }

    /// As problems call it: without the path, which may be anyone's.
    #[must_use]
    pub fn name(&self) -> String {
        self.url.origin()
    }

    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.config.timeout_ms.into())
    }

    /// Makes a connection as a request would, and closes it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn probe(&self) -> Result<(), Trouble> {
        match timeout(CONNECT_TIMEOUT, self.connector.clone().call(self.origin.clone())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(exchange::trouble(&self.name(), error.as_ref(), true)),
            Err(_) => Err(Trouble {
                message: format!("can not connect to {}: no answer in {} s", self.name(), CONNECT_TIMEOUT.as_secs()),
                refused: false,
                before_the_request: true,
            }),
        }
    }

    /// # Errors
    /// Why no request can be made.
    pub fn request(&self, path: &str, event: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let uri = format!("{}{}{path}", self.origin.to_string().trim_end_matches('/'), self.url.path);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().map_err(|error| format!("`{path}` is no path of a URL: {error}"))?;
        *request.headers_mut() = event;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        Ok(request)
    }

    /// # Errors
    /// Why there is no answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Body>, Trouble> {
        exchange::exchange(&self.client, request, self.timeout(), &self.name()).await
    }

    /// Waits while the rate limit, or the target itself, wants no request.
    pub async fn pause(&self) {
        let asked = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = asked {
            tokio::time::sleep_until(until).await;
        }
        if let Some(bucket) = &self.rate {
            tokio::time::sleep(bucket.reserve(Instant::now())).await;
        }
    }

    /// The target asked for this long without requests.
    pub fn rest(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut asked = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = Some(asked.map_or(until, |known| known.max(until)));
    }

    /// The target has answered a request, so the credentials are good.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether it has since this was last asked.
    pub fn has_answered(&self) -> bool {
        self.answered.swap(false, Ordering::Relaxed)
    }
}

fn connector(config: &HttpTarget) -> anyhow::Result<HttpsConnector<HttpConnector>> {
    // Earlier than a request's own limit: a target that does not even connect is away, and not slow.
    let tcp = exchange::tcp(CONNECT_TIMEOUT.min(Duration::from_millis(config.timeout_ms.into()) / 2));
    let tls = tls::of_endpoint(config.tls.as_ref())?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let name = config.tls.as_ref().and_then(|tls| tls.server_name.clone());
    let builder = match name.map(ServerName::try_from).transpose().context("the server name is no name")? {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => builder,
    };
    Ok(builder.enable_http1().wrap_connector(tcp))
}

/// What every request carries beside its event.
fn headers(config: &HttpTarget) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("eventmesh-bridge"));
    for (name, value) in &config.headers {
        let secret = secret(value.expose()).with_context(|| format!("the header `{name}` can not be sent"))?;
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, secret);
    }
    let authorization = match &config.authentication {
        None => return Ok(headers),
        Some(HttpTargetAuthentication::Bearer { token }) => format!("Bearer {}", token.expose()),
        Some(HttpTargetAuthentication::Basic { username, password }) => {
            format!("Basic {}", BASE64.encode(format!("{username}:{}", password.expose()).as_bytes()))
        }
    };
    headers.insert(AUTHORIZATION, secret(&authorization).context("the credentials can not be sent")?);
    Ok(headers)
}

/// A value that no log shows.
fn secret(value: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn link(config: &Value) -> Link {
        Link::new(&serde_json::from_value(config.clone()).unwrap(), None).unwrap()
    }

    #[test]
    fn a_request_has_the_path_of_both_and_what_the_configuration_adds() {
        let config = json!({
            "url": "https://host:8443/base/", "authentication": {"bearer": {"token": "hunter2"}},
            "headers": {"X-Key": "hunter3"},
        });
        let link = link(&config);
        let mut event = HeaderMap::new();
        event.insert("x-key", HeaderValue::from_static("the event's own"));
        let request = link.request("/orders/7", event, Bytes::from_static(b"x")).unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string().as_str()),
            (&Method::POST, "https://host:8443/base/orders/7")
        );
        assert_eq!(request.headers()["authorization"], "Bearer hunter2");
        assert_eq!(request.headers()["x-key"], "hunter3");
        assert!(!format!("{:?}", request.headers()).contains("hunter"), "a secret shows");
    }

    #[test]
    fn basic_credentials_are_encoded() {
        let config = json!({"url": "http://host", "authentication": {"basic": {"username": "Aladdin", "password": "open sesame"}}});
        let request = link(&config).request("/", HeaderMap::new(), Bytes::new()).unwrap();
        assert_eq!(request.headers()["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(request.uri().to_string(), "http://host:80/");
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_asks_for_rest_gets_it() {
        let link = link(&json!({"url": "http://host"}));
        let begun = Instant::now();
        link.rest(Duration::from_secs(7));
        link.rest(Duration::from_secs(3));
        link.pause().await;
        assert!(begun.elapsed() >= Duration::from_secs(7));
    }
}
