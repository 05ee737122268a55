//! What the tests of the whole system share. Nothing here judges: tests and benchmarks do.
//!
//! - [`child`]: programs that end with the test.
//! - [`apiserver`], [`stack`]: a real API server, broker and operator without a cluster.
//! - [`cluster`]: the cluster that `make up` starts, and the faults that can be done to it.
//! - [`mesh_broker`]: a broker that runs what the operator has made for it; [`cli`]: `kubectl eventmesh`.
//! - [`process`]: brokers and bridges as child processes, without a cluster.
//! - [`objects`]: Kubernetes objects of one namespace: apply, wait, look.
//! - [`image`]: programs out of their images, without a node.
//! - [`pod_security`]: what is open about a pod.
//! - [`tls`]: whom a client trusts, and what a server shows.
//! - [`broker`], [`mqtt`], [`kafka`], [`amqp091`], [`amqp1`]: events into and out of the mesh and the sites outside.
//! - [`http`]: events in and out by HTTP.
//! - [`attack`]: what must not work, tried as each kind of identity.
//! - [`bench`]: how fast bridges and client libraries are.
//! - [`ledger`], [`flow`]: what was sent and received, and what follows from it.
//! - [`operations`]: what operations do to a mesh under load.
//! - [`brokers`]: the pods of the brokers of a stack. [`faults`]: what brokers do that are paused, full or spoilt.
//! - [`links`]: events over links between meshes of two clusters.
//! - [`accounts`]: the example of that name, without a cluster and on one.

pub mod accounts;
pub mod amqp091;
pub mod amqp1;
pub mod apiserver;
pub mod attack;
pub mod bench;
pub mod bridges;
pub mod broker;
pub mod brokers;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod faults;
pub mod flow;
pub mod http;
pub mod identity;
pub mod image;
pub mod kafka;
pub mod ledger;
pub mod links;
pub mod mesh_broker;
pub mod mqtt;
pub mod objects;
pub mod operations;
pub mod paths;
pub mod pod_security;
pub mod process;
pub mod rows;
pub mod stack;
pub mod tls;
pub mod uninstall;
pub mod wait;

use std::sync::LazyLock;

use tokio::runtime::Runtime;

/// One runtime for all tests of a binary: clients that tests share must not end with the test that made them.
#[expect(clippy::expect_used, reason = "without a runtime there is no test that could report the failure")]
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime"));
