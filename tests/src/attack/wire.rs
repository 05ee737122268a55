//! The protocols of NATS as an attacker writes them: each line by hand, so that nothing is held back that a client
//! library would refuse to send, and every answer is seen as it came.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::{identity, tls, wait};

/// How long a broker may take to let somebody in or to refuse.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take until somebody is let in who may.
const SURELY: Duration = Duration::from_mins(1);

/// What is spoken at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    Nats,
    WebSocket,
    Leaf,
}

/// How far a connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Nothing is.
    Plain,
    /// These authorities are trusted.
    Authorities(String),
    /// Whoever answers is believed.
    Anybody,
}

/// Where a broker listens.
#[derive(Debug, Clone)]
pub struct Door {
    /// Host and port.
    pub address: String,
    pub speech: Speech,
    pub trust: Trust,
}

/// By what somebody wants to be let in.
#[derive(Debug, Clone)]
pub enum Proof {
    Nothing,
    /// A token, and the seed that answers the broker's challenge.
    Token {
        jwt: String,
        seed: Option<String>,
    },
    Password {
        user: String,
        password: String,
    },
    /// A shared secret.
    Secret(String),
}

/// What came from the broker.
#[derive(Debug, Clone)]
pub enum Heard {
    Message(Message),
    Error(String),
    Pong,
    /// Something of the protocol between brokers.
    Line(String),
    Closed,
}

#[derive(Debug, Clone, Default)]
pub struct Message {
    pub subject: String,
    /// Status and headers as they came.
    pub head: String,
    pub body: Vec<u8>,
}

/// What is sent.
#[derive(Debug, Clone, Default)]
pub struct Publish {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that was let in.
pub struct Session {
    write: Box<dyn AsyncWrite + Unpin + Send>,
    speech: Speech,
    pub heard: mpsc::UnboundedReceiver<Heard>,
    reader: JoinHandle<()>,
    subscriptions: u32,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Door {
    #[must_use]
    pub fn with(&self, trust: Trust) -> Self {
        Self { trust, ..self.clone() }
    }

    /// Connects and proves who one is.
    ///
    /// # Errors
    /// The broker's words when it refuses.
    pub async fn enter(&self, proof: &Proof) -> Result<Session> {
        let entering = tokio::time::timeout(PATIENCE, self.try_to_enter(proof));
        entering.await.map_err(|_| anyhow!("no answer in {} s", PATIENCE.as_secs()))?
    }

    /// Connects where that must work: brokers hear of each other's accounts and connections a moment later.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn enter_surely(&self, proof: &Proof) -> Result<Session> {
        wait::eventually(&format!("way in at {}", self.address), SURELY, async || {
            self.enter(proof).await.map(Some).map_err(|error| format!("{error:#}"))
        })
        .await
    }

    async fn try_to_enter(&self, proof: &Proof) -> Result<Session> {
        let (mut io, mut early) = self.connect().await?;
        let greeting = if let Some(line) = early.take() { line } else { read_line(&mut io, self.speech).await? };
        let info: Value = serde_json::from_str(greeting.strip_prefix("INFO ").context("it does not greet")?)?;
        let hello = hello(proof, self.speech, info["nonce"].as_str().unwrap_or_default())?;
        let (read, write) = tokio::io::split(io);
        let (heard_in, heard) = mpsc::unbounded_channel();
        let reader = tokio::spawn(listen(read, self.speech, heard_in));
        let mut session = Session { write: Box::new(write), speech: self.speech, heard, reader, subscriptions: 0 };
        session.write(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await?;
        loop {
            match session.heard.recv().await {
                Some(Heard::Pong) => return Ok(session),
                Some(Heard::Error(text)) => bail!("{text}"),
                Some(Heard::Closed) | None => bail!("it hangs up"),
                Some(_) => {}
            }
        }
    }

    /// The connection itself, and the greeting where that comes before TLS.
    async fn connect(&self) -> Result<(Box<dyn Io>, Option<String>)> {
        let mut tcp = TcpStream::connect(&self.address).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        let mut early = None;
        if self.speech != Speech::WebSocket {
            early = Some(read_line(&mut tcp, Speech::Nats).await?);
        }
        let mut io: Box<dyn Io> = match &self.trust {
            Trust::Plain => Box::new(tcp),
            trust => {
                let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host).to_owned();
                let connector = TlsConnector::from(Arc::new(client_config(trust)?));
                Box::new(connector.connect(ServerName::try_from(host)?, tcp).await.context("TLS")?)
            }
        };
        if self.speech == Speech::WebSocket {
            upgrade(&mut io, &self.address).await?;
        }
        Ok((io, early))
    }
}

fn client_config(trust: &Trust) -> Result<ClientConfig> {
    match trust {
        Trust::Authorities(pem) => tls::trusting(pem),
        Trust::Plain | Trust::Anybody => careless(),
    }
}

/// A client that believes whoever answers.
pub fn careless() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous(provider))).with_no_client_auth())
}

#[derive(Debug)]
struct Credulous(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn upgrade(io: &mut Box<dyn Io>, host: &str) -> Result<()> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(io.read_u8().await.context("it hangs up")?);
    }
    let answer = String::from_utf8_lossy(&answer);
    if !answer.starts_with("HTTP/1.1 101") {
        bail!("{}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}

fn hello(proof: &Proof, speech: Speech, nonce: &str) -> Result<Value> {
    let mut hello = match speech {
        // A broker that finds a language takes it for a client at the wrong port.
        Speech::Leaf => {
            let name = nkeys::KeyPair::new_server().public_key();
            json!({"version": "2.15.2", "server_id": name, "name": name, "headers": true, "protocol": 1})
        }
        Speech::Nats | Speech::WebSocket => {
            json!({"verbose": false, "pedantic": false, "lang": "rust", "name": "attack",
            "version": "1", "protocol": 1, "headers": true, "no_responders": true})
        }
    };
    match proof {
        Proof::Nothing => {}
        Proof::Token { jwt, seed } => {
            hello["jwt"] = json!(jwt);
            if let Some(seed) = seed {
                let key = identity::key(seed)?;
                let signature = key.sign(nonce.as_bytes()).map_err(|error| anyhow!("{error}"))?;
                hello["sig"] = json!(BASE64URL_NOPAD.encode(&signature));
            }
        }
        Proof::Password { user, password } => {
            hello["user"] = json!(user);
            hello["pass"] = json!(password);
        }
        Proof::Secret(token) => hello["auth_token"] = json!(token),
    }
    Ok(hello)
}

impl Session {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.speech == Speech::WebSocket {
            let mut frame = vec![0x82];
            match bytes.len() {
                small @ 0..126 => frame.push(0x80 | u8::try_from(small)?),
                medium @ 126..65536 => {
                    frame.push(0x80 | 0x7e);
                    frame.extend(u16::try_from(medium)?.to_be_bytes());
                }
                large => {
                    frame.push(0x80 | 0x7f);
                    frame.extend(u64::try_from(large)?.to_be_bytes());
                }
            }
            // A mask of zeros is one.
            frame.extend([0; 4]);
            frame.extend(bytes);
            self.write.write_all(&frame).await?;
        } else {
            self.write.write_all(bytes).await?;
        }
        Ok(self.write.flush().await?)
    }

    pub async fn publish(&mut self, publish: &Publish) -> Result<()> {
        let head = headers(&publish.headers);
        let reply = publish.reply.as_ref().map(|reply| format!("{reply} ")).unwrap_or_default();
        let (subject, size) = (&publish.subject, publish.body.len() + head.len());
        let verb = match (self.speech, head.is_empty()) {
            (_, false) => format!("HPUB {subject} {reply}{} {size}", head.len()),
            (_, true) => format!("PUB {subject} {reply}{size}"),
        };
        let verb = if self.speech == Speech::Leaf {
            verb.replacen("HPUB", "HMSG", 1).replacen("PUB", "LMSG", 1)
        } else {
            verb
        };
        let mut bytes = format!("{verb}\r\n{head}").into_bytes();
        bytes.extend(&publish.body);
        bytes.extend(b"\r\n");
        self.write(&bytes).await
    }

    pub async fn subscribe(&mut self, subject: &str, queue: Option<&str>) -> Result<()> {
        self.subscriptions += 1;
        let line = match (self.speech, queue) {
            (Speech::Leaf, None) => format!("LS+ {subject}\r\n"),
            (Speech::Leaf, Some(queue)) => format!("LS+ {subject} {queue} 1\r\n"),
            (_, None) => format!("SUB {subject} {}\r\n", self.subscriptions),
            (_, Some(queue)) => format!("SUB {subject} {queue} {}\r\n", self.subscriptions),
        };
        self.write(line.as_bytes()).await
    }

    pub async fn raw(&mut self, text: &str) -> Result<()> {
        self.write(text.as_bytes()).await
    }

    /// Waits until the broker has read everything so far, and gives what was heard on the way.
    pub async fn settle(&mut self) -> Result<Vec<Heard>> {
        self.write(b"PING\r\n").await?;
        let mut all = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.heard.recv()).await {
                Ok(Some(Heard::Pong)) => return Ok(all),
                Ok(Some(Heard::Closed) | None) => {
                    all.push(Heard::Closed);
                    return Ok(all);
                }
                Ok(Some(heard)) => all.push(heard),
                Err(_) => bail!("no answer in {} s", PATIENCE.as_secs()),
            }
        }
    }

    /// Everything that comes until `limit` has passed, or `enough` of it.
    pub async fn hear(&mut self, limit: Duration, mut enough: impl FnMut(&Heard) -> bool) -> Vec<Heard> {
        let (begun, mut all) = (Instant::now(), Vec::new());
        while let Ok(heard) = tokio::time::timeout(limit.saturating_sub(begun.elapsed()), self.heard.recv()).await {
            let heard = heard.unwrap_or(Heard::Closed);
            let last = matches!(heard, Heard::Closed) || enough(&heard);
            all.push(heard);
            if last {
                break;
            }
        }
        all
    }
}

fn headers(headers: &[(String, String)]) -> String {
    if headers.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let lines = lines.concat();
    format!("NATS/1.0\r\n{lines}\r\n")
}

async fn read_line(io: &mut (impl AsyncRead + Unpin), speech: Speech) -> Result<String> {
    let mut bytes = Vec::new();
    if speech == Speech::WebSocket {
        return Ok(String::from_utf8_lossy(&read_frame(io).await?).trim().to_owned());
    }
    while !bytes.ends_with(b"\n") {
        bytes.push(io.read_u8().await.context("it hangs up")?);
        if bytes.len() > 65536 {
            bail!("it does not greet");
        }
    }
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let first = io.read_u8().await?;
    let size = match io.read_u8().await? & 0x7f {
        126 => u64::from(io.read_u16().await?),
        127 => io.read_u64().await?,
        small => u64::from(small),
    };
    let mut payload = vec![0; usize::try_from(size)?];
    io.read_exact(&mut payload).await?;
    // A broker closes with a reason.
    if first & 0x0f == 8 {
        bail!("closed");
    }
    Ok(payload)
}

async fn listen(mut read: impl AsyncRead + Unpin, speech: Speech, heard: mpsc::UnboundedSender<Heard>) {
    let mut buffer: VecDeque<u8> = VecDeque::new();
    let mut chunk = vec![0; 65536];
    loop {
        let more = if speech == Speech::WebSocket {
            read_frame(&mut read).await.ok()
        } else {
            match read.read(&mut chunk).await {
                Ok(size) if size > 0 => Some(chunk[..size].to_vec()),
                _ => None,
            }
        };
        let Some(more) = more else {
            let _ = heard.send(Heard::Closed);
            return;
        };
        buffer.extend(more);
        while let Some(one) = parse(&mut buffer) {
            if let Parsed::One(one) = one
                && heard.send(one).is_err()
            {
                return;
            }
        }
    }
}

/// What is in the buffer.
enum Parsed {
    One(Heard),
    OfNoInterest,
}

/// The next thing in the buffer, when it is complete.
fn parse(buffer: &mut VecDeque<u8>) -> Option<Parsed> {
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let line: Vec<u8> = buffer.iter().take(end).copied().collect();
    let line = String::from_utf8_lossy(&line).trim().to_owned();
    let words: Vec<&str> = line.split_whitespace().collect();
    let verb = words.first().map(|verb| verb.to_ascii_uppercase()).unwrap_or_default();
    if let ("MSG" | "HMSG" | "LMSG", Some(size)) = (verb.as_str(), words.last().and_then(|w| w.parse::<usize>().ok())) {
        if buffer.len() < end + 1 + size + 2 {
            return None;
        }
        buffer.drain(..=end);
        let content: Vec<u8> = buffer.drain(..size + 2).take(size).collect();
        let head = if verb == "HMSG" { words[words.len() - 2].parse().unwrap_or(0).min(size) } else { 0 };
        let subject = words.get(1).copied().unwrap_or_default().to_owned();
        let (head, body) = (String::from_utf8_lossy(&content[..head]).into_owned(), content[head..].to_vec());
        return Some(Parsed::One(Heard::Message(Message { subject, head, body })));
    }
    buffer.drain(..=end);
    Some(match verb.as_str() {
        "PONG" => Parsed::One(Heard::Pong),
        "-ERR" => Parsed::One(Heard::Error(line[4..].trim().trim_matches('\'').to_owned())),
        "PING" | "+OK" | "" => Parsed::OfNoInterest,
        _ => Parsed::One(Heard::Line(line)),
    })
}

/// What a port answers when these bytes come, with or without TLS.
pub async fn knock(address: &str, trust: &Trust, say: &[u8]) -> Result<String> {
    let talk = async {
        let tcp = TcpStream::connect(address).await.context("cannot connect")?;
        let mut io: Box<dyn Io> = match trust {
            Trust::Plain => Box::new(tcp),
            trust => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
                let connector = TlsConnector::from(Arc::new(client_config(trust)?));
                Box::new(connector.connect(ServerName::try_from(host)?, tcp).await.context("TLS")?)
            }
        };
        io.write_all(say).await?;
        io.flush().await?;
        let mut answer = vec![0; 4096];
        let mut all = Vec::new();
        while let Ok(read) = tokio::time::timeout(Duration::from_secs(5), io.read(&mut answer)).await {
            match read {
                Ok(size) if size > 0 => all.extend(&answer[..size]),
                Ok(_) => break,
                Err(error) if all.is_empty() => return Err(error.into()),
                Err(_) => break,
            }
        }
        anyhow::Ok(String::from_utf8_lossy(&all).into_owned())
    };
    tokio::time::timeout(PATIENCE, talk).await.map_err(|_| anyhow!("no answer"))?
}

/// A token with its head changed and no signature.
pub fn unsigned(jwt: &str) -> String {
    let claims = jwt.split('.').nth(1).unwrap_or_default();
    format!("{}.{claims}.", BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#))
}

/// A token with other claims under the old signature.
pub fn changed(jwt: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    let parts: Vec<&str> = jwt.split('.').collect();
    let [head, claims, signature] = parts[..] else { bail!("a token has three parts") };
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes())?)?;
    change(&mut claims);
    Ok(format!("{head}.{}.{signature}", BASE64URL_NOPAD.encode(&serde_json::to_vec(&claims)?)))
}

/// Text for the password of HTTP.
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    BASE64.encode(format!("{user}:{password}").as_bytes())
}
