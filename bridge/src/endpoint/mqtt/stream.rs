//! The socket under an MQTT connection: small packets written one by one leave together.
//!
//! The MQTT client flushes after each acknowledgement. Here a flush only marks what waits; it is written when the client
//! next asks for input, which it does as soon as it has nothing more to send. No timer is involved, so nothing is delayed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use eventmesh_wire::validate::BrokerAddress;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What may wait before it is written regardless.
const LIMIT: usize = 16 * 1024;

/// How a connection ends.
#[derive(Default)]
pub struct Farewell {
    /// Set before the last packets: from then on a flush is one, because input is not asked for again.
    last_words: AtomicBool,
    closed: CancellationToken,
}

impl Farewell {
    pub fn last_words(&self) {
        self.last_words.store(true, Ordering::Relaxed);
    }

    /// Waits until the other side has closed after the last words.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

pub struct Coalescing<S: Socket> {
    /// Absent only while it is being dropped.
    socket: Option<S>,
    waiting: Vec<u8>,
    written: usize,
    farewell: Arc<Farewell>,
}

/// What the bytes go over.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for S {}

impl<S: Socket> Coalescing<S> {
    pub fn new(socket: S, farewell: Arc<Farewell>) -> Self {
        Self { socket: Some(socket), waiting: Vec::with_capacity(LIMIT), written: 0, farewell }
    }
}

impl<S: Socket> Coalescing<S> {
    fn socket(&mut self) -> io::Result<Pin<&mut S>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let socket = self.socket.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected)?;
            let count = ready!(socket.poll_write(context, &self.waiting[self.written..]))?;
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

impl<S: Socket> AsyncRead for Coalescing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        self.socket()?.poll_read(context, buffer)
    }
}

impl<S: Socket> AsyncWrite for Coalescing<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= LIMIT {
            ready!(self.poll_drain(context))?;
        }
        self.waiting.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell.last_words.load(Ordering::Relaxed) {
            ready!(self.poll_drain(context))?;
            return self.socket()?.poll_flush(context);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        self.socket()?.poll_shutdown(context)
    }
}

impl<S: Socket> Drop for Coalescing<S> {
    /// After the last words, reads on until the broker closes: closing a socket with input unread resets the connection,
    /// and a reset takes acknowledgements with it that the broker has not read yet.
    fn drop(&mut self) {
        let (Some(mut socket), Ok(runtime)) = (self.socket.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let farewell = Arc::clone(&self.farewell);
        if !farewell.last_words.load(Ordering::Relaxed) {
            return;
        }
        runtime.spawn(async move {
            let _ = socket.shutdown().await;
            let mut nowhere = tokio::io::sink();
            let read_on = tokio::io::copy(&mut socket, &mut nowhere);
            let _ = tokio::time::timeout(Duration::from_secs(2), read_on).await;
            farewell.closed.cancel();
        });
    }
}

/// Connects to the broker.
pub async fn connect(address: BrokerAddress, farewell: Arc<Farewell>) -> io::Result<Coalescing<TcpStream>> {
    let socket = TcpStream::connect((address.host.as_str(), address.port)).await?;
    socket.set_nodelay(true)?;
    Ok(Coalescing::new(socket, farewell))
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
