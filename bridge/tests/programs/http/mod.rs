//! The HTTP endpoint against real clients and servers, and a real mesh: what each status means, and that nothing is lost.

mod authentication;
mod faults_in;
mod faults_out;
mod listener;
mod secure;
mod target;
mod world;
