//! The NATS port: for each connection of the application one to the broker, signed in as the ServiceAccount.

mod carry;
mod handshake;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::carry::Carried;
use self::carry::{First, carry};
use self::handshake::{Info, LONGEST_CONNECT, Verdict};
use self::upstream::{Lines, NoLine, Stream};
use super::binding::Binding;
use super::numbers::{Numbers, Opened};
use crate::backoff::Backoff;

/// Connections at once; more wait in the kernel's queue. The brokers let in a thousand of a ServiceAccount, of all its pods.
const CONNECTIONS: usize = 1000;
/// How long an application waits for a mesh that is away, before it is told by the end of the connection. Shorter than what
/// libraries wait for a greeting, and long enough that none of them tries in a hot loop.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long both sides may take to sign in.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Before the end of a connection that the broker does not want.
const PAUSE: Duration = Duration::from_millis(500);
/// Connections with credentials that were replaced are given up when they are quiet for so long,
const QUIET: Duration = Duration::from_millis(200);
/// and at the latest after this time.
const RETIREMENT: Duration = Duration::from_mins(1);

/// What the tasks of the port share.
#[derive(Clone)]
pub struct Port {
    /// The newest that is good; `None` before the first.
    pub binding: watch::Receiver<Option<Arc<Binding>>>,
    pub numbers: Numbers,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// Accepts connections until the port is stopped.
pub async fn serve(port: Port, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = port.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, _)) => drop(port.tasks.spawn(connection(port.clone(), socket, place))),
            // Of one connection, or no file descriptor is left: others end, and then there is one.
            Err(error) => {
                tracing::warn!(%error, "can not accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(port: Port, mut application: TcpStream, _place: OwnedSemaphorePermit) {
    let _ = application.set_nodelay(true);
    let opened = tokio::select! {
        opened = open(&port.binding) => opened,
        () = gone(&application) => return,
        () = port.stop.cancelled() => return,
    };
    let (binding, broker, info) = match opened {
        Ok(open) => open,
        Err(problem) => {
            port.numbers.opened(Opened::Unreachable);
            port.numbers.trouble(&format!("the mesh can not be reached: {problem}"));
            return;
        }
    };
    let signing_in = timeout(HANDSHAKE_TIMEOUT, sign_in(&mut application, broker, info, &binding));
    let signed_in = tokio::select! {
        signed_in = signing_in => signed_in,
        () = port.stop.cancelled() => return,
    };
    match signed_in {
        Ok(Ok((broker, first))) => {
            port.numbers.opened(Opened::Carried);
            port.numbers.trouble_over();
            run(&port, application, broker, first, &binding).await;
        }
        Ok(Err(Unwelcome::Application(answer))) => {
            port.numbers.opened(Opened::Invalid);
            tracing::info!(answer, "an application did not begin as NATS clients do");
            let _ = application.write_all(format!("-ERR '{answer}'\r\n").as_bytes()).await;
            let _ = application.shutdown().await;
        }
        Ok(Err(Unwelcome::Refused(said))) => {
            port.numbers.opened(Opened::Refused);
            port.numbers.trouble(&format!("the mesh refuses the ServiceAccount's credentials ({said})"));
            sleep(PAUSE).await;
        }
        Ok(Err(Unwelcome::Gone)) | Err(_) => port.numbers.opened(Opened::Broken),
    }
}

/// Waits until the application has closed its side.
async fn gone(application: &TcpStream) {
    loop {
        let mut byte = [0];
        match application.peek(&mut byte).await {
            Ok(0) | Err(_) => return,
            // It speaks first, which no client does; whoever it is can wait.
            Ok(_) => sleep(PAUSE).await,
        }
    }
}

/// A connection to the broker, tried for a while.
async fn open(bindings: &watch::Receiver<Option<Arc<Binding>>>) -> Result<(Arc<Binding>, Stream, Info), String> {
    let end = Instant::now() + PATIENCE;
    let mut bindings = bindings.clone();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    loop {
        let binding = tokio::select! {
            binding = bindings.wait_for(Option::is_some) => binding.ok().and_then(|binding| binding.clone()),
            () = sleep_until(end) => None,
        };
        let binding = binding.ok_or("there are no credentials yet")?;
        let problem = match upstream::open(&binding).await {
            Ok((broker, info)) => return Ok((binding, broker, info)),
            Err(problem) => problem,
        };
        let next = Instant::now() + backoff.next_wait();
        if next >= end {
            sleep_until(end).await;
            return Err(problem);
        }
        sleep_until(next).await;
    }
}

/// Why a connection does not come about.
enum Unwelcome {
    /// The application is told so.
    Application(String),
    /// The broker does not want the ServiceAccount.
    Refused(String),
    Gone,
}

/// Greets the application, and lets the broker answer to whom it says it is.
async fn sign_in(
    application: &mut TcpStream,
    mut broker: Stream,
    info: Info,
    binding: &Binding,
) -> Result<(Stream, First), Unwelcome> {
    let nonce = info.told.nonce.clone();
    application.write_all(&info.for_application()).await.map_err(|_| Unwelcome::Gone)?;
    let mut said = Lines::default();
    let line = match said.next(application, LONGEST_CONNECT).await {
        Ok(Some(line)) => line,
        Ok(None) | Err(NoLine::Broken) => return Err(Unwelcome::Gone),
        Err(NoLine::TooLong) => return Err(Unwelcome::Application("Maximum Control Line Exceeded".to_owned())),
    };
    let connect = handshake::connect(&line, &binding.user, &nonce);
    let connect = connect.map_err(|answer| Unwelcome::Application(answer.to_owned()))?;
    let sent = async {
        broker.write_all(&connect).await?;
        broker.flush().await
    };
    sent.await.map_err(|_| Unwelcome::Gone)?;
    let mut first = First { to_broker: said.rest(), ..First::default() };
    let mut answers = Lines::default();
    loop {
        let Ok(Some(line)) = answers.next(&mut broker, LONGEST_CONNECT).await else { return Err(Unwelcome::Gone) };
        match handshake::judge(&line) {
            Verdict::Welcome => break,
            Verdict::Pass => first.to_application.extend([&line, b"\r\n".as_slice()].concat()),
            Verdict::Wrong(answer) => return Err(Unwelcome::Application(answer)),
            Verdict::Refused(answer) => return Err(Unwelcome::Refused(answer)),
        }
    }
    first.to_application.extend(answers.rest());
    Ok((broker, first))
}

/// Carries until one of the two ends, the sidecar stops, or other credentials are to be used.
async fn run(port: &Port, mut application: TcpStream, mut broker: Stream, first: First, binding: &Arc<Binding>) {
    let (carried, _counted) = port.numbers.connected();
    let leave = async {
        tokio::select! {
            () = port.stop.cancelled() => {},
            () = retire(port.binding.clone(), binding, &carried) => {},
        }
    };
    carry(&mut application, &mut broker, first, &carried, leave).await;
}

/// Waits until the connection has to be made anew with another binding: as soon as it is quiet then, and before the token by
/// which it was made ends, so that not all connections of an application break at the moment at which the broker cuts them.
async fn retire(mut bindings: watch::Receiver<Option<Arc<Binding>>>, own: &Arc<Binding>, carried: &Carried) {
    let other = |now: &Option<Arc<Binding>>| now.as_ref().is_some_and(|now| !Arc::ptr_eq(now, own));
    if bindings.wait_for(other).await.is_err() {
        return std::future::pending().await;
    }
    let left = ends(&own.user.jwt).map(|end| Duration::try_from(end - Timestamp::now()).unwrap_or_default());
    let end = Instant::now() + left.map_or(RETIREMENT, |left| RETIREMENT.min(left / 2));
    tokio::select! {
        () = quiet(carried) => {},
        () = sleep_until(end) => {},
    }
}

async fn quiet(carried: &Carried) {
    let mut before = carried.moved();
    loop {
        sleep(QUIET).await;
        match carried.moved() {
            now if now == before => return,
            now => before = now,
        }
    }
}

/// When a token ends; `None` when it does not.
fn ends(jwt: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let claims = BASE64URL_NOPAD.decode(jwt.split('.').nth(1)?.as_bytes()).ok()?;
    Timestamp::from_second(serde_json::from_slice::<Claims>(&claims).ok()?.exp).ok()
}
