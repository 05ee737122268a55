//! MQTT 5 behind [`Client`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use rumqttc::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Packet, PubAck, PubAckReason, Publish, PublishProperties,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::{
    AckMode, AsyncClient, ConnectionError, Event, EventLoop, ManualAck, MqttOptions, PersistedAckMode,
    PersistedSession, PublishNoticeError, PublishOptions, PublishResult, QoS, SessionStore, SessionStoreError,
    SessionStoreKey, StateError, SubscribeFilter, TlsConfiguration, Transport,
};

use super::client::{
    self, Client, LinkError, LinkErrorKind, Options, Outgoing, Publication, PublishError, Published, Signal,
};
use super::stream;
use crate::event::Headers;
use crate::ledger::SendAck;

#[derive(Clone)]
pub struct V5 {
    client: AsyncClient,
    farewell: Arc<stream::Farewell>,
}

pub struct Loop {
    inner: EventLoop,
    options: Options,
    connected: bool,
}

impl Client for V5 {
    type EventLoop = Loop;

    fn new(options: &Options) -> (Self, Loop) {
        let endpoint = &options.endpoint;
        let farewell: Arc<stream::Farewell> = Arc::default();
        let socket_farewell = Arc::clone(&farewell);
        let address = options.address.clone();
        let mut mqtt = MqttOptions::new(endpoint.client_id.clone(), (options.name(), options.address.port));
        mqtt.set_keep_alive(endpoint.keep_alive_seconds)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(endpoint.session_expiry_seconds))
            .set_receive_maximum(Some(options.max_in_flight))
            .set_outgoing_inflight_upper_limit(options.max_in_flight)
            .set_unlimited_incoming_packet_size()
            .set_ack_mode(AckMode::Manual)
            .set_connect_timeout(client::CONNECT_TIMEOUT)
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
        let (client, event_loop) = AsyncClient::builder(mqtt).unbounded().build();
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
        // Kept values come once, when a subscription is new, and not again at each reconnect.
        let filters = filters.iter().map(|filter| SubscribeFilter {
            retain_forward_rule: RetainForwardRule::OnNewSubscribe,
            ..SubscribeFilter::new(filter.clone(), qos)
        });
        self.client.try_subscribe_many(filters).map_err(|error| LinkError::away(error.to_string()))
    }

    fn unsubscribe(&self, filter: &str) -> Result<(), LinkError> {
        self.client.try_unsubscribe(filter).map_err(|error| LinkError::away(error.to_string()))
    }

    fn acknowledger(&self) -> SendAck {
        let client = self.client.clone();
        // It fails only when the connection is gone, and then the broker delivers the event again.
        Box::new(move |packet| drop(client.try_manual_ack(ManualAck::PubAck(PubAck::new(packet, None)))))
    }

    fn publish(&self, message: Outgoing) -> Result<Published, LinkError> {
        let qos = if message.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let mut properties = PublishProperties::default();
        for (name, value) in message.headers {
            if name.eq_ignore_ascii_case("content-type") {
                properties.content_type = Some(value);
            } else {
                properties.user_properties.push((name, value));
            }
        }
        let options = PublishOptions::new(qos).retain(message.retain).properties(properties);
        let notice = self
            .client
            .try_publish_tracked(message.topic, message.payload, options)
            .map_err(|error| LinkError::away(error.to_string()))?;
        Ok(notice
            .wait_async()
            .map(|result| match result {
                Ok(PublishResult::Qos1(ack)) if ack.reason as u8 >= PubAckReason::UnspecifiedError as u8 => {
                    Err(PublishError::Refused(format!("the broker refused the publication: {:?}", ack.reason)))
                }
                Ok(_) => Ok(()),
                Err(PublishNoticeError::V5PubAck(reason)) => {
                    Err(PublishError::Refused(format!("the broker refused the publication: {reason:?}")))
                }
                Err(_) => Err(PublishError::Lost),
            })
            .boxed())
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
            Event::Outgoing(rumqttc::Outgoing::PubAck(_)) => return Signal::Acknowledged,
            _ => return Signal::Other,
        };
        match packet {
            Packet::ConnAck(connack) => {
                self.connected = true;
                // The empty checkpoint was for this moment only; saving one with each packet would cost a lot.
                self.inner.options.clear_session_store();
                let max_packet = connack.properties.as_ref().and_then(|properties| properties.max_packet_size);
                Signal::Connected { session_present: connack.session_present, max_packet }
            }
            Packet::Publish(publish) => Signal::Publication(publication(publish)),
            Packet::SubAck(suback) => Signal::Subscribed(suback.return_codes.into_iter().map(refusal).collect()),
            _ => Signal::Other,
        }
    }

    fn explain(&self, error: ConnectionError) -> LinkError {
        match error {
            ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::SessionTakenOver,
                ..
            }) => LinkError {
                message: format!(
                    "another client connected with the client id `{}`; give each client its own",
                    self.options.endpoint.client_id
                ),
                kind: LinkErrorKind::TakenOver,
            },
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => LinkError::away(
                format!("the broker ended the connection: {reason_code:?} {}", reason_string.unwrap_or_default()),
            ),
            ConnectionError::ConnectionRefused(code)
            | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => refused(code),
            ConnectionError::Io(error) if !self.connected => client::connect_failed(&self.options, &error),
            ConnectionError::MqttState(StateError::ConnectionAborted) if !self.connected => {
                client::connect_failed(&self.options, &std::io::ErrorKind::UnexpectedEof.into())
            }
            ConnectionError::Timeout(_) => client::timed_out(&self.options.address),
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
        ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => "choose another clientId",
        ConnectReturnCode::UnsupportedProtocolVersion => "it does not speak MQTT 5; set version V311",
        _ => "the broker's log says why",
    };
    LinkError::refused(format!("the broker refused the connection: {code:?}; {advice}"))
}

fn refusal(code: SubscribeReasonCode) -> Option<String> {
    match code {
        SubscribeReasonCode::Success(_) => None,
        other => Some(format!("the broker refused the subscription: {other:?}")),
    }
}

fn publication(publish: Publish) -> Publication {
    let headers = publish.properties.map(headers).unwrap_or_default();
    Publication {
        topic: publish.topic,
        payload: publish.payload,
        packet: publish.pkid,
        redelivery: publish.dup,
        headers,
    }
}

fn headers(properties: PublishProperties) -> Headers {
    let mut headers = properties.user_properties;
    headers.extend(properties.content_type.map(|value| ("content-type".to_owned(), value)));
    headers.extend(properties.response_topic.map(|value| ("mqtt-response-topic".to_owned(), value)));
    headers
}

fn empty_session(mqtt: &MqttOptions) -> PersistedSession {
    PersistedSession {
        format_version: 1,
        client_id: mqtt.client_id(),
        clean_start: mqtt.clean_start(),
        session_expiry_interval: mqtt.session_expiry_interval(),
        outgoing_inflight_upper_limit: mqtt.get_outgoing_inflight_upper_limit(),
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
