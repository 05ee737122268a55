//! Why a command cannot be done, and what to do then.

/// One sentence for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no access to a cluster: {0}")]
    Access(String),
    #[error("the cluster refuses to {0}: {1}")]
    Refused(&'static str, String),
    #[error("there is no EventMesh {namespace}/{name}; `kubectl get eventmesh --all-namespaces` lists those there are")]
    NoMesh { namespace: String, name: String },
    #[error("EventMesh {mesh} has no link {link} in spec.links; {has}")]
    NoLink { mesh: String, link: String, has: String },
    #[error(
        "link {link} of EventMesh {mesh} leads to EventMesh {to} of this cluster, which needs no Secret from you; one for another \
         cluster has a link with `to: {{remote: {{}}}}`"
    )]
    LeadsHere { mesh: String, link: String, to: String },
    #[error(
        "this side dials over link {link} of EventMesh {mesh}; generate the Secret at the other side, which is dialled, and apply it \
         here as {secret}"
    )]
    Dials { mesh: String, link: String, secret: String },
    #[error(
        "EventMesh {mesh} cannot be dialled: it has no spec.listeners.leaf; add `listeners: {{leaf: {{expose: LoadBalancer}}}}`, or \
         NodePort"
    )]
    NobodyListens { mesh: String },
    #[error("Secret {secret} is not there after {seconds} s; {why}")]
    NotMade { secret: String, seconds: u64, why: String },
    #[error("there is no Secret {secret}; {why}")]
    NoSecret { secret: String, why: String },
    #[error("Secret {secret}: {problem}")]
    Unusable { secret: String, problem: String },
    #[error("cannot read {file}: {problem}")]
    File { file: String, problem: String },
}
