//! The ways in besides the NATS protocol: port, name and configuration of each.

use std::fmt::Write as _;

use super::{
    super::{
        certificates::files::{CERTIFICATE, KEY},
        validate::ValidMesh,
    },
    config_file::{CONFIG_DIRECTORY, TLS_DIRECTORY},
};
use crate::{broker::MeshKey, link::remote};

/// A way in that is off unless the spec names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    Mqtt,
    Websocket,
    Leaf,
}

impl Listener {
    /// Name of its port, and end of its Service's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Websocket => "websocket",
            Self::Leaf => "leaf",
        }
    }

    #[must_use]
    pub fn port(self, tls: bool) -> i32 {
        match (self, tls) {
            (Self::Mqtt, true) => 8883,
            (Self::Mqtt, false) => 1883,
            (Self::Websocket, true) => 8443,
            (Self::Websocket, false) => 8080,
            (Self::Leaf, _) => 7422,
        }
    }

    /// What its port speaks, for service meshes. Not `http` for WebSocket with TLS: only the two ends can read that.
    #[must_use]
    pub fn app_protocol(self, tls: bool) -> &'static str {
        match (self, tls) {
            (Self::Websocket, false) => "kubernetes.io/ws",
            _ => "tcp",
        }
    }

    /// Name of its Service.
    #[must_use]
    pub fn service(self, mesh: &str) -> String {
        format!("{mesh}-{}", self.name())
    }

    /// Where clients inside the cluster connect.
    #[must_use]
    pub fn url(self, mesh: &MeshKey, tls: bool) -> String {
        let scheme = match (self, tls) {
            (Self::Mqtt, true) => "mqtts",
            (Self::Mqtt, false) => "mqtt",
            (Self::Websocket, true) => "wss",
            (Self::Websocket, false) => "ws",
            (Self::Leaf, true) => "tls",
            (Self::Leaf, false) => "nats",
        };
        format!("{scheme}://{}.{}.svc:{}", self.service(&mesh.name), mesh.namespace, self.port(tls))
    }
}

/// `tls { … }` of a listener for clients.
pub fn tls_block() -> String {
    format!(
        "tls {{ cert_file: \"{TLS_DIRECTORY}/{CERTIFICATE}\", key_file: \"{TLS_DIRECTORY}/{KEY}\", min_version: \"1.2\", \
         timeout: 5 }}"
    )
}

/// The listeners' part of the configuration file.
pub fn config(mesh: &ValidMesh) -> String {
    let tls = mesh.tls.has_tls();
    let remotes = remote::config(&mesh.remotes, CONFIG_DIRECTORY);
    let mut file = String::new();
    for (listener, _) in &mesh.listeners {
        let block = match listener {
            Listener::Mqtt => "mqtt",
            Listener::Websocket => "websocket",
            Listener::Leaf => "leafnodes",
        };
        let security = match (listener, tls) {
            (_, true) => format!("  {}\n", tls_block()),
            (Listener::Websocket, false) => "  no_tls: true\n".to_owned(),
            (_, false) => String::new(),
        };
        // Addresses of pods are of no use to who comes from outside.
        let advertise = if *listener == Listener::Leaf { "  no_advertise: true\n" } else { "" };
        let remotes = if *listener == Listener::Leaf { remotes.as_str() } else { "" };
        let port = listener.port(tls);
        let _ = write!(file, "{block} {{\n  listen: \"0.0.0.0:{port}\"\n{advertise}{security}{remotes}}}\n");
    }
    if !remotes.is_empty() && !mesh.listeners.iter().any(|(listener, _)| *listener == Listener::Leaf) {
        let _ = write!(file, "leafnodes {{\n{remotes}}}\n");
    }
    file
}
