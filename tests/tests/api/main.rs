//! The operator's release binary against a real API server and a real broker, without pods.
//!
//! Most tests share one stack and its mesh `platform/retail` of one broker; each has a namespace of its own, and subjects
//! that begin with a word of its own. Tests that take the mesh, the broker or the operator away have a stack to themselves.

mod attack;
mod bridges;
mod dead_letter_faults;
mod dead_letters;
mod faults;
mod identities;
mod injection;
mod leaks;
mod links;
mod lost_volumes;
mod meshes;
mod mirrors;
mod refusals;
mod remote_links;
mod rolls;
mod scale;
mod service_mesh;
mod subscriptions;
mod tls;
mod topics;
mod uninstall;
mod versions;
mod volumes;
mod walls;

use anyhow::{Context, Result, anyhow};
use eventmesh_tests::{
    RUNTIME,
    broker::Broker,
    brokers,
    objects::{Namespace, object},
    stack::{MESH, Stack},
};
use serde_json::Value;
use tokio::sync::OnceCell;

/// What a test on the shared stack works with.
struct Test<'a> {
    stack: &'a Stack,
    /// The test's own namespace.
    ns: &'a Namespace,
    broker: Broker,
}

/// Runs a test on the shared stack in a namespace `t-<name>-…`.
fn shared(name: &str, test: impl AsyncFnOnce(&Test<'_>) -> Result<()>) -> Result<()> {
    // A stack that cannot start fails every test at once.
    static SHARED: OnceCell<Result<Stack, String>> = OnceCell::const_new();
    RUNTIME.block_on(async {
        let start = async || Stack::start("api").await.map_err(|error| format!("{error:#}"));
        let stack = SHARED.get_or_init(start).await.as_ref().map_err(|error| anyhow!(error.clone()))?;
        let run = async |ns: &Namespace| {
            let broker = stack.broker(&stack.mesh(), MESH).await?;
            test(&Test { stack, ns, broker }).await
        };
        stack.kube.with_namespace(name, run).await
    })
}

/// Runs a test on a stack of its own, without a mesh.
fn alone(name: &str, test: impl AsyncFnOnce(&mut Stack, &Namespace) -> Result<()>) -> Result<()> {
    RUNTIME.block_on(async {
        let mut stack = Stack::without_mesh(name).await?;
        let kube = stack.kube.clone();
        kube.with_namespace(name, async |ns| test(&mut stack, ns).await).await
    })
}

impl Test<'_> {
    /// The name of the stream of a Topic of the test's namespace.
    fn stream_name(&self, topic: &str) -> String {
        eventmesh_wire::names::stream(&self.ns.name, topic)
    }

    async fn stream(&self, topic: &str) -> Result<Value> {
        let name = self.stream_name(topic);
        self.broker.stream(&name).await?.with_context(|| format!("there is no stream {name}"))
    }

    /// A Topic on the shared mesh, with more of its spec in `more`.
    fn topic(name: &str, more: &str) -> String {
        object("Topic", name, &format!("  mesh: {{name: retail, namespace: platform}}\n{more}"))
    }
}

/// Compares the fields that `wanted` has.
#[track_caller]
fn assert_fields(found: &Value, wanted: &Value) {
    for (field, value) in wanted.as_object().into_iter().flatten() {
        assert_eq!(&found[field], value, "field {field} of {found:#}");
    }
}
