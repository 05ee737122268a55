//! Each kind of attempt, made by somebody who may: it must work, or the attempt would prove nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{
    Act, Marks, Probe, SOON,
    ears::Ears,
    read_answer,
    requests::{self, Target},
    tokens,
    wire::{Heard, Publish, Session, Speech},
    world::{World, proof},
};
use crate::wait::eventually;

const STREAM: &str = "scratch";
const CONSUMER: &str = "own";

struct Controls<'a> {
    world: &'a World,
    ears: &'a Ears,
    marks: &'a mut Marks,
    worked: usize,
}

/// How many probes work where they may.
pub async fn run(world: &World, ears: &Ears, marks: &mut Marks) -> Result<usize> {
    let mut controls = Controls { world, ears, marks, worked: 0 };
    controls.scratch().await?;
    let api = controls.api().await;
    controls.tidy_up().await?;
    api?;
    controls.heard().await?;
    controls.listening().await?;
    controls.worked += tokens::controls(world).await?;
    controls.worked += super::listeners::controls(world).await?;
    controls.worked += super::mqtt::controls(world, ears, controls.marks).await?;
    Ok(controls.worked)
}

impl Controls<'_> {
    async fn enter(&self, login: &crate::identity::Login) -> Result<Session> {
        let mut session = self.world.door(Speech::Nats).context("a door")?.enter_surely(&proof(login)).await?;
        session.subscribe("_INBOX.control", None).await?;
        Ok(session)
    }

    async fn scratch(&self) -> Result<()> {
        let broker = &self.world.broker;
        broker.create_stream(&json!({"name": STREAM, "subjects": ["scratch.>"], "allow_direct": true})).await?;
        let config = json!({"stream_name": STREAM, "config": {"durable_name": CONSUMER, "name": CONSUMER, "ack_policy": "explicit"}});
        broker.api(&format!("CONSUMER.CREATE.{STREAM}.{CONSUMER}"), &config).await?;
        for number in 0..8 {
            broker.publish(&format!("scratch.{number}"), "x").await?;
        }
        Ok(())
    }

    async fn tidy_up(&self) -> Result<()> {
        let streams = self.world.broker.api("STREAM.NAMES", &serde_json::Value::Null).await?.unwrap_or_default();
        for name in streams["streams"].as_array().into_iter().flatten().filter_map(|name| name.as_str()) {
            if name == STREAM || name.starts_with("copy_") || name.starts_with("mirror_") {
                self.world.broker.delete_stream(name).await?;
            }
        }
        Ok(())
    }

    /// The requests, as the operator and in the system account.
    async fn api(&mut self) -> Result<()> {
        let mut session = self.enter(&self.world.operator).await?;
        self.acknowledgement(&mut session).await?;
        let target = Target { stream: STREAM.into(), consumer: CONSUMER.into(), word: STREAM.into() };
        let mark = self.marks.fresh();
        for probe in requests::api(&target, &mark).iter().filter(|probe| probe.control) {
            self.must_answer(&mut session, probe).await?;
        }
        let account = self.world.operator.claims()?["nats"]["issuer_account"].as_str().unwrap_or_default().to_owned();
        let mut session = self.enter(&self.world.system).await?;
        let server = self.world.broker.client.server_info().server_id;
        for probe in requests::system(&account, &server, "").iter().filter(|probe| probe.control) {
            self.must_answer(&mut session, probe).await?;
        }
        Ok(())
    }

    async fn must_answer(&mut self, session: &mut Session, probe: &Probe) -> Result<()> {
        let Act::Request(publish) = &probe.act else { bail!("{} asks nothing", probe.what) };
        session.publish(&Publish { reply: Some("_INBOX.control".into()), ..publish.clone() }).await?;
        let heard = session.hear(SOON, |one| matches!(one, Heard::Message(_) | Heard::Error(_))).await;
        match heard.into_iter().next_back() {
            Some(Heard::Message(message)) => {
                let (text, good) = read_answer(&message);
                ensure!(good, "{} does not work where it may: {text}", probe.what);
            }
            other => bail!("{} does not work where it may: {other:?}", probe.what),
        }
        self.worked += 1;
        Ok(())
    }

    /// A consumer takes an acknowledgement whose subject was put together by hand.
    async fn acknowledgement(&mut self, session: &mut Session) -> Result<()> {
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}");
        let pull =
            Publish { subject: next, reply: Some("_INBOX.control".into()), body: b"1".to_vec(), ..Publish::default() };
        session.publish(&pull).await?;
        session.hear(SOON, |one| matches!(one, Heard::Message(_))).await;
        let pending = async || {
            let info = self.world.broker.consumer(STREAM, CONSUMER).await.map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(info.unwrap_or_default()["num_ack_pending"].as_u64().unwrap_or(9))
        };
        ensure!(pending().await == Ok(1), "no event was taken");
        let subject = format!("$JS.ACK.{STREAM}.{CONSUMER}.1.1.1.{}.0", self.marks.fresh());
        session.publish(&Publish { subject, body: b"+ACK".to_vec(), ..Publish::default() }).await?;
        eventually("an acknowledgement by hand", SOON, async || Ok((pending().await? == 0).then_some(()))).await?;
        self.worked += 1;
        Ok(())
    }

    /// What is judged by who hears it: publishes, replies and headers.
    async fn heard(&mut self) -> Result<()> {
        let mut session = self.enter(&self.world.operator).await?;
        let own = self.world.places.own_stream();
        let mut sent = Vec::new();
        let mut try_it = async |what: &str, publish: &dyn Fn(&str) -> Publish| {
            let mark = self.marks.fresh();
            session.publish(&publish(&mark)).await?;
            sent.push((what.to_owned(), mark));
            anyhow::Ok(())
        };
        let plain = |subject: String| Publish { subject, body: b"control".to_vec(), ..Publish::default() };
        try_it("publish", &|mark| plain(format!("payments.{mark}"))).await?;
        try_it("report", &|mark| plain(format!("$EM.report.x.y.{mark}"))).await?;
        try_it("reply", &|mark| Publish { reply: Some(format!("nobody.{mark}")), ..plain("open.app.x".into()) })
            .await?;
        try_it("reply of the API", &|mark| Publish {
            reply: Some(format!("nobody.{mark}")),
            ..plain(format!("$JS.API.STREAM.INFO.{own}"))
        })
        .await?;
        let trace = |mark: &str| vec![("Nats-Trace-Dest".to_owned(), format!("nobody.{mark}"))];
        try_it("trace", &|mark| Publish { headers: trace(mark), ..plain("open.app.x".into()) }).await?;
        session.settle().await?;
        self.must_be_heard(&sent).await?;
        if let (Some(door), Some(client)) =
            (self.world.door(Speech::WebSocket), self.world.attackers.iter().find(|one| one.name == "client"))
        {
            let mark = self.marks.fresh();
            let mut session = door.enter_surely(&client.proof()).await.context("WebSocket")?;
            session.publish(&plain(format!("open.press.{mark}"))).await?;
            session.settle().await?;
            self.must_be_heard(&[("publish over WebSocket".into(), mark)]).await?;
        }
        Ok(())
    }

    async fn must_be_heard(&mut self, sent: &[(String, String)]) -> Result<()> {
        for (what, mark) in sent {
            eventually(&format!("ear that hears a {what}"), SOON, async || Ok(self.ears.heard(mark).map(drop))).await?;
            self.worked += 1;
        }
        Ok(())
    }

    /// Subscriptions of the operator hear of the others.
    async fn listening(&mut self) -> Result<()> {
        for (subject, queue) in [
            (">", None),
            ("payments.>", None),
            ("$JS.API.>", None),
            ("$EM.>", None),
            ("_INBOX.>", None),
            (">", Some("thieves")),
        ] {
            let mut session = self.enter(&self.world.operator).await?;
            session.subscribe(subject, queue).await?;
            session.settle().await?;
            let mut heard = Vec::new();
            // Brokers hear of each other's subscriptions a moment later.
            for _ in 0..10 {
                self.world.broker.publish("payments.control", "x").await?;
                self.world.broker.stream(&self.world.places.stream()).await?;
                self.world.broker.client.publish("$EM.report.x.y.z", "x".into()).await?;
                self.world.broker.client.flush().await?;
                heard = session.hear(Duration::from_millis(500), |one| matches!(one, Heard::Message(_))).await;
                if !heard.is_empty() {
                    break;
                }
            }
            ensure!(heard.iter().any(|one| matches!(one, Heard::Message(_))), "{subject} hears nothing where it may");
            self.worked += 1;
        }
        Ok(())
    }
}
