//! How the link to an endpoint stands, told to whoever watches it.

use eventmesh_wire::report::{LastError, whole_seconds};
use jiff::Timestamp;
use tokio::sync::watch;

/// How the link stands.
#[derive(Debug, Clone, Default)]
pub struct LinkState {
    /// It can carry events.
    pub connected: bool,
    /// The other side does not want the bridge; only a change of configuration, there or here, helps.
    pub refused: bool,
    pub last_error: Option<LastError>,
}

/// The one who knows how the link stands.
pub struct Standing {
    state: watch::Sender<LinkState>,
    /// In logs: "the MQTT broker".
    peer: &'static str,
}

impl Standing {
    #[must_use]
    pub fn new(peer: &'static str) -> Self {
        Self { state: watch::channel(LinkState::default()).0, peer }
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state.borrow().connected
    }

    /// The link can carry events. The last error stays as history.
    pub fn up(&self) {
        tracing::info!(peer = self.peer, "connected");
        self.state.send_modify(|state| {
            state.connected = true;
            state.refused = false;
        });
    }

    /// The link is lost, or did not come about. `refused`: trying again does not help by itself.
    pub fn down(&self, problem: &str, refused: bool) {
        let said_before = self.state.borrow().last_error.as_ref().is_some_and(|last| last.message == problem);
        if !said_before {
            tracing::warn!(peer = self.peer, error = problem, "not connected");
        }
        let last_error = Some(LastError { message: problem.to_owned(), at: whole_seconds(Timestamp::now()) });
        self.state.send_replace(LinkState { connected: false, refused, last_error });
    }

    /// The link was ended on purpose.
    pub fn ended(&self) {
        self.state.send_modify(|state| state.connected = false);
    }
}
