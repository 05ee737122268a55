//! Who may do what in a mesh: the brokers enforce it, with the credentials that the operator has issued.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use eventmesh_crds::{EventMesh, Subscription, Topic};
use eventmesh_tests::{broker::Broker, identity::Login, objects::Namespace, wait::eventually};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;
use serde_json::json;

use crate::{Test, alone, object, shared};

const SOON: Duration = Duration::from_mins(1);
/// What may not come is awaited so long, and no longer.
const SILENCE: Duration = Duration::from_millis(500);

impl Test<'_> {
    async fn account(&self, name: &str) -> Result<()> {
        self.ns.apply(&format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")).await
    }

    /// The credentials of a ServiceAccount of the test's namespace, once they are there.
    async fn login(&self, account: &str) -> Result<Login> {
        login(self.ns, &format!("platform.retail.{account}")).await
    }

    async fn connect(&self, login: &Login) -> Result<Broker> {
        Broker::connect(&self.stack.broker_address(), login).await
    }
}

async fn login(namespace: &Namespace, secret: &str) -> Result<Login> {
    eventually("credentials", SOON, async || {
        Login::from_secret(namespace, secret).await.map(Some).map_err(|error| format!("{error:#}"))
    })
    .await
}

/// Whether a publish is stored soon; a refused one is answered by nobody.
async fn publishes(broker: &Broker, subject: &str) -> bool {
    let stored = tokio::time::timeout(SILENCE, broker.publish(subject, "x"));
    matches!(stored.await, Ok(Ok(_)))
}

async fn until_publishes(broker: &Broker, subject: &str) -> Result<()> {
    eventually("a publish that is stored", SOON, async || {
        publishes(broker, subject).await.then_some(Some(())).ok_or_else(|| "refused".to_owned())
    })
    .await
}

fn grant(to: &str, allow: &str, more: &str) -> String {
    format!("  grants: [{{to: {{{to}}}, allow: [{allow}]{more}}}]\n")
}

#[test]
fn a_grant_lets_a_service_account_publish_and_nothing_else() -> Result<()> {
    shared("id-grant", async |test| {
        test.account("api").await?;
        test.ns.apply(&Test::topic("id-grant-other", "")).await?;
        let grants = grant("serviceAccount: {name: api}", "Publish", ", subjects: [id-grant.opened]");
        test.ns.apply(&Test::topic("id-grant", &grants)).await?;
        test.ns.ready::<Topic>("id-grant").await?;
        test.ns.ready::<Topic>("id-grant-other").await?;
        let app = test.connect(&test.login("api").await?).await?;
        until_publishes(&app, "id-grant.opened").await?;
        let before = test.stream("id-grant").await?["state"]["messages"].clone();
        ensure!(!publishes(&app, "id-grant.closed").await, "beyond the grant");
        ensure!(!publishes(&app, "id-grant-other.x").await, "into another Topic");
        assert_eq!(test.stream("id-grant").await?["state"]["messages"], before);
        assert_eq!(test.stream("id-grant-other").await?["state"]["messages"], 0);
        Ok(())
    })
}

#[test]
fn a_reply_subject_leads_nowhere() -> Result<()> {
    shared("id-reply", async |test| {
        test.account("api").await?;
        test.ns.apply(&Test::topic("id-reply-other", "")).await?;
        test.ns.apply(&Test::topic("id-reply", &grant("serviceAccount: {name: api}", "Publish", ""))).await?;
        test.ns
            .apply(&object(
                "Subscription",
                "s",
                "  topic: {name: id-reply}\n  subscriber: {serviceAccount: api}\n  startFrom: {position: All}",
            ))
            .await?;
        test.ns.ready::<Subscription>("s").await?;
        let app = test.connect(&test.login("api").await?).await?;
        until_publishes(&app, "id-reply.x").await?;
        let stream = test.stream_name("id-reply");
        let consumer = format!("sub_{}_s", test.ns.name);
        // The broker publishes its answer for the one who asked: a stored event, or the confirmation of one.
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        app.client.publish_with_reply(next, "id-reply-other.forged", "1".into()).await?;
        app.client.publish_with_reply("id-reply.x", "id-reply-other.forged", "{}".into()).await?;
        let info = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
        app.client.publish_with_reply(info, "id-reply-other.forged", "".into()).await?;
        let purge = format!("$JS.API.STREAM.PURGE.{stream}");
        app.client.publish_with_reply("id-reply.x", purge, "{}".into()).await?;
        until_publishes(&app, "id-reply.last").await?;
        assert_eq!(test.stream("id-reply-other").await?["state"]["messages"], 0);
        ensure!(test.stream("id-reply").await?["state"]["messages"].as_u64() >= Some(4), "nothing was purged");
        Ok(())
    })
}

#[test]
fn a_reply_subject_leads_no_further_in_a_topic_than_the_grants() -> Result<()> {
    shared("id-within", async |test| {
        test.account("api").await?;
        let subjects = |list: &str| grant("serviceAccount: {name: api}", "Publish", &format!(", subjects: [{list}]"));
        let crossing = subjects("'id-within.*.eu', 'id-within.open.*'");
        test.ns.apply(&Test::topic("id-within", &crossing)).await?;
        let refused = test.ns.condition::<Topic>("id-within", "Accepted", "False", "GrantsOverlap").await?;
        ensure!(refused.message.contains("`id-within.open.*`"), "{}", refused.message);
        test.ns.apply(&Test::topic("id-within", &subjects("'id-within.*.eu', 'id-within.open'"))).await?;
        test.ns.ready::<Topic>("id-within").await?;
        let app = test.connect(&test.login("api").await?).await?;
        until_publishes(&app, "id-within.x.eu").await?;
        until_publishes(&app, "id-within.open").await?;
        app.client.publish_with_reply("id-within.open", "id-within.forged", "{}".into()).await?;
        app.client.publish_with_reply("id-within.open", "id-within.open.forged", "{}".into()).await?;
        until_publishes(&app, "id-within.y.eu").await?;
        let info = format!("STREAM.INFO.{}", test.stream_name("id-within"));
        let stored = test.broker.api(&info, &json!({"subjects_filter": ">"})).await?.context("the stream")?;
        let stored: Vec<_> = stored["state"]["subjects"].as_object().context("subjects")?.keys().cloned().collect();
        assert_eq!(stored, ["id-within.open", "id-within.x.eu", "id-within.y.eu"]);
        Ok(())
    })
}

#[test]
fn a_subscriber_reads_its_own_consumer_and_no_other() -> Result<()> {
    shared("id-read", async |test| {
        for account in ["one", "two"] {
            test.account(account).await?;
            let spec = format!("  topic: {{name: id-read}}\n  subscriber: {{serviceAccount: {account}}}\n");
            test.ns.apply(&object("Subscription", account, &spec)).await?;
        }
        test.ns.apply(&Test::topic("id-read", "")).await?;
        test.ns.ready::<Subscription>("one").await?;
        test.ns.ready::<Subscription>("two").await?;
        let one = test.connect(&test.login("one").await?).await?;
        let stream = test.stream_name("id-read");
        let consumer = |name: &str| format!("sub_{}_{name}", test.ns.name);
        test.broker.publish("id-read.a", "hello").await?;
        let message = eventually("an event", SOON, async || {
            one.fetch(&stream, &consumer("one")).await.map(Some).map_err(|error| format!("{error:#}"))
        })
        .await?;
        assert_eq!((message.subject.as_str(), message.payload.as_ref()), ("id-read.a", b"hello".as_slice()));
        one.client.publish(message.reply.context("a reply")?, "".into()).await?;
        let acknowledged = async || {
            let info = test.broker.consumer(&stream, &consumer("one")).await.map_err(|e| e.to_string())?;
            let left = info.map(|info| info["num_ack_pending"].clone());
            if left == Some(json!(0)) { Ok(Some(())) } else { Err(format!("{left:?}")) }
        };
        eventually("the acknowledgement", SOON, acknowledged).await?;
        let refused = async |subject: String| {
            let asked = tokio::time::timeout(SILENCE, one.client.request(subject, "".into()));
            !matches!(asked.await, Ok(Ok(_)))
        };
        ensure!(refused(format!("$JS.API.CONSUMER.INFO.{stream}.{}", consumer("two"))).await, "the other's consumer");
        ensure!(refused(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", consumer("two"))).await, "the other's events");
        ensure!(refused(format!("$JS.API.STREAM.INFO.{stream}")).await, "the stream");
        ensure!(refused("$JS.API.STREAM.NAMES".to_owned()).await, "the names of streams");
        ensure!(refused(format!("$JS.API.DIRECT.GET.{stream}.id-read.a")).await, "a stored event");
        Ok(())
    })
}

#[test]
fn what_a_sidecar_is_told_follows_its_subscriptions_and_grants() -> Result<()> {
    shared("id-sidecar", async |test| {
        test.account("api").await?;
        test.ns.apply(&Test::topic("id-sidecar", &grant("serviceAccount: {name: api}", "Publish", ""))).await?;
        let told = async |wanted: &str, unwanted: &str| {
            eventually("what a sidecar is told", SOON, async || {
                let file = test.ns.secret("platform.retail.api", "sidecar.json").await;
                let file = file.map_err(|error| format!("{error:#}"))?;
                if file.contains(wanted) && !file.contains(unwanted) { Ok(Some(file)) } else { Err(file) }
            })
            .await
        };
        let first = told(r#""publish":["id-sidecar","id-sidecar.>"]"#, "push").await?;
        let token = test.login("api").await?.jwt;
        let push = |more: &str| {
            let spec = format!(
                "  topic: {{name: id-sidecar}}\n  subscriber: {{serviceAccount: api}}\n  push: {{port: 8080{more}}}\n"
            );
            object("Subscription", "mails", &spec)
        };
        test.ns.apply(&push("")).await?;
        let file = told(r#""timeoutMs":30000"#, "nothing").await?;
        let stream = test.stream_name("id-sidecar");
        ensure!(file.contains(&format!("sub_{}_mails", test.ns.name)) && file.contains(&stream), "{file}");
        test.ns.ready::<Subscription>("mails").await?;
        test.ns.apply(&push(", path: /events")).await?;
        told("/events", "nothing").await?;
        test.ns.delete::<Subscription>("mails").await?;
        assert_eq!(told("publish", "push").await?, first);
        assert_eq!(test.login("api").await?.jwt, token, "the credentials stay");
        Ok(())
    })
}

/// A Topic that stores nothing.
fn live(name: &str, grants: &str) -> String {
    Test::topic(name, &format!("  storage: {{type: None}}\n  grants:\n{grants}"))
}

fn to(account: &str, allow: &str, more: &str) -> String {
    format!("  - {{to: {{serviceAccount: {{name: {account}}}}}, allow: [{allow}]{more}}}\n")
}

/// Asks, and again while the broker says that nobody answers: it does for a moment when it takes up what another party of the
/// mesh may do, as other tests change it; docs/adr/0045 says that requesters must expect it.
async fn ask_until_heard(broker: &Broker, subject: &str, text: &str) -> Result<String> {
    let answer = eventually("an answer", SOON, async || match ask_within(SOON, broker, subject, text).await {
        Err(problem) if problem.contains("no responders") => Err(problem),
        other => Ok(Some(other)),
    });
    answer.await?.map_err(anyhow::Error::msg)
}

/// As [`ask_within`], where it may be that nothing comes.
async fn ask(broker: &Broker, subject: &str, question: &str) -> Result<String, String> {
    ask_within(Duration::from_secs(5), broker, subject, question).await
}

/// The payload that answers a request; the error tells what came instead.
async fn ask_within(limit: Duration, broker: &Broker, subject: &str, question: &str) -> Result<String, String> {
    let request = async_nats::Request::new().payload(question.to_owned().into()).timeout(None);
    let asked = broker.client.send_request(subject.to_owned(), request);
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(String::from_utf8_lossy(&answer.payload).into_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Answers every request with its payload and a mark, until the connection ends.
async fn answer(broker: &Broker, subject: &str, group: &str, mark: &str) -> Result<tokio::task::JoinHandle<u32>> {
    let mut requests = broker.client.queue_subscribe(subject.to_owned(), group.to_owned()).await?;
    broker.client.flush().await?;
    let (client, mark) = (broker.client.clone(), mark.to_owned());
    Ok(tokio::spawn(async move {
        let mut answered = 0;
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let text = format!("{mark}: {}", String::from_utf8_lossy(&request.payload));
                answered += u32::from(client.publish(reply, text.into()).await.is_ok());
            }
        }
        answered
    }))
}

/// Everything that has come up to the message with this payload.
async fn heard_until(events: &mut async_nats::Subscriber, last: &str) -> Result<Vec<String>> {
    let mut heard = Vec::new();
    loop {
        let event = tokio::time::timeout(SOON, events.next()).await.with_context(|| format!("after {heard:?}"))?;
        let text = String::from_utf8_lossy(&event.context("the connection ended")?.payload).into_owned();
        if text == last {
            return Ok(heard);
        }
        heard.push(text);
    }
}

#[test]
fn a_request_goes_to_the_one_who_may_answer_and_its_answer_back() -> Result<()> {
    shared("id-ask", async |test| {
        for account in ["api", "credit", "nosy"] {
            test.account(account).await?;
        }
        let grants = to("api", "Publish", "") + &to("credit", "Reply", ", subjects: [id-ask.check.*]");
        test.ns.apply(&live("id-ask", &grants)).await?;
        test.ns.apply(&Test::topic("id-ask-other", &grant("serviceAccount: {name: nosy}", "Publish", ""))).await?;
        test.ns.ready::<Topic>("id-ask").await?;
        ensure!(test.stream("id-ask").await.is_err(), "a stream was made");
        let api = test.connect(&test.login("api").await?).await?;
        let credit = test.login("credit").await?;
        eventually("word that nobody answers", SOON, async || match ask(&api, "id-ask.check.7", "x").await {
            Err(problem) if problem.contains("no responders") => Ok(Some(())),
            other => Err(format!("{other:?}")),
        })
        .await?;
        let pods = [test.connect(&credit).await?, test.connect(&credit).await?];
        for pod in &pods {
            answer(pod, "id-ask.check.*", "workers", "fine").await?;
        }
        // Brokers may still take the account up.
        eventually("a first answer", SOON, async || ask(&api, "id-ask.check.7", "x").await.map(Some)).await?;
        for number in 0..20 {
            assert_eq!(ask_until_heard(&api, "id-ask.check.7", &number.to_string()).await?, format!("fine: {number}"));
        }

        // Nobody else hears requests or answers, or can send them.
        let nosy = test.connect(&test.login("nosy").await?).await?;
        let mut everything = nosy.client.subscribe("_INBOX.>").await?;
        for subject in [">", "id-ask.>", "_R_.>", "$EM.>"] {
            nosy.client.subscribe(subject).await?;
        }
        let mut stolen = pods[0].client.subscribe("_R_.>").await?;
        ensure!(ask(&nosy, "id-ask.check.7", "x").await.is_err(), "a request of a stranger was answered");
        assert_eq!(ask_until_heard(&api, "id-ask.check.7", "secret").await?, "fine: secret");
        nosy.client.publish("_INBOX.end", "end".into()).await?;
        ensure!(heard_until(&mut everything, "end").await?.is_empty());
        ensure!(tokio::time::timeout(Duration::from_millis(200), stolen.next()).await.is_err(), "answers are heard");

        // Who answers can publish nothing but answers.
        let mut own = api.client.subscribe("_INBOX.>").await?;
        api.client.flush().await?;
        for subject in
            ["id-ask.check.7", "$EM.out.id-ask.check.7", "$EM.to.id-ask.check.7", "id-ask-other.x", "_R_.a.b"]
        {
            pods[0].client.publish(subject, "forged".into()).await?;
        }
        pods[0].client.flush().await?;
        api.client.publish("_INBOX.end", "end".into()).await?;
        ensure!(heard_until(&mut own, "end").await?.is_empty());
        assert_eq!(test.stream("id-ask-other").await?["state"]["messages"], 0);

        // A reply subject leads nowhere but to who asked.
        let forged =
            ["id-ask-other.x".to_owned(), format!("$JS.API.STREAM.PURGE.{}", test.stream_name("id-ask-other"))];
        for reply in forged {
            api.client.publish_with_reply("id-ask.check.7", reply, "x".into()).await?;
        }
        assert_eq!(ask_until_heard(&api, "id-ask.check.7", "last").await?, "fine: last");
        assert_eq!(test.stream("id-ask-other").await?["state"]["messages"], 0);

        // The right is taken away.
        let grants = to("api", "Publish", "") + &to("credit", "Subscribe", "");
        test.ns.apply(&live("id-ask", &grants)).await?;
        let removed = Instant::now();
        eventually("that nobody answers any more", SOON, async || {
            // It is heard still, so nothing tells that nobody answers.
            match tokio::time::timeout(Duration::from_millis(300), ask(&api, "id-ask.check.7", "x")).await {
                Ok(Ok(answer)) => Err(answer),
                Ok(Err(_)) | Err(_) => Ok(Some(())),
            }
        })
        .await?;
        println!("no answers after {:?}", removed.elapsed());
        Ok(())
    })
}

#[test]
fn a_live_event_is_heard_once_by_everybody_who_may() -> Result<()> {
    shared("id-live", async |test| {
        for account in ["one", "two", "ear", "third"] {
            test.account(account).await?;
        }
        let grants = to("one", "Publish, Subscribe", "")
            + &to("two", "Publish, Subscribe", "")
            + &to("ear", "Subscribe", ", subjects: [id-live.*.open, id-live.a.*]")
            + &to("third", "Publish", ", subjects: [id-live.other]");
        test.ns.apply(&live("id-live", &grants)).await?;
        let mut parties = Vec::new();
        for account in ["one", "two", "ear", "third"] {
            parties.push(test.connect(&test.login(account).await?).await?);
        }
        let mut ears = Vec::new();
        for party in &parties[..2] {
            ears.push(party.client.subscribe("id-live.>").await?);
        }
        // Both of its patterns hold the same subject.
        ears.push(parties[2].client.subscribe("id-live.a.*").await?);
        let mut shared = Vec::new();
        for _ in 0..2 {
            let pod = test.connect(&test.login("ear").await?).await?;
            shared.push((pod.client.queue_subscribe("id-live.*.open", "pods".to_owned()).await?, pod));
        }
        for party in parties.iter().chain(shared.iter().map(|(_, pod)| pod)) {
            party.client.flush().await?;
        }
        // The first may come while brokers still take the accounts up.
        let mut first = parties[1].client.subscribe("id-live.a.first").await?;
        eventually("a first event", SOON, async || {
            parties[0].client.publish("id-live.a.first", "first".into()).await.map_err(|error| error.to_string())?;
            let heard = tokio::time::timeout(Duration::from_millis(300), first.next()).await;
            heard.map(|_| Some(())).map_err(|_| "nothing".to_owned())
        })
        .await?;
        for (sender, text) in [(0, "from one"), (1, "from two")] {
            parties[sender].client.publish("id-live.a.open", text.into()).await?;
            parties[sender].client.flush().await?;
        }
        parties[3].client.publish("id-live.a.open", "forged".into()).await?;
        parties[3].client.flush().await?;
        for sender in &parties[..2] {
            sender.client.publish("id-live.a.end", "end".into()).await?;
        }
        for events in &mut ears {
            let mut heard = heard_until(events, "end").await?;
            heard.extend(heard_until(events, "end").await?);
            heard.retain(|text| text != "first");
            heard.sort();
            assert_eq!(heard, ["from one", "from two"], "once, and nothing of others");
        }
        let mut of_pods = Vec::new();
        let mut both = futures::stream::select_all(shared.iter_mut().map(|(events, _)| events));
        // Two, and then no more.
        loop {
            let limit = if of_pods.len() < 2 { SOON } else { SILENCE };
            let Ok(Some(event)) = tokio::time::timeout(limit, both.next()).await else { break };
            of_pods.push(String::from_utf8_lossy(&event.payload).into_owned());
        }
        of_pods.sort();
        assert_eq!(of_pods, ["from one", "from two"], "one pod of a group has each");
        Ok(())
    })
}

#[test]
fn what_needs_a_store_refuses_a_topic_without_one() -> Result<()> {
    shared("id-none", async |test| {
        test.account("credit").await?;
        test.account("other").await?;
        let grants = to("credit", "Reply", ", subjects: [id-none.check]") + &to("other", "Reply", "");
        test.ns.apply(&live("id-none", &grants)).await?;
        let refused = test.ns.condition::<Topic>("id-none", "Accepted", "False", "ReplyTaken").await?;
        ensure!(refused.message.contains("credit") && refused.message.contains("grants[1]"), "{}", refused.message);
        test.ns.apply(&live("id-none", &to("credit", "Reply", ""))).await?;
        test.ns.ready::<Topic>("id-none").await?;
        test.ns.apply(&object("Subscription", "s", "  topic: {name: id-none}")).await?;
        let refused = test.ns.condition::<Subscription>("s", "Accepted", "False", "TopicStoresNothing").await?;
        ensure!(refused.message.contains("storage.type None"), "{}", refused.message);
        test.ns.apply(&Test::topic("id-none-kept", "")).await?;
        let dead = "  topic: {name: id-none-kept}\n  maxDeliver: 2\n  deadLetter: {topic: id-none}";
        test.ns.apply(&object("Subscription", "d", dead)).await?;
        test.ns.condition::<Subscription>("d", "ResolvedRefs", "False", "TopicStoresNothing").await?;
        Ok(())
    })
}

#[test]
fn a_wildcard_shows_nothing_of_others() -> Result<()> {
    shared("id-wild", async |test| {
        test.account("api").await?;
        test.ns.apply(&Test::topic("id-wild", &grant("serviceAccount: {name: api}", "Publish", ""))).await?;
        let app = test.connect(&test.login("api").await?).await?;
        until_publishes(&app, "id-wild.x").await?;
        let mut everything = app.client.subscribe(">").await?;
        app.client.flush().await?;
        test.broker.publish("id-wild.secret", "for others").await?;
        let heard = tokio::time::timeout(Duration::from_millis(700), everything.next()).await;
        ensure!(!matches!(&heard, Ok(Some(message)) if message.payload.as_ref() == b"for others"), "heard {heard:?}");
        Ok(())
    })
}

#[test]
fn a_removed_grant_is_gone_for_good_within_seconds() -> Result<()> {
    shared("id-revoke", async |test| {
        test.account("api").await?;
        let granted = Test::topic("id-revoke", &grant("serviceAccount: {name: api}", "Publish", ""));
        test.ns.apply(&granted).await?;
        let old = test.login("api").await?;
        let app = test.connect(&old).await?;
        until_publishes(&app, "id-revoke.x").await?;
        let removed = Instant::now();
        test.ns.apply(&Test::topic("id-revoke", "")).await?;
        eventually("the refusal", SOON, async || {
            if publishes(&app, "id-revoke.x").await { Err("still stored".to_owned()) } else { Ok(Some(())) }
        })
        .await?;
        println!("revoked within {:?}", removed.elapsed());
        // The old credential is that of nobody now, and stays so when the grant comes back. A publish that only took long may
        // have looked like a refusal.
        eventually("the end of the old credential", SOON, async || {
            if test.connect(&old).await.is_ok() { Err("it works".to_owned()) } else { Ok(Some(())) }
        })
        .await?;
        test.ns.apply(&granted).await?;
        let fresh = eventually("new credentials", SOON, async || {
            let login = test.login("api").await.map_err(|error| error.to_string())?;
            if login.jwt == old.jwt { Err("the old ones".to_owned()) } else { Ok(Some(login)) }
        })
        .await?;
        until_publishes(&test.connect(&fresh).await?, "id-revoke.x").await?;
        ensure!(test.connect(&old).await.is_err(), "the old credential works again");
        Ok(())
    })
}

#[test]
fn a_subscription_of_another_namespace_needs_a_grant() -> Result<()> {
    shared("id-cross", async |test| {
        test.stack
            .kube
            .with_namespace("id-crm", async |crm| {
                let spec = format!("  topic: {{name: id-cross, namespace: {}}}\n", test.ns.name);
                crm.apply(&object("Subscription", "s", &spec)).await?;
                crm.condition::<Subscription>("s", "ResolvedRefs", "False", "TopicNotFound").await?;
                test.ns.apply(&Test::topic("id-cross", "")).await?;
                let refused = crm.condition::<Subscription>("s", "ResolvedRefs", "False", "RefNotPermitted").await?;
                ensure!(refused.message.contains("grant"), "{}", refused.message);
                let to = format!("namespace: {}", crm.name);
                let part = grant(&to, "Subscribe", ", subjects: [id-cross.public]");
                test.ns.apply(&Test::topic("id-cross", &part)).await?;
                let eventually_told = async || {
                    let subscription = crm.get::<Subscription>("s").await.map_err(|error| error.to_string())?;
                    let told = format!("{:?}", subscription.status.map(|status| status.conditions));
                    if told.contains("id-cross.public") { Ok(Some(())) } else { Err(told) }
                };
                eventually("word about what is granted", SOON, eventually_told).await?;
                test.ns.apply(&Test::topic("id-cross", &grant(&to, "Subscribe", ""))).await?;
                crm.ready::<Subscription>("s").await?;
                let reader = test.connect(&login(crm, "platform.retail.default").await?).await?;
                test.broker.publish("id-cross.a", "over the border").await?;
                let (stream, consumer) = (test.stream_name("id-cross"), format!("sub_{}_s", crm.name));
                let message = eventually("an event", SOON, async || {
                    reader.fetch(&stream, &consumer).await.map(Some).map_err(|error| format!("{error:#}"))
                })
                .await?;
                assert_eq!(message.payload.as_ref(), b"over the border");
                test.ns.apply(&Test::topic("id-cross", "")).await?;
                crm.condition::<Subscription>("s", "ResolvedRefs", "False", "RefNotPermitted").await?;
                Ok(())
            })
            .await
    })
}

#[test]
fn a_grant_to_nobody_is_told_and_holds_when_they_come() -> Result<()> {
    shared("id-nobody", async |test| {
        let topic = Test::topic(
            "id-nobody",
            "  grants:\n  - {to: {serviceAccount: {name: later}}, allow: [Publish]}\n  - {to: {client: ghost}, allow: [Publish]}\n  - {to: {namespace: nowhere}, allow: [Publish], subjects: [elsewhere]}\n",
        );
        test.ns.apply(&topic).await?;
        let warned = test.ns.condition::<Topic>("id-nobody", "Accepted", "True", "AcceptedWithWarning").await?;
        for word in ["later does not exist", "client ghost", "namespace nowhere", "`elsewhere`"] {
            ensure!(warned.message.contains(word), "{word}: {}", warned.message);
        }
        test.account("later").await?;
        let app = test.connect(&test.login("later").await?).await?;
        until_publishes(&app, "id-nobody.x").await?;
        let secret = test.ns.get::<Secret>("platform.retail.later").await?;
        assert_eq!(secret.owner_references()[0].kind, "ServiceAccount");
        let account = test.ns.get::<ServiceAccount>("later").await?;
        test.ns.delete::<ServiceAccount>(&account.name_any()).await?;
        eventually("the refusal", SOON, async || {
            if publishes(&app, "id-nobody.x").await { Err("still stored".to_owned()) } else { Ok(Some(())) }
        })
        .await
    })
}

#[test]
fn a_spoiled_secret_is_issued_again() -> Result<()> {
    shared("id-spoiled", async |test| {
        test.account("api").await?;
        test.ns.apply(&Test::topic("id-spoiled", &grant("serviceAccount: {name: api}", "Publish", ""))).await?;
        let first = test.login("api").await?;
        let rubbish = json!({"stringData": {"jwt": "rubbish", "nats.creds": "rubbish"}});
        test.ns.patch::<Secret>("platform.retail.api", rubbish).await?;
        let whole = eventually("whole credentials", SOON, async || {
            let login = test.login("api").await.map_err(|error| error.to_string())?;
            login.claims().map(|_| Some(login)).map_err(|error| error.to_string())
        })
        .await?;
        until_publishes(&test.connect(&whole).await?, "id-spoiled.x").await?;
        // Nobody was shut out by it.
        until_publishes(&test.connect(&first).await?, "id-spoiled.x").await
    })
}

#[test]
fn clients_and_keys_of_a_mesh() -> Result<()> {
    alone("id-mesh", async |stack, ns| {
        let mesh = |more: &str| object("EventMesh", "m", &format!("  brokers: {{replicas: 1}}\n{more}"));
        ns.apply(&mesh("  clients: [{name: press-42, lifetime: 2h}]\n")).await?;
        ns.condition::<EventMesh>("m", "Programmed", "True", "Programmed").await?;
        stack.start_broker(ns, "m").await?;
        let topic = format!("  mesh: {{name: m}}\n{}", grant("client: press-42", "Publish, Subscribe", ""));
        ns.apply(&object("Topic", "t", &topic)).await?;
        ns.ready::<Topic>("t").await?;
        let press = login(ns, "m-client-press-42").await?;
        let app = Broker::connect(&stack.broker_address(), &press).await?;
        until_publishes(&app, "t.x").await?;
        let claims = press.claims()?;
        let lifetime = claims["exp"].as_i64().context("an end")? - claims["iat"].as_i64().context("a begin")?;
        ensure!((7200..7400).contains(&lifetime), "{lifetime} s");

        // Keys that somebody spoils are put back, and nobody notices.
        let keys = ns.get::<Secret>("m-keys").await?.data;
        ns.patch::<Secret>("m-keys", json!({"stringData": {"mesh.seed": "rubbish"}})).await?;
        let back = |secret: &Secret| (secret.data == keys).then_some(());
        ns.until::<Secret, _>("m-keys", "the keys again", back).await?;
        ns.delete::<Secret>("m-identities").await?;
        ns.until::<Secret, _>("m-identities", "the record again", |secret| secret.data.as_ref().map(drop)).await?;
        app.publish("t.x", "x").await.context("the client was shut out")?;

        // An operator that starts with spoiled keys makes no others.
        stack.operator.process.kill()?;
        ns.patch::<Secret>("m-keys", json!({"stringData": {"mesh.seed": "rubbish"}})).await?;
        stack.restart_operator().await?;
        let refused = ns.condition::<EventMesh>("m", "ResolvedRefs", "False", "KeysUnreadable").await?;
        ensure!(refused.message.contains("mesh.seed") && !refused.message.contains("rubbish"), "{}", refused.message);
        app.publish("t.x", "x").await.context("what runs does not go on")?;
        ns.delete::<Secret>("m-keys").await?;
        ns.condition::<EventMesh>("m", "ResolvedRefs", "False", "KeysMissing").await?;
        let seeds = keys
            .context("keys")?
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8_lossy(&value.0).into_owned()));
        let restored = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "m-keys"}, "stringData": seeds.collect::<std::collections::BTreeMap<_, _>>()});
        ns.apply(&restored.to_string()).await?;
        ns.condition::<EventMesh>("m", "ResolvedRefs", "True", "ResolvedRefs").await?;

        // A client that is removed is shut out, and its Secret goes.
        ns.apply(&mesh("")).await?;
        eventually("the refusal", SOON, async || {
            if publishes(&app, "t.x").await { Err("still stored".to_owned()) } else { Ok(Some(())) }
        })
        .await?;
        ns.gone::<Secret>("m-client-press-42").await
    })
}

#[test]
fn credentials_are_renewed_in_time_and_signing_keys_can_be_changed() -> Result<()> {
    alone("id-renew", async |stack, ns| {
        let mesh = |annotations: &str| {
            format!(
                "apiVersion: eventmesh.dev/v1alpha1\nkind: EventMesh\nmetadata: {{name: m, annotations: {{{annotations}}}}}\n\
                 spec:\n  brokers: {{replicas: 1}}\n  identities: {{lifetime: 2m}}\n"
            )
        };
        ns.apply(&mesh("")).await?;
        ns.condition::<EventMesh>("m", "Programmed", "True", "Programmed").await?;
        stack.start_broker(ns, "m").await?;
        let topic = format!("  mesh: {{name: m}}\n{}", grant("serviceAccount: {name: default}", "Publish", ""));
        ns.apply(&object("Topic", "t", &topic)).await?;
        let secret = format!("{}.m.default", ns.name);
        let first = login(ns, &secret).await?;
        let other = async |old: &Login, limit| {
            eventually("other credentials", limit, async || {
                let login = login(ns, &secret).await.map_err(|error| error.to_string())?;
                if login.jwt == old.jwt { Err("the old ones".to_owned()) } else { Ok(Some(login)) }
            })
            .await
        };
        ns.apply(&mesh("eventmesh.dev/rotate-signing-keys: 'one'")).await?;
        let rotated = other(&first, SOON).await?;
        assert_ne!(rotated.claims()?["iss"], first.claims()?["iss"], "another key has signed it");
        until_publishes(&Broker::connect(&stack.broker_address(), &rotated).await?, "t.x").await?;
        until_publishes(&Broker::connect(&stack.broker_address(), &first).await?, "t.x").await?;
        let renewed = other(&rotated, Duration::from_mins(3)).await?;
        assert_eq!(renewed.claims()?["iss"], rotated.claims()?["iss"]);
        let now = k8s_openapi::jiff::Timestamp::now().as_second();
        ensure!(rotated.claims()?["exp"].as_i64() > Some(now), "the old credentials had already ended");
        until_publishes(&Broker::connect(&stack.broker_address(), &renewed).await?, "t.x").await
    })
}

#[test]
fn a_namespace_that_takes_no_secret_keeps_nobody_waiting() -> Result<()> {
    shared("id-stuck", async |test| {
        // Without the controllers of a whole cluster it stays as it is: being deleted.
        let going = test.stack.kube.make_namespace("id-going").await?;
        let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
            kube::Api::all(test.stack.kube.client.clone());
        namespaces.delete(&going.name, &kube::api::DeleteParams::background()).await?;
        test.account("api").await?;
        let grants = format!(
            "  grants:\n  - {{to: {{namespace: {}}}, allow: [Publish]}}\n  - {{to: {{serviceAccount: {{name: api}}}}, allow: [Publish]}}\n",
            going.name
        );
        test.ns.apply(&Test::topic("id-stuck", &grants)).await?;
        let app = test.connect(&test.login("api").await?).await?;
        until_publishes(&app, "id-stuck.x").await
    })
}
