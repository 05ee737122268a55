//! Push subscriptions: a real broker, a real application, and what both saw.

mod answers;
mod app;
mod faults;
mod life;
mod readiness;
mod world;
