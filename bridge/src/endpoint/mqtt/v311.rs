//! MQTT 3.1.1 behind [`Client`]. It has no user properties, no reasons, and no receive maximum.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use rumqttc_v4::mqttbytes::v4::{ConnectReturnCode, Packet, PubAck, Publish, SubscribeReasonCode};
use rumqttc_v4::{
    AckMode, AsyncClient, ConnectionError, Event, EventLoop, ManualAck, MqttOptions, NetworkOptions, PersistedAckMode,
    PersistedSession, PublishOptions, QoS, SessionStore, SessionStoreError, SessionStoreKey, StateError,
    SubscribeFilter, TlsConfiguration, Transport,
};

use super::client::{self, Client, LinkError, Options, Outgoing, Publication, PublishError, Published, Signal};
use super::stream;
use crate::ledger::SendAck;

/// What the protocol itself allows.
const MAX_PACKET: usize = 268_435_455;

#[derive(Clone)]
pub struct V311 {
    client: AsyncClient,
    farewell: Arc<stream::Farewell>,
}

pub struct Loop {
    inner: EventLoop,
    options: Options,
    connected: bool,
}

impl Client for V311 {
    type EventLoop = Loop;

    fn new(options: &Options) -> (Self, Loop) {
        let endpoint = &options.endpoint;
        let farewell: Arc<stream::Farewell> = Arc::default();
        let socket_farewell = Arc::clone(&farewell);
        let address = options.address.clone();
        let mut mqtt = MqttOptions::new(endpoint.client_id.clone(), (options.name(), options.address.port));
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(client::CONNECT_TIMEOUT.as_secs());
        mqtt.set_keep_alive(endpoint.keep_alive_seconds)
            .set_clean_session(false)
            .set_inflight(options.max_in_flight)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET)
            .set_ack_mode(AckMode::Manual)
            .set_read_batch_size(128)
            .set_max_request_batch(256)
            .set_socket_connector(move |_, _| stream::connect(address.clone(), Arc::clone(&socket_farewell)));
        if let Some(username) = &endpoint.username {
            let password = endpoint.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
            mqtt.set_credentials(username.clone(), password);
        }
        if let Some(tls) = &options.tls {
            mqtt.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
        }
        mqtt.set_session_store(NothingPending { session: empty_session(&mqtt) });
        let (client, mut event_loop) = AsyncClient::builder(mqtt).unbounded().build();
        event_loop.set_network_options(network);
        (Self { client, farewell }, Loop { inner: event_loop, options: options.clone(), connected: false })
    }

    async fn poll(this: &mut Loop) -> Result<Signal, LinkError> {
        match this.inner.poll().await {
            Ok(event) => Ok(this.signal(event)),
            Err(error) => Err(this.explain(error)),
        }
    }

    fn subscribe(&self, filters: &[String], at_least_once: bool) -> Result<(), LinkError> {
        let qos = if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), qos));
        self.client.try_subscribe_many(filters).map_err(|error| LinkError::away(error.to_string()))
    }

    fn unsubscribe(&self, filter: &str) -> Result<(), LinkError> {
        self.client.try_unsubscribe(filter).map_err(|error| LinkError::away(error.to_string()))
    }

    fn acknowledger(&self) -> SendAck {
        let client = self.client.clone();
        // It fails only when the connection is gone, and then the broker delivers the event again.
        Box::new(move |packet| drop(client.try_manual_ack(ManualAck::PubAck(PubAck::new(packet)))))
    }

    fn publish(&self, message: Outgoing) -> Result<Published, LinkError> {
        let qos = if message.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let options = PublishOptions::new(qos).retain(message.retain);
        let notice = self
            .client
            .try_publish_tracked(message.topic, message.payload, options)
            .map_err(|error| LinkError::away(error.to_string()))?;
        Ok(notice.wait_async().map(|result| result.map(drop).map_err(|_| PublishError::Lost)).boxed())
    }

    async fn closed(&self) {
        self.farewell.closed().await;
    }

    fn disconnect(&self) {
        self.farewell.last_words();
        let _ = self.client.try_disconnect_with_timeout(client::GOODBYE);
    }
}

impl Loop {
    fn signal(&mut self, event: Event) -> Signal {
        let packet = match event {
            Event::Incoming(packet) => packet,
            Event::Outgoing(rumqttc_v4::Outgoing::PubAck(_)) => return Signal::Acknowledged,
            Event::Outgoing(_) => return Signal::Other,
        };
        match packet {
            Packet::ConnAck(connack) => {
                self.connected = true;
                // The empty checkpoint was for this moment only; saving one with each packet would cost a lot.
                self.inner.mqtt_options.clear_session_store();
                Signal::Connected { session_present: connack.session_present, max_packet: None }
            }
            Packet::Publish(publish) => Signal::Publication(publication(publish)),
            Packet::SubAck(suback) => Signal::Subscribed(suback.return_codes.into_iter().map(refusal).collect()),
            _ => Signal::Other,
        }
    }

    fn explain(&self, error: ConnectionError) -> LinkError {
        match error {
            ConnectionError::ConnectionRefused(code) => refused(code),
            ConnectionError::Io(error) if !self.connected => client::connect_failed(&self.options, &error),
            ConnectionError::MqttState(StateError::ConnectionAborted) if !self.connected => {
                client::connect_failed(&self.options, &std::io::ErrorKind::UnexpectedEof.into())
            }
            ConnectionError::NetworkTimeout => client::timed_out(&self.options.address),
            ConnectionError::MqttState(StateError::ConnectionAborted) => {
                LinkError::away("the broker closed the connection")
            }
            ConnectionError::MqttState(StateError::AwaitPingResp) => LinkError::away("the broker no longer answers"),
            error => client::tls_failed(&self.options, &error).unwrap_or_else(|| LinkError::away(error.to_string())),
        }
    }
}

fn refused(code: ConnectReturnCode) -> LinkError {
    let advice = match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => "check username and password",
        ConnectReturnCode::BadClientId => "choose another clientId",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1; set version V5",
        _ => "the broker's log says why",
    };
    LinkError::refused(format!("the broker refused the connection: {code:?}; {advice}"))
}

fn refusal(code: SubscribeReasonCode) -> Option<String> {
    match code {
        SubscribeReasonCode::Success(_) => None,
        SubscribeReasonCode::Failure => Some("the broker refused the subscription".to_owned()),
    }
}

fn publication(publish: Publish) -> Publication {
    Publication {
        topic: publish.topic,
        payload: publish.payload,
        packet: publish.pkid,
        redelivery: publish.dup,
        headers: Vec::new(),
    }
}

fn empty_session(mqtt: &MqttOptions) -> PersistedSession {
    PersistedSession {
        format_version: 1,
        client_id: mqtt.client_id(),
        clean_session: mqtt.clean_session(),
        max_inflight: mqtt.inflight(),
        ack_mode: PersistedAckMode::Manual,
        last_pkid: 0,
        last_puback: 0,
        replay: Vec::new(),
        incoming_qos2: Vec::new(),
    }
}

type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// Tells the client that this side of the session has nothing pending. That is true: the bridge keeps its own ledger, and
/// publishes again what was not acknowledged. Without it the client would refuse to resume the broker's session.
#[derive(Debug)]
struct NothingPending {
    session: PersistedSession,
}

impl SessionStore for NothingPending {
    fn load<'a>(&'a self, _: &'a SessionStoreKey) -> StoreFuture<'a, Option<PersistedSession>> {
        Box::pin(async { Ok(Some(self.session.clone())) })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
