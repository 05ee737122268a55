//! An MQTT 5 broker that takes connections and then hangs, as overloaded brokers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// What it does not do until it is told to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hangs {
    /// Publications come in, and no PUBACK goes out.
    WithPubacks,
    /// It stops reading at the first publication; going on, it closes the connection and is a good broker on the next.
    WithReading,
}

pub struct HangingBroker {
    pub url: String,
    published: Arc<AtomicUsize>,
    connects: Arc<AtomicUsize>,
    taken_over: Arc<tokio::sync::Notify>,
    go_on: watch::Sender<bool>,
}

impl HangingBroker {
    pub async fn start(hangs: Hangs) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let (published, connects, taken_over) =
            <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<tokio::sync::Notify>)>::default();
        let (go_on, gone_on) = watch::channel(false);
        let (count, connections, takeover) = (Arc::clone(&published), Arc::clone(&connects), Arc::clone(&taken_over));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(socket, hangs, Arc::clone(&count), Arc::clone(&takeover), gone_on.clone()));
            }
        });
        Self { url, published, connects, taken_over, go_on }
    }

    /// Publications that came in.
    pub fn published(&self) -> usize {
        self.published.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }

    /// Tells the client that another one took its session.
    pub fn take_over(&self) {
        self.taken_over.notify_one();
    }

    pub fn go_on(&self) {
        self.go_on.send_replace(true);
    }
}

/// One connection; its end is the end of the task.
async fn serve(
    socket: TcpStream,
    hangs: Hangs,
    published: Arc<AtomicUsize>,
    taken_over: Arc<tokio::sync::Notify>,
    mut go_on: watch::Receiver<bool>,
) {
    let (reader, mut writer) = socket.into_split();
    let (packets_in, mut packets) = mpsc::unbounded_channel();
    let good = *go_on.borrow_and_update();
    let reading = tokio::spawn(read(reader, packets_in, hangs == Hangs::WithReading && !good));
    let mut held = Vec::new();
    let mut holds = hangs == Hangs::WithPubacks && !good;
    loop {
        let answer = tokio::select! {
            packet = packets.recv() => match packet {
                Some((0x10, _)) => vec![0x20, 3, 0, 0, 0],
                Some((0x82, body)) => vec![0x90, 4, body[0], body[1], 0, 1],
                Some((0xc0, _)) => vec![0xd0, 0],
                Some((kind, body)) if kind & 0xf0 == 0x30 => {
                    published.fetch_add(1, Ordering::Relaxed);
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    match kind & 0x06 {
                        0 => vec![],
                        _ if holds => { held.push([body[2 + topic], body[3 + topic]]); vec![] }
                        _ => vec![0x40, 2, body[2 + topic], body[3 + topic]],
                    }
                }
                Some(_) => vec![],
                None => break,
            },
            () = taken_over.notified() => {
                let _ = writer.write_all(&[0xe0, 2, 0x8e, 0]).await;
                break;
            }
            Ok(()) = go_on.changed() => {
                if hangs == Hangs::WithReading {
                    break;
                }
                holds = false;
                held.drain(..).flat_map(|id| [0x40, 2, id[0], id[1]]).collect()
            }
        };
        if writer.write_all(&answer).await.is_err() {
            break;
        }
    }
    reading.abort();
}

async fn read(mut reader: OwnedReadHalf, packets: mpsc::UnboundedSender<(u8, Vec<u8>)>, until_publication: bool) {
    while let Some((kind, body)) = packet(&mut reader).await {
        let publication = kind & 0xf0 == 0x30;
        let _ = packets.send((kind, body));
        if publication && until_publication {
            packets.closed().await;
            return;
        }
    }
}

async fn packet(reader: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let kind = reader.read_u8().await.ok()?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = reader.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}
