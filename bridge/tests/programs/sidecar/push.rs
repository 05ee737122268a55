//! Push Subscriptions in the whole sidecar; what pushing does is shown by `bridge/tests/push`.

use eventmesh_tests::http::Collector;
use eventmesh_tests::wait::eventually;

use super::world::{LIMIT, World, sidecar_json, sidecar_json_with_push};

#[tokio::test]
async fn a_push_subscription_that_the_binding_names_reaches_the_application_and_one_that_it_names_no_more_does_not() {
    let world = World::new().await;
    let application = Collector::start().await.unwrap();
    let publish = async |text: &'static str| {
        let context = async_nats::jetstream::new(world.mesh.clone());
        context.publish("out.a", text.into()).await.unwrap().await.unwrap();
    };
    publish("before").await;
    world.bind(&world.accounts.bridge().unwrap(), Some(&sidecar_json_with_push(&application)));
    publish("after").await;
    let received = application.until(LIMIT, |received| received.len() == 2).await.unwrap();
    assert!(received.iter().all(|one| one.path == "/events"), "{received:?}");
    let delivered = "eventmesh_sidecar_push_events_total{subscription=\"mail\",outcome=\"delivered\"}";
    eventually("both counted", LIMIT, async || match world.sidecar.metric(delivered).await {
        Ok(2.0) => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    let text = world.sidecar.admin("/metrics").await.unwrap().body;
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");

    world.bind(&world.accounts.bridge().unwrap(), Some(&sidecar_json()));
    eventually("no push", LIMIT, async || match world.sidecar.admin("/metrics").await {
        Ok(answer) if !answer.body.contains("subscription=") => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    let client = async_nats::jetstream::new(world.mesh.clone());
    let mut consumer: async_nats::jetstream::consumer::PullConsumer =
        client.get_consumer_from_stream("c", "OUT").await.unwrap();
    // What was asked for before may still come.
    eventually("end of all requests", LIMIT, async || match consumer.info().await {
        Ok(info) if info.num_waiting == 0 => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    publish("nobody asked").await;
    eventually("the event waits", LIMIT, async || match consumer.info().await {
        Ok(info) if info.num_pending == 1 => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    assert_eq!(application.received().len(), 2);
}
