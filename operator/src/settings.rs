//! The command line and the environment of the operator.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The Event Mesh Operator.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Command {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run the controllers until SIGTERM.
    Run(Settings),
}

/// Settings of a running operator.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    pub images: Images,
    /// Address of the brokers of a mesh; `{mesh}` and `{namespace}` are replaced by the `EventMesh`'s.
    #[arg(long, env = "BROKER_ADDRESS", default_value = "nats://{mesh}-nats.{namespace}.svc:4222")]
    pub broker_address: String,
    /// Where health and metrics are served.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:8080")]
    pub admin_addr: SocketAddr,
    /// Where the webhook that injects sidecars is served.
    #[arg(long, env = "WEBHOOK_ADDR", default_value = "0.0.0.0:9443")]
    pub webhook_addr: SocketAddr,
    /// More DNS names and IP addresses by which API servers reach the webhook, where they do not use its Service.
    #[arg(long = "webhook-name", env = "WEBHOOK_NAMES", value_delimiter = ',')]
    pub webhook_names: Vec<String>,
    /// Run the controllers only while holding the Lease `eventmesh-operator`; needed with more than one replica.
    #[arg(long, env = "LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Name of this pod: the identity in the Lease and in Events.
    #[arg(long, env = "POD_NAME", default_value = "eventmesh-operator")]
    pub pod_name: String,
    /// Namespace of this pod, which holds the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "eventmesh-system")]
    pub pod_namespace: String,
    /// Form of the log lines.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// Images of what the operator deploys.
#[derive(Debug, Clone, Args)]
pub struct Images {
    /// Image of the brokers where an `EventMesh` names none.
    #[arg(long = "broker-image", env = "BROKER_IMAGE")]
    pub broker: String,
    /// Image of the data plane: bridge pods, sidecars, and the check of a broker's volume.
    #[arg(long = "bridge-image", env = "BRIDGE_IMAGE")]
    pub bridge: String,
}

#[cfg(test)]
impl Images {
    /// The same in each run.
    pub fn fixed() -> Self {
        Self { broker: "registry.example/broker:1".to_owned(), bridge: "registry.example/bridge:1".to_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}
