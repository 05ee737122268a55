//! A client that speaks MQTT: all clients that do share an account, so here the rights of each are all that parts them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Attempt, Marks, SOON,
    devices::{Device, Hello, PUBACK, PUBCOMP, PUBREC, Packet, SUBACK},
    ears::Ears,
    wire::Trust,
    world::World,
};
use crate::wait::eventually;

const GROUP: &str = "client over MQTT";
const SILENCE: Duration = Duration::from_millis(900);
/// What the broker answers to a subscription that it refuses.
const REFUSED: u8 = 0x80;

struct Press<'a> {
    address: &'a str,
    trust: &'a Trust,
    token: &'a str,
}

impl Press<'_> {
    fn hello(&self, id: &str) -> Hello {
        Hello { id: id.to_owned(), user: "press-42".into(), password: self.token.to_owned(), ..Hello::default() }
    }

    async fn enter(&self, id: &str) -> Result<Device> {
        Device::enter_surely(self.address, self.trust, &self.hello(id)).await
    }
}

fn press(world: &World) -> Option<Press<'_>> {
    Some(Press { address: world.addresses.mqtt.as_deref()?, trust: &world.trust, token: world.device.as_deref()? })
}

fn words(packets: &[Packet]) -> String {
    let one = |packet: &Packet| match packet {
        Packet::Answer(SUBACK, REFUSED) => "subscription refused".to_owned(),
        Packet::Answer(SUBACK, qos) => format!("subscribed with quality {qos}"),
        Packet::Answer(PUBACK | PUBREC | PUBCOMP, _) => "taken".to_owned(),
        Packet::Answer(kind, code) => format!("packet {kind} {code}"),
        Packet::Publish(topic, _) => format!("heard {topic}"),
        Packet::Closed => "it hung up".to_owned(),
    };
    if packets.is_empty() { "silence".to_owned() } else { packets.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// All attempts.
pub async fn run(world: &World, ears: &Ears, marks: &mut Marks) -> Result<Vec<Attempt>> {
    let Some(press) = press(world) else { return Ok(Vec::new()) };
    let mut attempts = publishes(world, &press, ears, marks).await?;
    attempts.extend(subscriptions(world, &press).await?);
    attempts.extend(logins(world, &press).await?);
    attempts.extend(sessions(world, &press).await?);
    Ok(attempts)
}

async fn publishes(world: &World, press: &Press<'_>, ears: &Ears, marks: &mut Marks) -> Result<Vec<Attempt>> {
    let acknowledgement = world.acknowledgement("{}").replace('.', "/");
    let topics = [
        "payments/{}",
        "open/secret/{}",
        "commands/{}",
        "nobody/{}",
        "$SYS/REQ/SERVER/{}/LDM",
        "$JS/API/STREAM/DELETE/{}",
        "$EM/report/x/y/{}",
        "$MQTT/msgs/payments/{}",
        "$MQTT/sub/{}",
        "_INBOX/auditor/{}",
        "_R_/{}",
        acknowledgement.as_str(),
    ];
    let mut sent = Vec::new();
    for topic in topics {
        for (qos, retain) in [(0, false), (1, false), (2, false), (1, true)] {
            let mark = marks.fresh();
            let topic = topic.replace("{}", &mark);
            let mut device = press.enter(&format!("attack-{mark}")).await?;
            device.publish(&topic, b"+TERM", qos, retain).await?;
            let what = format!("publish to {topic}, quality {qos}{}", if retain { ", retained" } else { "" });
            sent.push((what, mark, device));
        }
        for (retain, qos) in [(false, 0)] {
            let mark = marks.fresh();
            let topic = topic.replace("{}", &mark);
            let hello = Hello { will: Some((topic.clone(), "will".into())), ..press.hello(&format!("attack-{mark}")) };
            if let Ok(device) = Device::enter(press.address, press.trust, &hello).await {
                device.die().await;
            }
            let mut device = press.enter(&format!("attack-after-{mark}")).await?;
            device.subscribe("open/news/none", qos).await?;
            let what = format!("will to {topic}{}", if retain { ", retained" } else { "" });
            sent.push((what, mark, device));
        }
    }
    let mut attempts = Vec::new();
    tokio::time::sleep(SILENCE).await;
    for (what, mark, mut device) in sent {
        let answer = words(&device.hear(Duration::from_millis(20), |_| false).await);
        let heard = ears.heard(&mark);
        let succeeded = heard.is_some();
        let answer = heard.map_or(answer, |heard| format!("heard by {heard}"));
        attempts.push(Attempt { group: GROUP.into(), what, answer, succeeded });
    }
    Ok(attempts)
}

async fn subscriptions(world: &World, press: &Press<'_>) -> Result<Vec<Attempt>> {
    let filters = [
        "#",
        "+",
        "+/+",
        "+/#",
        "payments/#",
        "payments/+",
        "commands/#",
        "commands/activity",
        "open/app/#",
        "open/#",
        "$MQTT/#",
        "$MQTT/sub/#",
        "$MQTT/msgs/#",
        "$MQTT/deliver/#",
        "$MQTT/JSA/#",
        "$JS/#",
        "$JS/API/#",
        "$SYS/#",
        "$EM/#",
        "_INBOX/#",
        "/#",
        "$share/thieves/payments/#",
    ];
    let mut spies = Vec::new();
    for filter in filters {
        for qos in 0..3 {
            let mut device = press.enter(&format!("spy-{}-{qos}", spies.len())).await?;
            device.subscribe(filter, qos).await?;
            let mut heard =
                device.hear(Duration::from_secs(5), |packet| matches!(packet, Packet::Answer(SUBACK, _))).await;
            heard.retain(|packet| !matches!(packet, Packet::Publish(..)));
            spies.push((filter, qos, device, heard));
        }
    }
    // Others: one that listens with quality 1, so that the broker hands events to it in its own way.
    let mut other = other_device(world, "press-43").await?;
    other.subscribe("commands/+", 1).await?;
    other.hear(SOON, |packet| matches!(packet, Packet::Answer(SUBACK, _))).await;
    let heard = until_heard(world, "commands.others", &mut other).await?;
    ensure!(heard, "the other client hears nothing itself");
    tokio::time::sleep(SILENCE).await;
    let mut attempts = Vec::new();
    for (filter, qos, mut device, mut heard) in spies {
        heard.extend(device.hear(Duration::from_millis(20), |_| false).await);
        let succeeded = heard.iter().any(|packet| matches!(packet, Packet::Publish(..)));
        let what = format!("subscribe to {filter}, quality {qos}");
        attempts.push(Attempt { group: GROUP.into(), what, answer: words(&heard), succeeded });
    }
    Ok(attempts)
}

async fn other_device(world: &World, id: &str) -> Result<Device> {
    let address = world.addresses.mqtt.as_deref().context("a port")?;
    let token = world.other_device.clone().context("a token")?;
    let hello = Hello { id: id.to_owned(), user: "press-43".into(), password: token, resume: true, ..Hello::default() };
    Device::enter_surely(address, &world.trust, &hello).await.context("the other client")
}

async fn logins(world: &World, press: &Press<'_>) -> Result<Vec<Attempt>> {
    let mut wrong = vec![
        ("anonymous".to_owned(), String::new(), String::new()),
        ("a guessed password".to_owned(), "press-42".to_owned(), "press-42".to_owned()),
        ("algorithm none".to_owned(), "press-42".to_owned(), super::wire::unsigned(press.token)),
        (
            "old signature, later end".to_owned(),
            "press-42".to_owned(),
            super::wire::changed(press.token, |claims| claims["exp"] = 4_000_000_000_u64.into())?,
        ),
        (
            "old signature, name of the other".to_owned(),
            "press-43".to_owned(),
            super::wire::changed(press.token, |claims| claims["name"] = "mqtt/press-43".into())?,
        ),
        ("token of the operator".to_owned(), "x".to_owned(), world.operator.jwt.clone()),
        ("token of the system account".to_owned(), "x".to_owned(), world.system.jwt.clone()),
        ("token of the other mesh".to_owned(), "x".to_owned(), world.stranger.jwt.clone()),
        ("token of the auditor".to_owned(), "x".to_owned(), world.auditor.jwt.clone()),
    ];
    for attacker in &world.attackers {
        wrong.push((
            format!("NATS token of the {} as a password", attacker.name),
            "press-42".into(),
            attacker.login.jwt.clone(),
        ));
    }
    let mut attempts = Vec::new();
    for (what, user, password) in wrong {
        let hello = Hello { id: "wrong".into(), user, password, ..Hello::default() };
        let (answer, succeeded) = match Device::enter(press.address, press.trust, &hello).await {
            Ok(_) => ("let in".to_owned(), true),
            Err(error) => (format!("{error:#}"), false),
        };
        attempts.push(Attempt { group: "logins over MQTT".into(), what, answer, succeeded });
    }
    Ok(attempts)
}

/// The session of another client: its name is no secret, its client id is one.
async fn sessions(world: &World, press: &Press<'_>) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    let mut add = |what: &str, answer: String, succeeded| {
        attempts.push(Attempt {
            group: "sessions of another MQTT client".into(),
            what: what.into(),
            answer,
            succeeded,
        });
    };
    let secret = world.other_session.clone().context("a client id")?;
    let mut other = other_device(world, &format!("{secret}-session")).await?;
    other.subscribe("commands/+", 1).await?;
    other.hear(SOON, |packet| matches!(packet, Packet::Answer(SUBACK, _))).await;
    let taken =
        Device::enter(press.address, press.trust, &Hello { resume: true, ..press.hello("press-43-session") }).await;
    let cut_off =
        other.hear(Duration::from_millis(600), |packet| *packet == Packet::Closed).await.contains(&Packet::Closed);
    add(
        "connect under the other's client id",
        if cut_off { "the other was cut off".into() } else { "the other stays".into() },
        cut_off,
    );
    match taken {
        Err(error) => add("hear the other's events through its session", format!("{error:#}"), false),
        Ok(mut device) => {
            world.broker.publish("commands.session", "for-press-43-only").await?;
            let heard = device.hear(Duration::from_millis(1500), |packet| matches!(packet, Packet::Publish(..))).await;
            let succeeded = heard.iter().any(|packet| matches!(packet, Packet::Publish(..)));
            add("hear the other's events through its session", words(&heard), succeeded);
        }
    }
    // What waits for a client that is away.
    for (id, resume) in [("press-43-away", true), ("press-43-gone", false)] {
        let how = if resume { "resumed" } else { "ended" };
        let own = format!("{secret}-{how}");
        something_waits(world, &own).await?;
        match Device::enter(press.address, press.trust, &Hello { resume, ..press.hello(id) }).await {
            Err(error) => add(&format!("hear what waits in a session that is {how}"), format!("{error:#}"), false),
            Ok(mut device) => {
                let heard =
                    device.hear(Duration::from_millis(1500), |packet| matches!(packet, Packet::Publish(..))).await;
                let succeeded = heard.iter().any(|packet| matches!(packet, Packet::Publish(..)));
                add(&format!("hear what waits in a session that is {how}"), words(&heard), succeeded);
                device.die().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let left = it_has_waited(world, &own).await?;
        let answer = if left { "it is still there" } else { "it is lost" };
        add(&format!("take away what waits in a session that is {how}"), answer.into(), !left);
    }
    Ok(attempts)
}

/// Publishes until a device hears it: brokers hear of each other's subscriptions a moment later.
async fn until_heard(world: &World, subject: &str, device: &mut Device) -> Result<bool> {
    for _ in 0..60 {
        world.broker.publish(subject, "for-others-only").await?;
        let heard = device.hear(Duration::from_millis(500), |packet| matches!(packet, Packet::Publish(..))).await;
        if heard.iter().any(|packet| matches!(packet, Packet::Publish(..))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Another client is away while an event comes for it.
async fn something_waits(world: &World, id: &str) -> Result<()> {
    let mut away = other_device(world, id).await?;
    away.subscribe("commands/+", 1).await?;
    away.hear(SOON, |packet| matches!(packet, Packet::Answer(SUBACK, _))).await;
    away.die().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut sender = other_device(world, &format!("{id}-sender")).await?;
    sender.publish("commands/away", b"for-press-43-only", 1, false).await?;
    let taken = sender.hear(SOON, |packet| matches!(packet, Packet::Answer(PUBACK, _))).await;
    ensure!(taken.iter().any(|packet| matches!(packet, Packet::Answer(PUBACK, _))), "nothing was sent");
    Ok(())
}

/// Whether it comes when the client is back.
async fn it_has_waited(world: &World, id: &str) -> Result<bool> {
    let mut back = other_device(world, id).await?;
    // A broker that had handed it out before it noticed that the client is away does so again after half a minute.
    let heard = back.hear(2 * SOON, |packet| matches!(packet, Packet::Publish(..))).await;
    Ok(heard.iter().any(|packet| matches!(packet, Packet::Publish(..))))
}

/// A client that does what it may.
pub async fn controls(world: &World, ears: &Ears, marks: &mut Marks) -> Result<usize> {
    let Some(press) = press(world) else { return Ok(0) };
    let mut worked = 0;
    let mut listener = press.enter("control-listener").await?;
    listener.subscribe("open/news/+", 1).await?;
    let subscribed = listener.hear(SOON, |packet| matches!(packet, Packet::Answer(SUBACK, _))).await;
    let heard = until_heard(world, "open.news.control", &mut listener).await?;
    ensure!(heard, "a client hears nothing where it may: {}", words(&subscribed));
    worked += 1;
    something_waits(world, "press-43-control").await?;
    ensure!(it_has_waited(world, "press-43-control").await?, "nothing waits for a client that is away");
    worked += 1;
    let mut sent = Vec::new();
    for (qos, retain) in [(0, false), (1, false), (2, false), (1, true)] {
        let mark = marks.fresh();
        let mut device = press.enter(&format!("control-{mark}")).await?;
        device.publish(&format!("open/press/{mark}"), b"control", qos, retain).await?;
        sent.push((mark, Some(device)));
    }
    let mark = marks.fresh();
    let will = Some((format!("open/press/{mark}"), "will".to_owned()));
    let device =
        Device::enter(press.address, press.trust, &Hello { will, ..press.hello(&format!("control-{mark}")) }).await?;
    device.die().await;
    sent.push((mark, None));
    for (mark, _) in &sent {
        eventually("ear that hears a client's publish", SOON, async || Ok(ears.heard(mark).map(drop))).await?;
        worked += 1;
    }
    Ok(worked)
}
