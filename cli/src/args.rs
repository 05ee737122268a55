//! The command line. The texts here are its help.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks after event meshes.
#[derive(Debug, Parser)]
#[command(name = "kubectl-eventmesh", bin_name = "kubectl eventmesh", version)]
pub struct Command {
    #[command(flatten)]
    pub access: Access,
    #[command(subcommand)]
    pub subject: Subject,
}

/// Which cluster, and where in it.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// The kubeconfig file. Default: as kubectl.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig file. Default: the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of the EventMesh. Default: the context's.
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Subject {
    /// Links between meshes.
    Link {
        #[command(subcommand)]
        action: LinkAction,
    },
}

#[derive(Debug, Subcommand)]
pub enum LinkAction {
    /// Write the Secret by which a mesh of another cluster dials this one, to be applied there.
    Generate(Generate),
    /// Tell what the Secret of a link is, and what is wrong with it. Never shows the private key.
    Inspect(Inspect),
    /// List links and how it stands with them.
    List(List),
}

/// Of a mesh that is dialled: it has `listeners.leaf`, and a link `to: {remote: {}}`.
#[derive(Debug, Args)]
pub struct Generate {
    /// The EventMesh that is dialled.
    pub mesh: String,
    /// Its link, which is `to: {remote: {}}`.
    pub link: String,
    /// Where the other cluster reaches the mesh's leaf node listener, as tls://mesh.example:7422. Default: the load balancer's address,
    /// if there is one.
    #[arg(long = "url", value_name = "URL", value_parser = leaf_url)]
    pub urls: Vec<String>,
    /// Name of the Secret in the other cluster. Default: the name that it has here.
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
    /// What to write: the Secret, with the entry for `spec.links` there as a comment; or that entry alone.
    #[arg(long, short, value_enum, default_value_t = Wanted::Secret)]
    pub output: Wanted,
    /// How long to wait for the Secret, in seconds: the operator makes it soon after the link.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    Secret,
    Entry,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// The EventMesh whose link it is.
    #[arg(required_unless_present = "file", requires = "link")]
    pub mesh: Option<String>,
    /// The link.
    pub link: Option<String>,
    /// A file with the Secret instead; `-` is the standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with = "mesh")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Of all namespaces.
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// How to write it.
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    pub output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Table,
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "must be a number of seconds".to_owned())
}

/// As the API takes it, so that what is written here can be applied there.
fn leaf_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("tls://").or_else(|| text.strip_prefix("nats://"));
    let rest = rest.ok_or("must begin with tls://, or with nats:// where the mesh has no TLS")?;
    if rest.is_empty() || rest.contains(|c: char| "/@\"\\".contains(c) || c.is_whitespace()) {
        return Err("must be tls://HOST:PORT, without a user and a path".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }

    #[test]
    fn the_reference_names_all_of_it() {
        let reference = include_str!("../../docs/reference/cli.md");
        let mut commands = vec![Command::command()];
        while let Some(command) = commands.pop() {
            for long in command.get_arguments().filter_map(|arg| arg.get_long()) {
                assert!(reference.contains(&format!("--{long}")), "--{long} of {}", command.get_name());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[rstest]
    #[case(&["link", "generate", "retail", "plant", "--url", "tls://mesh.example:7422"], true)]
    #[case(&["link", "generate", "retail", "plant", "--url", "https://mesh.example"], false)]
    #[case(&["link", "generate", "retail", "plant", "--url", "tls://user@mesh.example"], false)]
    #[case(&["link", "generate", "retail"], false)]
    #[case(&["link", "inspect", "retail", "plant", "-n", "platform"], true)]
    #[case(&["link", "inspect", "retail"], false)]
    #[case(&["link", "inspect", "--file", "-"], true)]
    #[case(&["link", "inspect"], false)]
    #[case(&["link", "inspect", "retail", "plant", "--file", "-"], false)]
    #[case(&["link", "list", "-A", "-o", "json"], true)]
    fn what_can_be_asked(#[case] args: &[&str], #[case] good: bool) {
        let all = std::iter::once("kubectl-eventmesh").chain(args.iter().copied());
        assert_eq!(Command::try_parse_from(all).is_ok(), good);
    }
}
