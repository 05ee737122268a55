//! What must not work in a mesh, tried: each kind of identity does what it may not do, against brokers that run.
//!
//! An attempt has succeeded when it got an answer that is no error, when something that it forged was heard where it does
//! not belong, or when anything of the victim is not as it was. Each kind of attempt is first made by somebody who may,
//! so that one that could never succeed is found.
//!
//! - [`world`]: victim and attackers, and the state that is compared.
//! - [`wire`], [`devices`]: the protocols, written by hand.
//! - [`requests`], [`replies`], [`tokens`], [`listeners`], [`mqtt`]: the attempts.
//! - [`controls`]: the same by those who may.

pub mod controls;
pub mod devices;
pub mod ears;
pub mod listeners;
pub mod mqtt;
pub mod replies;
pub mod requests;
pub mod tokens;
pub mod wire;
pub mod world;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ears::Ears;
use requests::Target;
use wire::{Door, Heard, Message, Publish, Session, Speech};
use world::World;

/// How long an answer may take before its absence is one.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long what must come may take on a machine that stands still for a while.
const SOON: Duration = Duration::from_secs(30);

/// Something that must not work.
#[derive(Debug, Clone)]
pub struct Probe {
    pub what: String,
    /// It can be made by somebody who may.
    pub control: bool,
    /// By which an ear knows what was forged.
    pub mark: Option<String>,
    pub act: Act,
}

#[derive(Debug, Clone)]
pub enum Act {
    /// Expects an answer.
    Request(Publish),
    /// Has its effect elsewhere.
    Send(Publish),
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub group: String,
    pub what: String,
    pub answer: String,
    pub succeeded: bool,
}

/// How all of them ended.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub controls: usize,
    pub attempts: Vec<Attempt>,
}

impl Report {
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.succeeded).count()
    }

    /// All attempts by group, and how many there are of each.
    #[must_use]
    pub fn table(&self) -> String {
        let mut groups: Vec<&str> = Vec::new();
        for attempt in &self.attempts {
            if !groups.contains(&attempt.group.as_str()) {
                groups.push(&attempt.group);
            }
        }
        let (mut text, mut summary) = (String::new(), format!("\n{:<52} {:>6} {:>10}\n", "as", "tried", "succeeded"));
        for group in groups {
            let of_it: Vec<&Attempt> = self.attempts.iter().filter(|attempt| attempt.group == group).collect();
            let _ = writeln!(text, "\n{group}");
            for attempt in &of_it {
                let verdict = if attempt.succeeded { "SUCCEEDED" } else { "refused" };
                let (what, answer) = (short(&attempt.what, 72), short(&attempt.answer, 90));
                let _ = writeln!(text, "  {verdict:<9}  {what:<72}  {answer}");
            }
            let succeeded = of_it.iter().filter(|attempt| attempt.succeeded).count();
            let _ = writeln!(summary, "{:<52} {:>6} {succeeded:>10}", short(group, 52), of_it.len());
        }
        text + &summary
    }

    /// Those that succeeded, one a line.
    #[must_use]
    pub fn successes(&self) -> String {
        let one = |attempt: &Attempt| format!("{}: {}: {}", attempt.group, attempt.what, short(&attempt.answer, 400));
        self.attempts.iter().filter(|attempt| attempt.succeeded).map(one).collect::<Vec<_>>().join("\n")
    }

    /// The line by which scripts know how it went.
    #[must_use]
    pub fn last_line(&self) -> String {
        format!("attack: {} tried, {} succeeded", self.attempts.len(), self.succeeded())
    }
}

fn short(text: &str, most: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Everything, with the progress told to `say`.
pub async fn run(world: &World, say: &dyn Fn(&str)) -> Result<Report> {
    let mut attack = Attack::begin(world).await?;
    attack.report.controls = controls::run(world, &attack.ears, &mut attack.marks).await.context("controls")?;
    say(&format!("control: {} probes work where they may", attack.report.controls));
    attack.ears.forget();
    say("everybody listens where they may not, while others are active");
    attack.listen().await?;
    attack.baseline = world.state().await?;
    for attacker in &world.attackers {
        for speech in [Speech::Nats, Speech::WebSocket] {
            if let Some(door) = world.door(speech)
                && (speech != Speech::WebSocket || attacker.name == "client")
            {
                say(&format!("{} at the {speech:?} port", attacker.name));
                attack.requests(attacker, &door).await?;
            }
        }
    }
    say("tokens");
    let tokens = tokens::run(world).await?;
    attack.add(tokens, "tokens").await?;
    say("listeners");
    let listeners = listeners::run(world).await?;
    attack.add(listeners, "listeners").await?;
    say("MQTT");
    let mqtt = mqtt::run(world, &attack.ears, &mut attack.marks).await?;
    attack.add(mqtt, "client over MQTT").await?;
    say("limits");
    let limits = listeners::limits(world).await?;
    attack.add(limits, "limits").await?;
    Ok(attack.report)
}

/// Marks of what is forged: digits, so that they can stand wherever a number does.
#[derive(Debug, Clone)]
pub struct Marks(u64);

impl Marks {
    pub fn fresh(&mut self) -> String {
        self.0 += 1;
        self.0.to_string()
    }
}

struct Attack<'a> {
    world: &'a World,
    ears: Ears,
    marks: Marks,
    baseline: BTreeMap<String, Value>,
    report: Report,
    forged_account: String,
    server: String,
    account: String,
}

impl<'a> Attack<'a> {
    async fn begin(world: &'a World) -> Result<Self> {
        let ears = Ears::open(world).await?;
        let account = world.operator.claims()?["nats"]["issuer_account"].as_str().context("an account")?.to_owned();
        let server = world.broker.client.server_info().server_id;
        Ok(Self {
            world,
            ears,
            marks: Marks(7_000_000),
            baseline: BTreeMap::new(),
            report: Report::default(),
            forged_account: tokens::forged_account(&account)?,
            server,
            account,
        })
    }

    /// Adds attempts, and one more for whatever is not as it was.
    async fn add(&mut self, attempts: Vec<Attempt>, group: &str) -> Result<()> {
        self.report.attempts.extend(attempts);
        let now = self.world.state().await?;
        for (what, before) in &self.baseline {
            let after = now.get(what).unwrap_or(&Value::Null);
            let differs = after != before;
            let answer = if differs { difference(before, after) } else { "as before".to_owned() };
            self.report.attempts.push(Attempt {
                group: group.to_owned(),
                what: format!("afterwards: {what}"),
                answer,
                succeeded: differs,
            });
        }
        self.baseline = now;
        Ok(())
    }

    /// What is asked directly and through replies at one door.
    async fn requests(&mut self, attacker: &world::Attacker, door: &Door) -> Result<()> {
        let world = self.world;
        let group = match door.speech {
            Speech::Nats => attacker.name.to_owned(),
            Speech::WebSocket => format!("{} over WebSocket", attacker.name),
            Speech::Leaf => format!("{} as a leaf node", attacker.name),
        };
        let marks = &mut self.marks;
        let mut next = || marks.fresh();
        let mark = next();
        let mut probes = requests::api(&Target::victim(world), &mark);
        probes.extend(requests::system(&self.account, &self.server, &self.forged_account));
        probes.extend(requests::publishes(world, &mut next));
        if let Some(granted) = &attacker.publishes {
            probes.extend(requests::headers(world, granted, &mut next));
        }
        probes.extend(replies::tricks(world, attacker, &mut next));
        let answers = in_groups(door, &attacker.proof(), &probes).await.with_context(|| group.clone())?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let attempts = probes.iter().zip(answers).map(|(probe, answer)| self.judge(&group, probe, answer)).collect();
        self.add(attempts, &group).await
    }

    fn judge(&self, group: &str, probe: &Probe, answer: Answer) -> Attempt {
        let heard = probe.mark.as_ref().and_then(|mark| self.ears.heard(mark));
        let (mut text, mut succeeded) = match (&probe.act, answer) {
            (_, Answer::Refused(text)) => (text, false),
            (_, Answer::Silence) => ("silence".to_owned(), false),
            (Act::Request(_), Answer::Message(message)) => read_answer(&message),
            (Act::Send(_), Answer::Message(message)) => (read_answer(&message).0, false),
        };
        if let Some(heard) = heard {
            text = format!("heard by {heard}");
            succeeded = true;
        }
        Attempt { group: group.to_owned(), what: probe.what.clone(), answer: text, succeeded }
    }

    /// Everybody listens while others are active; what is heard must be nobody else's.
    async fn listen(&mut self) -> Result<()> {
        let attempts = ears::eavesdrop(self.world).await?;
        let groups: std::collections::BTreeSet<String> = attempts.iter().map(|one| one.group.clone()).collect();
        ensure!(!groups.is_empty(), "nobody listened");
        self.report.attempts.extend(attempts);
        Ok(())
    }
}

fn difference(before: &Value, after: &Value) -> String {
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            let differing = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
            let texts: Vec<String> = differing
                .map(|name| {
                    let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                    format!("{name}: {}", difference(&of(one), &of(other)))
                })
                .collect();
            texts.join(", ")
        }
        _ => format!("{before} became {after}"),
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub enum Answer {
    Refused(String),
    Silence,
    Message(Message),
}

/// The answer in words, and whether it gives something.
#[must_use]
pub fn read_answer(message: &Message) -> (String, bool) {
    let status = message.head.lines().next().unwrap_or_default().trim_start_matches("NATS/1.0").trim().to_owned();
    if status.starts_with("503") {
        return ("nobody answers".to_owned(), false);
    }
    if let Ok(value) = serde_json::from_slice::<Value>(&message.body)
        && let Some(error) = value.get("error").filter(|error| !error.is_null())
    {
        let text = error["description"].as_str().map_or_else(|| error.to_string(), str::to_owned);
        return (text, false);
    }
    (format!("answered: {status} {}", String::from_utf8_lossy(&message.body)), true)
}

/// Probes that go out together.
const TOGETHER: usize = 24;

/// Sends the probes over as few connections as the broker lets, and sorts the answers.
async fn in_groups(door: &Door, proof: &wire::Proof, probes: &[Probe]) -> Result<Vec<Answer>> {
    let mut all = Vec::new();
    let mut session = door.enter_surely(proof).await?;
    session.subscribe("_INBOX.answers.*", None).await?;
    let mut late = Vec::new();
    for (number, chunk) in probes.chunks(TOGETHER).enumerate() {
        let first = number * TOGETHER;
        if let Ok(answers) = together(&mut session, chunk, first).await {
            all.extend(answers);
        } else {
            // One of them made the broker hang up.
            all.extend(one_by_one(door, proof, chunk, first).await?.into_iter().map(Some));
            session = door.enter_surely(proof).await?;
            session.subscribe("_INBOX.answers.*", None).await?;
        }
    }
    late.extend(session.hear(SILENCE, |_| false).await);
    for one in late {
        if let Heard::Message(message) = one
            && let Some(slot) = numbered(&message).and_then(|number| all.get_mut(number))
        {
            slot.get_or_insert(Answer::Message(message));
        }
    }
    Ok(all.into_iter().map(|answer| answer.unwrap_or(Answer::Silence)).collect())
}

fn numbered(message: &Message) -> Option<usize> {
    message.subject.strip_prefix("_INBOX.answers.")?.parse().ok()
}

/// Some probes over one connection; an error when it breaks.
async fn together(session: &mut Session, probes: &[Probe], first: usize) -> Result<Vec<Option<Answer>>> {
    let mut answers: Vec<Option<Answer>> = vec![None; probes.len()];
    let mut pending: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
    for (number, probe) in probes.iter().enumerate() {
        let publish = prepared(probe, first + number);
        for subject in [Some(&publish.subject), publish.reply.as_ref()].into_iter().flatten() {
            pending.entry(subject.clone()).or_default().push_back(number);
        }
        session.publish(&publish).await?;
    }
    let mut heard = session.settle().await?;
    // Answers that take a moment; those that take longer are heard in the end.
    heard.extend(session.hear(Duration::from_millis(120), |_| false).await);
    for one in heard {
        match one {
            Heard::Message(message) => {
                let number = numbered(&message).and_then(|number| number.checked_sub(first));
                if let Some(slot) = number.and_then(|number| answers.get_mut(number)) {
                    slot.get_or_insert(Answer::Message(message));
                }
            }
            Heard::Error(text) => {
                let subject = text.split('"').nth(1).unwrap_or_default();
                if let Some(slot) =
                    pending.get_mut(subject).and_then(VecDeque::pop_front).and_then(|n| answers.get_mut(n))
                {
                    *slot = Some(Answer::Refused(text));
                }
            }
            Heard::Closed => anyhow::bail!("it hung up"),
            Heard::Pong | Heard::Line(_) => {}
        }
    }
    Ok(answers)
}

/// Sends each probe over a connection of its own.
async fn one_by_one(door: &Door, proof: &wire::Proof, probes: &[Probe], first: usize) -> Result<Vec<Answer>> {
    use futures::{StreamExt, TryStreamExt};
    let attempts = probes.iter().enumerate().map(|(number, probe)| async move {
        let mut session = door.enter_surely(proof).await?;
        session.subscribe("_INBOX.answers.*", None).await?;
        session.publish(&prepared(probe, first + number)).await?;
        let decisive = |heard: &Heard| match heard {
            Heard::Error(_) => true,
            Heard::Message(message) => message.subject.starts_with("_INBOX.answers."),
            _ => false,
        };
        let heard = session.hear(Duration::from_secs(1), decisive).await;
        let answer = heard.into_iter().find_map(|one| match one {
            Heard::Error(text) => Some(Answer::Refused(text)),
            Heard::Closed => Some(Answer::Refused("it hung up".to_owned())),
            Heard::Message(message) if message.subject.starts_with("_INBOX.answers.") => Some(Answer::Message(message)),
            _ => None,
        });
        anyhow::Ok(answer.unwrap_or(Answer::Silence))
    });
    futures::stream::iter(attempts).buffered(8).try_collect().await
}

/// The probe with a place for its answer.
fn prepared(probe: &Probe, number: usize) -> Publish {
    match &probe.act {
        Act::Request(publish) => Publish { reply: Some(format!("_INBOX.answers.{number}")), ..publish.clone() },
        // Where a reply is no part of the attempt, the broker's answer is asked for.
        Act::Send(publish) if publish.reply.is_none() => {
            Publish { reply: Some(format!("_INBOX.answers.{number}")), ..publish.clone() }
        }
        Act::Send(publish) => publish.clone(),
    }
}
