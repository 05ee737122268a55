//! The control plane of the Event Mesh Operator.
//!
//! Watches fill the [`cache`] and, by the rules of [`wake`], the queues of five controllers. Each controller makes one
//! object true in small steps: resolve, validate, build, apply, status. [`broker`] is the port to the brokers,
//! [`engine`] what is around every controller. `docs/architecture.md` tells how they fit together.

pub mod admin;
pub mod bridge;
pub mod broker;
pub mod cache;
pub mod dead_letters;
pub mod engine;
pub mod identity;
pub mod injection;
pub mod labels;
pub mod leftovers;
pub mod link;
pub mod mesh;
pub mod metrics;
pub mod network;
pub mod pki;
pub mod pods;
pub mod refs;
pub mod run;
pub mod service_mesh;
pub mod settings;
pub mod status_values;
pub mod subjects;
pub mod subscription;
pub mod topic;
pub mod trust;
pub mod wake;
