//! MQTT 3.1.1 as an attacker writes it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::wire::{Trust, careless};
use crate::{tls, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const SURELY: Duration = Duration::from_mins(1);

/// How a device connects.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    pub id: String,
    pub user: String,
    pub password: String,
    /// Topic and text of a will.
    pub will: Option<(String, String)>,
    /// Whether the session of before goes on.
    pub resume: bool,
}

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A message: topic and payload.
    Publish(String, Vec<u8>),
    /// Kind and return code of an answer.
    Answer(u8, u8),
    Closed,
}

pub const SUBACK: u8 = 9;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBCOMP: u8 = 7;
const CONNACK: u8 = 2;
const PINGRESP: u8 = 13;

/// A device that was let in.
pub struct Device {
    write: Box<dyn AsyncWrite + Unpin + Send>,
    heard: mpsc::UnboundedReceiver<Packet>,
    reader: JoinHandle<()>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Device {
    /// Connects; the error is the broker's answer.
    pub async fn enter(address: &str, trust: &Trust, hello: &Hello) -> Result<Self> {
        tokio::time::timeout(PATIENCE, Self::try_to_enter(address, trust, hello))
            .await
            .map_err(|_| anyhow!("no answer"))?
    }

    /// Connects where that must work: the first one waits until the broker has made what it keeps of sessions.
    pub async fn enter_surely(address: &str, trust: &Trust, hello: &Hello) -> Result<Self> {
        wait::eventually(&format!("way in at {address}"), SURELY, async || {
            Self::enter(address, trust, hello).await.map(Some).map_err(|error| format!("{error:#}"))
        })
        .await
    }

    async fn try_to_enter(address: &str, trust: &Trust, hello: &Hello) -> Result<Self> {
        let tcp = TcpStream::connect(address).await.context("cannot connect")?;
        let (heard_in, heard) = mpsc::unbounded_channel();
        let (write, reader): (Box<dyn AsyncWrite + Unpin + Send>, _) = if *trust == Trust::Plain {
            let (read, write) = tokio::io::split(tcp);
            (Box::new(write), tokio::spawn(listen(read, heard_in)))
        } else {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
            let config = if let Trust::Authorities(pem) = trust { tls::trusting(pem)? } else { careless()? };
            let io =
                TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host)?, tcp).await.context("TLS")?;
            let (read, write) = tokio::io::split(io);
            (Box::new(write), tokio::spawn(listen(read, heard_in)))
        };
        let mut device = Self { write, heard, reader };
        device.packet(0x10, &connect(hello)).await?;
        match device.heard.recv().await {
            Some(Packet::Answer(CONNACK, 0)) => Ok(device),
            Some(Packet::Answer(CONNACK, code)) => bail!("refused with code {code}"),
            _ => bail!("it hangs up"),
        }
    }

    async fn packet(&mut self, first: u8, body: &[u8]) -> Result<()> {
        let mut bytes = vec![first];
        let mut rest = body.len();
        loop {
            let digit = u8::try_from(rest % 128)?;
            rest /= 128;
            bytes.push(if rest > 0 { digit | 0x80 } else { digit });
            if rest == 0 {
                break;
            }
        }
        bytes.extend(body);
        self.write.write_all(&bytes).await?;
        Ok(self.write.flush().await?)
    }

    pub async fn publish(&mut self, topic: &str, body: &[u8], qos: u8, retain: bool) -> Result<()> {
        let mut packet = text(topic);
        if qos > 0 {
            packet.extend(7_u16.to_be_bytes());
        }
        packet.extend(body);
        self.packet(0x30 | (qos << 1) | u8::from(retain), &packet).await?;
        if qos == 2 {
            self.packet(0x62, &7_u16.to_be_bytes()).await?;
        }
        Ok(())
    }

    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        let mut packet = 9_u16.to_be_bytes().to_vec();
        packet.extend(text(filter));
        packet.push(qos);
        self.packet(0x82, &packet).await
    }

    /// What comes until it is silent for `limit` or has hung up, or until `enough` came.
    pub async fn hear(&mut self, limit: Duration, mut enough: impl FnMut(&Packet) -> bool) -> Vec<Packet> {
        let mut all = Vec::new();
        while let Ok(packet) = tokio::time::timeout(limit, self.heard.recv()).await {
            let packet = packet.unwrap_or(Packet::Closed);
            let last = packet == Packet::Closed || enough(&packet);
            all.push(packet);
            if last {
                break;
            }
        }
        all
    }

    /// Hangs up without a word, so that the will is published.
    pub async fn die(mut self) {
        let _ = self.write.shutdown().await;
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn connect(hello: &Hello) -> Vec<u8> {
    let mut flags = if hello.resume { 0 } else { 0x02 };
    let mut payload = text(&hello.id);
    if let Some((topic, body)) = &hello.will {
        flags |= 0x04;
        payload.extend(text(topic));
        payload.extend(text(body));
    }
    if !hello.user.is_empty() {
        flags |= 0x80;
        payload.extend(text(&hello.user));
    }
    if !hello.password.is_empty() {
        flags |= 0x40;
        payload.extend(text(&hello.password));
    }
    let mut packet = text("MQTT");
    packet.extend([4, flags, 0, 60]);
    packet.extend(payload);
    packet
}

async fn listen(mut read: impl AsyncRead + Unpin, heard: mpsc::UnboundedSender<Packet>) {
    while let Ok(packet) = read_packet(&mut read).await {
        if let Some(packet) = packet
            && heard.send(packet).is_err()
        {
            return;
        }
    }
    let _ = heard.send(Packet::Closed);
}

async fn read_packet(read: &mut (impl AsyncRead + Unpin)) -> Result<Option<Packet>> {
    let first = read.read_u8().await?;
    let (mut size, mut shift) = (0_usize, 0);
    loop {
        let digit = read.read_u8().await?;
        size |= usize::from(digit & 0x7f) << shift;
        shift += 7;
        if digit & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; size];
    read.read_exact(&mut body).await?;
    let kind = first >> 4;
    Ok(match kind {
        3 if body.len() >= 2 => {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]])) + 2;
            let begin = if first & 0x06 == 0 { topic } else { topic + 2 };
            let name = String::from_utf8_lossy(body.get(2..topic).unwrap_or_default()).into_owned();
            Some(Packet::Publish(name, body.get(begin..).unwrap_or_default().to_vec()))
        }
        PINGRESP => None,
        _ => Some(Packet::Answer(kind, body.last().copied().unwrap_or_default())),
    })
}
