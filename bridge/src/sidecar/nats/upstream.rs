//! A connection to the broker, up to its greeting: TLS begins after it, as NATS has it.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::super::binding::{Address, Binding};
use super::carry::BUFFER;
use super::handshake::{Info, LONGEST_INFO};

/// How long one address may take, to its greeting and through TLS.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A connection, with TLS or without.
pub type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// Connects to the first of the addresses that answers.
///
/// # Errors
/// What each has against it.
pub async fn open(binding: &Binding) -> Result<(Stream, Info), String> {
    let mut problems = Vec::new();
    for address in &binding.addresses {
        let problem = match timeout(TIMEOUT, connect(binding, address)).await {
            Ok(Ok(open)) => return Ok(open),
            Ok(Err(problem)) => problem,
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        problems.push(format!("{}:{}: {problem}", address.host, address.port));
    }
    Err(problems.join("; "))
}

async fn connect(binding: &Binding, address: &Address) -> Result<(Stream, Info), String> {
    let socket = TcpStream::connect((address.host.as_str(), address.port)).await;
    let mut socket = socket.map_err(|error| error.to_string())?;
    let _ = socket.set_nodelay(true);
    let mut lines = Lines::default();
    let line = lines.next(&mut socket, LONGEST_INFO).await.ok().flatten();
    let info = line.as_deref().and_then(Info::read).ok_or("it does not greet as a NATS broker does")?;
    let secret = address.tls || info.told.tls_required || (info.told.tls_available && binding.mesh.ca_pem.is_some());
    if !secret {
        return Ok((Either::Left(socket), info));
    }
    if !info.told.tls_required && !info.told.tls_available {
        return Err("it has no TLS, and the binding asks for it".to_owned());
    }
    let name = ServerName::try_from(address.host.clone()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::clone(&binding.tls)).connect(name, socket).await;
    let mut stream = stream.map_err(|error| format!("TLS: {error}"))?;
    stream.get_mut().1.set_buffer_limit(Some(BUFFER));
    Ok((Either::Right(stream), info))
}

/// Reads line by line, and keeps what came with a line and belongs to the next.
#[derive(Default)]
pub struct Lines {
    buffer: Vec<u8>,
}

/// Why there is no line.
#[derive(Debug)]
pub enum NoLine {
    TooLong,
    Broken,
}

impl Lines {
    /// The next line, without its end; `None` when the other side has ended.
    pub async fn next(&mut self, from: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Option<Vec<u8>>, NoLine> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.truncate(line.trim_ascii_end().len());
                return Ok(Some(line));
            }
            if self.buffer.len() > most {
                return Err(NoLine::TooLong);
            }
            let mut chunk = [0; 1024];
            match from.read(&mut chunk).await {
                Ok(0) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(_) => return Err(NoLine::Broken),
            }
        }
    }

    /// What came after the last line.
    #[must_use]
    pub fn rest(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_ends_where_it_ends_and_no_line_is_endless() {
        let mut lines = Lines::default();
        let mut input: &[u8] = b"CONNECT {}\r\nPING\nrest";
        assert_eq!(lines.next(&mut input, 100).await.unwrap().unwrap(), b"CONNECT {}");
        assert_eq!(lines.next(&mut input, 100).await.unwrap().unwrap(), b"PING");
        assert!(lines.next(&mut input, 100).await.unwrap().is_none());
        assert_eq!(lines.rest(), b"rest");
        let endless = vec![b'a'; 100_000];
        assert!(matches!(Lines::default().next(&mut endless.as_slice(), 4096).await, Err(NoLine::TooLong)));
    }
}
