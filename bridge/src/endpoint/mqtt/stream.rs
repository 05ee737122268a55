//! The socket under an MQTT connection: small packets written one by one leave together.
//!
//! The MQTT client flushes after each acknowledgement. Here a flush only marks what waits; it is written when the client
//! next asks for input, which it does as soon as it has nothing more to send. No timer is involved, so nothing is delayed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What may wait before it is written regardless.
const LIMIT: usize = 16 * 1024;

pub struct Coalescing<S> {
    socket: S,
    waiting: Vec<u8>,
    written: usize,
    /// Set before the last packets: from then on a flush is one, because input is not asked for again.
    last_words: Arc<AtomicBool>,
}

impl<S> Coalescing<S> {
    pub fn new(socket: S, last_words: Arc<AtomicBool>) -> Self {
        Self { socket, waiting: Vec::with_capacity(LIMIT), written: 0, last_words }
    }
}

impl<S: AsyncWrite + Unpin> Coalescing<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(context, &self.waiting[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.waiting.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalescing<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= LIMIT {
            ready!(self.poll_drain(context))?;
        }
        self.waiting.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last_words.load(Ordering::Relaxed) {
            ready!(self.poll_drain(context))?;
            return Pin::new(&mut self.socket).poll_flush(context);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl<S> Drop for Coalescing<S> {
    fn drop(&mut self) {
        if self.written < self.waiting.len() {
            tracing::debug!(bytes = self.waiting.len() - self.written, "connection ended with bytes unsent");
        }
    }
}

/// Connects to `host:port` in the form the client gives it.
pub async fn connect(address: String, last_words: Arc<AtomicBool>) -> io::Result<Coalescing<TcpStream>> {
    // The client joins host and port as they are, so an IPv6 host lacks its brackets.
    let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let port: u16 = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    Ok(Coalescing::new(socket, last_words))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn flushed_packets_leave_together_when_input_is_asked_for() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut stream = Coalescing::new(near, Arc::default());
        for byte in 1..=3_u8 {
            stream.write_all(&[byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut buffer = [0; 8];
        assert!(futures::FutureExt::now_or_never(far.read(&mut buffer)).is_none(), "nothing is written yet");
        assert!(futures::FutureExt::now_or_never(stream.read(&mut [0; 8])).is_none());
        assert_eq!(far.read(&mut buffer).await.unwrap(), 3);
    }
}
