//! A bridge beside a real Kafka: events cross both ways, and none is lost whatever is killed, cut off or refused.

mod delivery;
mod faults;
mod mapping;
mod security;
mod world;
