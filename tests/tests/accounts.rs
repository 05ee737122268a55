//! The programs of examples/accounts, out of their images, against a broker that asks nobody who he is: what a sidecar makes of
//! the mesh for them. With pods and sidecars the e2e tests have them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventmesh_tests::accounts::{Seen, open, seen, seen_until};
use eventmesh_tests::child::{Child, free_port};
use eventmesh_tests::http::{Answer, Sender};
use eventmesh_tests::image::Image;
use eventmesh_tests::process::Nats;
use eventmesh_tests::process::nats::{api, create_consumer, create_stream, stored};
use eventmesh_tests::wait::eventually;
use eventmesh_tests::{RUNTIME, paths};
use serde_json::json;

const STREAM: &str = "bank_accounts";
const CONSUMER: &str = "sub_bank_ledger";
const SOON: Duration = Duration::from_secs(30);

/// A broker with what the operator makes of the example's Topic and Subscription.
struct Bank {
    nats: Nats,
    client: async_nats::Client,
}

/// A program with its image and port.
struct Program {
    image: Image,
    env: Vec<(&'static str, String)>,
    child: Child,
    http: Sender,
}

impl Bank {
    async fn start() -> Result<Self> {
        let nats = Nats::start(paths::scratch("bank")?, "2m", "").await?;
        let client = nats.client().await?;
        create_stream(&client, STREAM, &["accounts.>"], &json!({})).await?;
        create_consumer(&client, STREAM, CONSUMER, 5).await?;
        Ok(Self { nats, client })
    }

    fn program(&self, name: &str) -> Result<Program> {
        let (image, port) = (Image::unpack(name)?, free_port()?);
        let env = [("NATS_URL", self.nats.url()), ("PORT", port.to_string()), ("STREAM", STREAM.to_owned())];
        let mut env = Vec::from(env);
        env.push(("CONSUMER", CONSUMER.to_owned()));
        let child = start(&image, &env)?;
        Ok(Program { image, env, child, http: Sender::new(&format!("http://127.0.0.1:{port}"), &[])? })
    }

    /// `accounts-api` and `credit-check`, ready to work.
    async fn counter(&self) -> Result<(Program, Program)> {
        let counter = (self.program("accounts-api")?, self.program("credit-check")?);
        counter.0.ready(200).await?;
        let opened = open(&counter.0.http, "first", 1, 0).await?;
        ensure!(opened.status == 201, "{opened:?}");
        Ok(counter)
    }

    async fn stored(&self) -> Result<u64> {
        stored(&self.client, STREAM).await
    }
}

fn start(image: &Image, env: &[(&'static str, String)]) -> Result<Child> {
    image.start(&env.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
}

impl Program {
    async fn ready(&self, status: u16) -> Result<Answer> {
        eventually(&format!("/readyz with {status}"), SOON, async || {
            let answer = self.http.request("GET", "/readyz", &[], b"").await.map_err(|error| format!("{error:#}"))?;
            if answer.status == status { Ok(Some(answer)) } else { Err(format!("{answer:?}")) }
        })
        .await
        .with_context(|| self.child.log_tail(20))
    }

    fn start_again(&mut self) -> Result<()> {
        self.child = start(&self.image, &self.env)?;
        Ok(())
    }

    /// It ends by itself when it is told to, and well.
    async fn ends(self) -> Result<()> {
        self.child.terminate()?;
        let ended = eventually("end after SIGTERM", SOON, async || Ok(self.child.exited())).await;
        let status = ended.with_context(|| self.child.log_tail(20))?;
        ensure!(status.success(), "{status}: {}", self.child.log_tail(20));
        Ok(())
    }
}

async fn has(program: &Sender, ids: &[&str]) -> Result<Seen> {
    let all = |seen: &Seen| ids.iter().all(|id| seen.accounts.iter().any(|account| account == id));
    seen_until(program, all).await
}

#[test]
fn an_account_is_opened_once_and_only_with_good_credit() -> Result<()> {
    RUNTIME.block_on(async {
        let bank = Bank::start().await?;
        let (api, credit) = bank.counter().await?;
        let ledger = bank.program("ledger")?;
        let opened = open(&api.http, "a", 100, 1000).await?;
        ensure!(opened.status == 201 && opened.body.contains(r#""id":"a""#), "{opened:?}");
        let again = open(&api.http, "a", 100, 1000).await?;
        assert_eq!((again.status, bank.stored().await?), (201, 2), "the same key is the same account");
        let declined = open(&api.http, "b", 100, 1001).await?;
        assert_eq!((declined.status, bank.stored().await?), (422, 2), "{declined:?}");
        let nonsense = api.http.post("/accounts", &[], b"{}").await?;
        assert_eq!((nonsense.status, bank.stored().await?), (400, 2), "{nonsense:?}");
        let booked = has(&ledger.http, &["first", "a"]).await?;
        assert_eq!((booked.accounts.len(), booked.balance), (2, 101), "{booked:?}");
        for program in [api, credit, ledger] {
            program.ends().await?;
        }
        Ok(())
    })
}

#[test]
fn callers_are_told_to_try_again_while_nobody_checks_or_the_mesh_is_away() -> Result<()> {
    RUNTIME.block_on(async {
        let mut bank = Bank::start().await?;
        let (api, credit) = bank.counter().await?;
        let ask = async |id: &str| {
            api.http.post("/accounts", &[("idempotency-key", id)], br#"{"owner": "ada", "deposit": 1}"#).await
        };
        credit.ends().await?;
        let unchecked = ask("a").await?;
        assert_eq!((unchecked.status, bank.stored().await?), (503, 1), "{unchecked:?}");
        assert!(unchecked.header("retry-after").is_some(), "{unchecked:?}");
        let credit = bank.program("credit-check")?;
        ensure!(open(&api.http, "a", 1, 0).await?.status == 201);

        bank.nats.kill()?;
        api.ready(503).await?;
        assert_eq!(ask("b").await?.status, 503);
        bank.nats.start_again().await?;
        api.ready(200).await?;
        ensure!(open(&api.http, "b", 1, 0).await?.status == 201, "{}", credit.child.log_tail(20));
        assert_eq!(bank.stored().await?, 3);
        Ok(())
    })
}

#[test]
fn the_ledger_books_what_came_while_it_was_away_and_nothing_twice() -> Result<()> {
    RUNTIME.block_on(async {
        let mut bank = Bank::start().await?;
        let mut ledger = bank.program("ledger")?;
        let publish = async |id: &str| {
            let event = json!({"id": id, "owner": "ada", "deposit": 10}).to_string();
            let context = async_nats::jetstream::new(bank.client.clone());
            context.publish("accounts.opened", event.into()).await?.await.map(drop).map_err(anyhow::Error::from)
        };
        publish("a").await?;
        has(&ledger.http, &["a"]).await?;
        ledger.child.kill()?;
        publish("a").await?;
        publish("b").await?;
        let context = async_nats::jetstream::new(bank.client.clone());
        context.publish("accounts.opened", "garbage".into()).await?.await?;
        publish("c").await?;
        ledger.start_again()?;
        let booked = has(&ledger.http, &["a", "b", "c"]).await.with_context(|| ledger.child.log_tail(20))?;
        assert_eq!((booked.accounts.len(), booked.balance), (3, 30), "{booked:?}");
        assert_eq!(ledger.image.lines("accounts")?.len(), 3, "an account is booked twice");
        eventually("consumer with nothing open", SOON, async || {
            let info = api(&bank.client, &format!("CONSUMER.INFO.{STREAM}.{CONSUMER}"), &json!({})).await;
            let info = info.map_err(|error| error.to_string())?;
            let open = (info["num_ack_pending"].as_u64(), info["num_pending"].as_u64());
            if open == (Some(0), Some(0)) { Ok(Some(())) } else { Err(info.to_string()) }
        })
        .await?;

        bank.nats.kill()?;
        bank.nats.start_again().await?;
        let context = async_nats::jetstream::new(bank.nats.client().await?);
        context.publish("accounts.opened", r#"{"id": "d", "deposit": 1}"#.into()).await?.await?;
        has(&ledger.http, &["d"]).await.with_context(|| ledger.child.log_tail(20))?;
        ledger.ends().await
    })
}

#[test]
fn a_customer_is_told_once_whatever_comes_again() -> Result<()> {
    RUNTIME.block_on(async {
        let bank = Bank::start().await?;
        let mut notifications = bank.program("notifications")?;
        notifications.ready(200).await?;
        let event = async |http: Sender, body: &'static [u8]| http.post("/events", &[("ce-id", "1")], body).await;
        assert_eq!(event(notifications.http.clone(), br#"{"id": "a"}"#).await?.status, 204);
        assert_eq!(event(notifications.http.clone(), br#"{"id": "a"}"#).await?.status, 204);
        assert_eq!(event(notifications.http.clone(), b"garbage").await?.status, 400);
        notifications.child.kill()?;
        notifications.start_again()?;
        notifications.ready(200).await?;
        assert_eq!(seen(&notifications.http).await?.accounts, ["a"], "it forgot whom it told");
        assert_eq!(event(notifications.http.clone(), br#"{"id": "a"}"#).await?.status, 204);
        assert_eq!(notifications.image.lines("sent")?, ["a"], "a customer was told twice");
        notifications.ends().await
    })
}
