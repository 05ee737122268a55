//! What the tests of the whole system share. Nothing here judges: tests and benchmarks do.
//!
//! - [`child`]: programs that end with the test.
//! - [`apiserver`], [`stack`]: a real API server, broker and operator without a cluster.
//! - [`cluster`]: the cluster that `make up` starts, and the faults that can be done to it.
//! - [`process`]: brokers and bridges as child processes, without a cluster.
//! - [`objects`]: Kubernetes objects of one namespace: apply, wait, look.
//! - [`broker`], [`mqtt`]: events into and out of the mesh and the site outside.
//! - [`ledger`], [`flow`]: what was sent and received, and what follows from it.

pub mod apiserver;
pub mod broker;
pub mod child;
pub mod cluster;
pub mod flow;
pub mod ledger;
pub mod mqtt;
pub mod objects;
pub mod paths;
pub mod process;
pub mod stack;
pub mod wait;

use std::sync::LazyLock;

use tokio::runtime::Runtime;

/// One runtime for all tests of a binary: clients that tests share must not end with the test that made them.
#[expect(clippy::expect_used, reason = "without a runtime there is no test that could report the failure")]
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime"));
