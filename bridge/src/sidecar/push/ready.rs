//! Whether the application is ready for events: by its own readiness probe, and by its port.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::backoff::Backoff;
use crate::endpoint::http::exchange;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often an application that is ready is asked whether it still is, and at most how often one that is not.
const EVERY: Duration = Duration::from_secs(1);
const SOONEST: Duration = Duration::from_millis(100);

/// Ready, or why not.
pub type Health = Result<(), String>;

/// How the application says that it is ready: its readiness probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppReady {
    /// `GET`; any status from 200 to 399, as kubelets judge it.
    Http(Uri),
    /// A connection can be made.
    Tcp(String),
}

impl std::str::FromStr for AppReady {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is none of http://127.0.0.1:PORT/PATH and tcp://127.0.0.1:PORT");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (Some(scheme), Some(authority), Some(_)) = (uri.scheme_str(), uri.authority().cloned(), uri.port_u16())
        else {
            return Err(wrong());
        };
        match scheme {
            "http" => Ok(Self::Http(uri)),
            "tcp" if matches!(uri.path(), "" | "/") => Ok(Self::Tcp(authority.to_string())),
            _ => Err(wrong()),
        }
    }
}

impl AppReady {
    /// Asks again and again; what it hears is told until nobody wants to know any more.
    #[must_use]
    pub fn watch(self) -> watch::Receiver<Health> {
        let (tell, told) = watch::channel(Err("has not been asked yet".to_owned()));
        tokio::spawn(async move {
            let client = exchange::client(exchange::tcp(PATIENCE), 0, Duration::ZERO);
            let mut backoff = Backoff::new(SOONEST, EVERY);
            loop {
                let health = match &self {
                    Self::Tcp(address) => connect(address).await,
                    Self::Http(uri) => get(&client, uri).await,
                };
                let wait = if health.is_ok() {
                    backoff.reset();
                    EVERY
                } else {
                    backoff.next_wait()
                };
                put(&tell, health);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {},
                    () = tell.closed() => return,
                }
            }
        });
        told
    }
}

type Client = hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

async fn get(client: &Client, uri: &Uri) -> Health {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri.clone();
    let name = uri.to_string();
    let response = exchange::exchange(client, request, PATIENCE, &name).await.map_err(|trouble| trouble.message)?;
    let status = response.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("{name} answers {status}")) }
}

async fn connect(address: &str) -> Health {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("can not connect to {address}: {error}")),
        Err(_) => Err(format!("can not connect to {address}: no answer")),
    }
}

fn put(tell: &watch::Sender<Health>, health: Health) {
    tell.send_if_modified(|known| {
        let news = *known != health;
        *known = health;
        news
    });
}

/// The port that a subscription's events go to. Requests tell when it refuses connections; from then on it is tried until it
/// takes one.
pub struct Port {
    health: watch::Sender<Health>,
    number: watch::Sender<u16>,
}

impl Port {
    #[must_use]
    pub fn start(number: u16) -> Self {
        let this = Self {
            health: watch::Sender::new(Err("has not been tried yet".to_owned())),
            number: watch::Sender::new(number),
        };
        let (health, mut port) = (this.health.clone(), this.number.subscribe());
        tokio::spawn(async move {
            let mut backoff = Backoff::new(SOONEST, EVERY);
            loop {
                let number = *port.borrow_and_update();
                let found = connect(&format!("127.0.0.1:{number}")).await;
                let works = found.is_ok();
                put(&health, found);
                let mut told = health.subscribe();
                let next = async {
                    if works {
                        let _ = told.wait_for(Result::is_err).await;
                        backoff.reset();
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                };
                tokio::select! {
                    () = next => {},
                    changed = port.changed() => if changed.is_err() { return },
                }
            }
        });
        this
    }

    /// Another port.
    pub fn set(&self, number: u16) {
        if *self.number.borrow() != number {
            self.refuses("has not been tried yet");
            self.number.send_replace(number);
        }
    }

    /// It did not take a connection.
    pub fn refuses(&self, problem: &str) {
        put(&self.health, Err(problem.to_owned()));
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://127.0.0.1:8080/ready?full=1")]
    #[case("http://127.0.0.1:8080")]
    #[case("tcp://127.0.0.1:5432")]
    fn reads(#[case] text: &str) {
        text.parse::<AppReady>().unwrap();
    }

    #[rstest]
    #[case("https://127.0.0.1:8080/")]
    #[case("http://127.0.0.1/ready")]
    #[case("tcp://127.0.0.1:5432/x")]
    #[case("/ready")]
    #[case("")]
    fn says_what_it_takes(#[case] text: &str) {
        assert!(text.parse::<AppReady>().unwrap_err().contains("tcp://127.0.0.1:PORT"));
    }
}
