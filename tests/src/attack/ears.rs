//! Who hears what: ears in places where nothing forged may arrive, and attackers that listen to others.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Attempt, requests,
    wire::{Heard, Session, Speech},
    world::{World, proof},
};

type Notes = Arc<Mutex<Vec<(&'static str, String)>>>;

/// Ears of the operator, the system account and the auditor.
pub struct Ears {
    notes: Notes,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Ears {
    pub async fn open(world: &World) -> Result<Self> {
        let mut ears = Self { notes: Notes::default(), tasks: Vec::new() };
        let door = world.door(Speech::Nats).context("a door")?;
        for (who, login, subject) in [
            ("the mesh", &world.operator, ">"),
            ("the system account", &world.system, ">"),
            ("the auditor", &world.auditor, "_INBOX.auditor.>"),
        ] {
            let mut session = door.enter_surely(&proof(login)).await.context(who)?;
            session.subscribe(subject, None).await?;
            session.settle().await?;
            ears.keep(who, session);
        }
        if let Some(other) = world.other_door() {
            let mut session = other.enter_surely(&proof(&world.stranger)).await.context("the other mesh")?;
            session.subscribe(">", None).await?;
            session.settle().await?;
            ears.keep("the other mesh", session);
        }
        Ok(ears)
    }

    fn keep(&mut self, who: &'static str, mut session: Session) {
        let notes = self.notes.clone();
        self.tasks.push(tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(20));
            loop {
                tokio::select! {
                    heard = session.heard.recv() => match heard {
                        Some(Heard::Message(message)) => {
                            notes.lock().unwrap_or_else(PoisonError::into_inner).push((who, message.subject));
                        }
                        Some(Heard::Closed) | None => return,
                        Some(_) => {}
                    },
                    // Brokers hang up on those who do not answer.
                    _ = tick.tick() => {
                        if session.raw("PONG\r\n").await.is_err() {
                            return;
                        }
                    }
                }
            }
        }));
    }

    /// Who has heard something with this mark, and where.
    #[must_use]
    pub fn heard(&self, mark: &str) -> Option<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().find(|(_, subject)| subject.contains(mark)).map(|(who, subject)| format!("{who} on {subject}"))
    }

    pub fn forget(&self) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether all of them still listen.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.tasks.iter().all(|task| !task.is_finished())
    }
}

/// Something that others do while the attackers listen.
const SECRET: &str = "for-others-only";

/// Everybody subscribes to everything, then others are active.
pub async fn eavesdrop(world: &World) -> Result<Vec<Attempt>> {
    let mut spies: Vec<(String, Session, Vec<Heard>)> = Vec::new();
    for attacker in &world.attackers {
        for speech in [Speech::Nats, Speech::WebSocket] {
            let Some(door) = world.door(speech) else { continue };
            if speech == Speech::WebSocket && attacker.name != "client" {
                continue;
            }
            let name = if speech == Speech::Nats {
                attacker.name.to_owned()
            } else {
                format!("{} over WebSocket", attacker.name)
            };
            let mut session = door.enter_surely(&attacker.proof()).await.with_context(|| name.clone())?;
            for (subject, queue) in requests::LISTEN {
                session.subscribe(subject, queue).await?;
            }
            let heard = session.settle().await?;
            spies.push((name, session, heard));
        }
    }
    activity(world).await?;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut attempts = Vec::new();
    for (group, mut session, mut heard) in spies {
        heard.extend(session.hear(Duration::from_millis(50), |_| false).await);
        let messages: Vec<String> = heard
            .iter()
            .filter_map(|one| match one {
                Heard::Message(message) => {
                    Some(format!("{} {}", message.subject, String::from_utf8_lossy(&message.body)))
                }
                _ => None,
            })
            .collect();
        for (subject, queue) in requests::LISTEN {
            let refused = heard.iter().find_map(|one| match one {
                Heard::Error(text) if text.split('"').nth(1) == Some(subject) => Some(text.clone()),
                _ => None,
            });
            // Its own inbox is open to it; then all depends on what it hears.
            let overheard = if refused.is_none() { messages.first().cloned() } else { None };
            let what = queue.map_or_else(
                || format!("subscribe to {subject}"),
                |queue| format!("subscribe to {subject} in queue {queue}"),
            );
            let succeeded = overheard.is_some();
            let answer = refused.or(overheard).unwrap_or_else(|| "it hears nothing".to_owned());
            attempts.push(Attempt { group: group.clone(), what, answer, succeeded });
        }
    }
    Ok(attempts)
}

/// The operator, the auditor and a publisher do what they do; nothing is left of it but events.
async fn activity(world: &World) -> Result<()> {
    let stream = world.places.stream();
    world.broker.publish("payments.activity", SECRET).await?;
    world.broker.publish("commands.activity", SECRET).await?;
    world.broker.publish("open.app.activity", SECRET).await?;
    world.broker.stream(&stream).await?;
    world.broker.api("STREAM.NAMES", &Value::Null).await?;
    world.system_broker.client.request("$SYS.REQ.SERVER.PING", "".into()).await?;
    let door = world.door(Speech::Nats).context("a door")?;
    let mut auditor = door.enter_surely(&proof(&world.auditor)).await?;
    auditor.subscribe("_INBOX.auditor.own", None).await?;
    let info = format!("$JS.API.CONSUMER.INFO.{stream}.{}", world.places.auditors());
    let ask = super::wire::Publish { subject: info, reply: Some("_INBOX.auditor.own".into()), ..Default::default() };
    auditor.publish(&ask).await?;
    auditor.hear(Duration::from_millis(500), |heard| matches!(heard, Heard::Message(_))).await;
    world.broker.client.publish("$EM.report.x.y.z", SECRET.into()).await?;
    world.broker.client.flush().await?;
    Ok(())
}
