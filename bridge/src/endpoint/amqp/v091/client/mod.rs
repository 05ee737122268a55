//! A client for AMQP 0-9-1, as much as a bridge needs, on the frames of the crate `amq-protocol`.
//!
//! Why not the client of that crate's authors: docs/adr/0041.

mod channel;
mod confirms;
mod frames;
mod handshake;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, connection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::watch;

use crate::endpoint::amqp::LinkError;
use crate::endpoint::amqp::socket::{Place, Socket};

pub use channel::{Channel, Consumed, Message};
pub use confirms::Confirmation;
use frames::{Outbox, Reader};
pub use handshake::Login;

/// Why a channel is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The broker's reply code; 0 when the connection is gone, or the channel fell with another's fault.
    pub code: u16,
    pub text: String,
}

impl Closed {
    pub const NOT_FOUND: u16 = 404;
    pub const ACCESS_REFUSED: u16 = 403;
    pub const LOCKED: u16 = 405;
    pub const PRECONDITION_FAILED: u16 = 406;

    pub fn lost() -> Self {
        Self { code: 0, text: String::new() }
    }

    /// The size of the message that is larger than the broker takes, where that is the reason.
    pub fn too_large(&self) -> Option<usize> {
        let (_, rest) = self.text.split_once("message size ")?;
        let (size, _) = rest.split_once(" is larger than")?;
        size.parse().ok()
    }
}

/// What both sides agreed on.
#[derive(Debug)]
struct Settings {
    /// The largest payload of a frame.
    largest_frame: usize,
    channels: u16,
    /// How often each side lets the other hear something.
    heartbeat: Option<Duration>,
}

/// The open channels by number; `None` when the connection has ended.
struct Channels(Mutex<Option<BTreeMap<u16, Arc<Channel>>>>);

impl Channels {
    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<u16, Arc<Channel>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u16) -> Option<Arc<Channel>> {
        self.lock().as_ref()?.get(&id).cloned()
    }
}

/// Whoever waits for an answer on a channel is told when nobody is there any more to bring one, however the driver ends.
struct Ends(Arc<Channels>);

impl Drop for Ends {
    fn drop(&mut self) {
        let channels = self.0.lock().take();
        for channel in channels.into_iter().flatten() {
            channel.1.lost();
        }
    }
}

/// A connection that [`Driver`] keeps going.
pub struct Connection {
    settings: Arc<Settings>,
    outbox: Arc<Outbox>,
    channels: Arc<Channels>,
    blocked: watch::Receiver<Option<String>>,
}

/// Does the work of a connection.
pub struct Driver {
    reader: Reader<ReadHalf<Socket>>,
    writer: WriteHalf<Socket>,
    settings: Arc<Settings>,
    outbox: Arc<Outbox>,
    channels: Ends,
    blocked: watch::Sender<Option<String>>,
}

impl Connection {
    /// Greets, signs in and opens the virtual host.
    pub async fn open(place: &Place, login: &Login) -> Result<(Self, Driver), LinkError> {
        let (reader, mut writer) = tokio::io::split(place.connect().await?);
        let mut reader = Reader::new(reader);
        let settings = Arc::new(handshake::shake_hands(&mut reader, &mut writer, place, login).await?);
        reader.largest = settings.largest_frame + 8;
        let outbox = Arc::new(Outbox::default());
        let (blocked_sender, blocked) = watch::channel(None);
        let channels = Arc::new(Channels(Mutex::new(Some(BTreeMap::new()))));
        let driver = Driver {
            reader,
            writer,
            settings: Arc::clone(&settings),
            outbox: Arc::clone(&outbox),
            channels: Ends(Arc::clone(&channels)),
            blocked: blocked_sender,
        };
        Ok((Self { settings, outbox, channels, blocked }, driver))
    }

    /// A new channel.
    pub async fn channel(&self) -> Result<Arc<Channel>, Closed> {
        let channel = {
            let mut open = self.channels.lock();
            let channels = open.as_mut().ok_or_else(Closed::lost)?;
            channels.retain(|_, channel| !channel.is_closed());
            let id = (1..=self.settings.channels).find(|id| !channels.contains_key(id));
            let id = id.ok_or_else(|| Closed { code: 0, text: "no channel is left".to_owned() })?;
            let channel = Arc::new(Channel::new(id, Arc::clone(&self.settings), Arc::clone(&self.outbox)));
            channels.insert(id, Arc::clone(&channel));
            channel
        };
        channel.open().await?;
        Ok(channel)
    }

    /// Why the broker takes nothing in, while it does not.
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.clone()
    }

    /// Asks the broker to end the connection; the driver ends when it has.
    pub fn close(&self) {
        let close = connection::Close {
            reply_code: 200,
            reply_text: "the bridge stops".into(),
            ..connection::Close::default()
        };
        self.outbox.method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
    }
}

impl Driver {
    /// Runs until the connection ends: `Ok` when this side closed it.
    pub async fn run(self) -> Result<(), LinkError> {
        let Self { mut reader, writer, settings, outbox, channels, blocked } = self;
        tokio::select! {
            ended = read(&mut reader, &settings, &outbox, &channels.0, &blocked) => ended,
            ended = write(writer, &settings, &outbox) => ended,
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, settings: &Settings, outbox: &Outbox) -> Result<(), LinkError> {
    loop {
        let interval = settings.heartbeat.map_or(Duration::MAX, |interval| interval / 2);
        let bytes = if let Ok(bytes) = tokio::time::timeout(interval, outbox.take()).await {
            bytes
        } else {
            outbox.heartbeat();
            outbox.take().await
        };
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        written.await.map_err(|error| lost(&error))?;
    }
}

async fn read(
    reader: &mut Reader<impl AsyncRead + Unpin>,
    settings: &Settings,
    outbox: &Outbox,
    channels: &Channels,
    blocked: &watch::Sender<Option<String>>,
) -> Result<(), LinkError> {
    loop {
        let patience = settings.heartbeat.map_or(Duration::MAX, |interval| 2 * interval);
        let Ok(frame) = tokio::time::timeout(patience, reader.next()).await else {
            let seconds = patience.as_secs();
            return Err(LinkError::away(format!(
                "the AMQP broker was silent for {seconds} s, heartbeats included; it hangs, or the network is gone"
            )));
        };
        match frame.map_err(|error| lost(&error))? {
            AMQPFrame::Heartbeat => {}
            AMQPFrame::Method(0, AMQPClass::Connection(method)) => match method {
                connection::AMQPMethod::Blocked(reason) => {
                    blocked.send_replace(Some(reason.reason.to_string()));
                }
                connection::AMQPMethod::Unblocked(_) => {
                    blocked.send_replace(None);
                }
                connection::AMQPMethod::Close(close) => {
                    outbox.method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
                    return Err(handshake::closed(&close));
                }
                connection::AMQPMethod::CloseOk(_) => return Ok(()),
                _ => return Err(unexpected("a method that it can not send now")),
            },
            frame => {
                let channel = channel_of(&frame).and_then(|id| channels.get(id));
                // What was on its way when a channel was closed is for nobody.
                if let Some(channel) = channel {
                    channel.take(frame).map_err(|what| unexpected(what.0))?;
                }
            }
        }
    }
}

fn channel_of(frame: &AMQPFrame) -> Option<u16> {
    match frame {
        AMQPFrame::Method(id, _) | AMQPFrame::Header(id, _) | AMQPFrame::Body(id, _) => Some(*id),
        _ => None,
    }
}

fn unexpected(what: &str) -> LinkError {
    LinkError::away(format!("the AMQP broker sent {what}; the connection is made anew"))
}

fn lost(error: &io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            LinkError::away("the AMQP broker closed the connection without a word; its log may say why")
        }
        _ => LinkError::away(format!("the connection to the AMQP broker broke: {error}")),
    }
}
