//! Carries bytes between two connections, both ways, until one of them ends.
//!
//! What is read goes from the thread's one buffer straight into the other connection. A connection has memory of its own only
//! while its other side is slower than it, and then one buffer's worth: nothing more is read before that has left.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes that are read at once: two of the largest TLS records.
pub const BUFFER: usize = 32 * 1024;
/// How long one direction may go on when the other has ended: time to answer, and for the broker to notice.
const LINGER: Duration = Duration::from_secs(3);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// One direction.
struct Lane<'c> {
    /// What was read and the other side did not take yet.
    rest: Vec<u8>,
    taken: usize,
    /// Written and perhaps not on its way yet.
    unflushed: bool,
    /// Nothing more is read.
    ended: bool,
    count: &'c Count,
    moved: &'c AtomicU64,
}

impl<'c> Lane<'c> {
    fn new(first: Vec<u8>, count: &'c Count, moved: &'c AtomicU64) -> Self {
        Self { rest: first, taken: 0, unflushed: false, ended: false, count, moved }
    }

    /// Carries what there is. Ready when `from` has ended and all is written, or when `to` takes nothing more.
    /// With `last`, what has not come yet is not waited for.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        last: bool,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.taken < self.rest.len() {
                let written = ready!(write(to, cx, &self.rest[self.taken..]))?;
                self.taken += written;
                self.unflushed = true;
            }
            (self.rest, self.taken) = (Vec::new(), 0);
            if self.ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                Poll::Pending if last => self.ended = true,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
                // A connection that breaks ends like any other: what it brought before is carried on.
                Poll::Ready(Err(_)) => self.ended = true,
                Poll::Ready(Ok(())) => {
                    let filled = buffer.filled();
                    self.ended = filled.is_empty();
                    self.count.inc_by(filled.len() as u64);
                    self.moved.fetch_add(filled.len() as u64, Relaxed);
                    let mut taken = 0;
                    while taken < filled.len() {
                        match write(to, cx, &filled[taken..]) {
                            Poll::Ready(written) => taken += written?,
                            Poll::Pending => {
                                self.rest = filled[taken..].to_vec();
                                self.unflushed = true;
                                return Poll::Pending;
                            }
                        }
                        self.unflushed = true;
                    }
                }
            }
        }
    }
}

fn write(to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        other => Poll::Ready(other),
    }
}

/// What is sent before anything that is read.
#[derive(Default)]
pub struct First {
    pub to_broker: Vec<u8>,
    pub to_application: Vec<u8>,
}

/// A counter of all connections.
pub type Count = Counter<u64, AtomicU64>;

/// Where bytes are counted.
#[derive(Default)]
pub struct Carried {
    pub to_broker: Count,
    pub to_application: Count,
    /// Of this connection, both ways.
    moved: AtomicU64,
}

impl Carried {
    #[must_use]
    pub fn new(to_broker: Count, to_application: Count) -> Self {
        Self { to_broker, to_application, moved: AtomicU64::default() }
    }

    /// Bytes of this connection so far.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }
}

/// Carries until either side ends, or `leave` is ready. What the application wrote before reaches the broker, and what the
/// broker wrote before reaches the application.
pub async fn carry(
    application: &mut (impl AsyncRead + AsyncWrite + Unpin),
    broker: &mut (impl AsyncRead + AsyncWrite + Unpin),
    first: First,
    carried: &Carried,
    leave: impl Future<Output = ()>,
) {
    let mut up = Lane::new(first.to_broker, &carried.to_broker, &carried.moved);
    let mut down = Lane::new(first.to_application, &carried.to_application, &carried.moved);
    let (mut up_done, mut down_done, mut leaving) = (false, false, false);
    let mut leave = pin!(leave);
    let mut linger = pin!(sleep_until(Instant::now()));
    let mut lingering = false;
    poll_fn(|cx| {
        leaving = leaving || leave.as_mut().poll(cx).is_ready();
        SCRATCH.with_borrow_mut(|scratch| {
            if !up_done {
                up_done = up.poll(cx, scratch, application, broker, leaving).is_ready();
            }
            if !down_done {
                down_done = down.poll(cx, scratch, broker, application, false).is_ready();
            }
        });
        if up_done && down_done {
            return Poll::Ready(());
        }
        if up_done || down_done || leaving {
            if !lingering {
                lingering = true;
                linger.as_mut().reset(Instant::now() + LINGER);
            }
            return linger.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await;
    // A socket that is closed with input unread is reset, and a reset takes what was written last with it.
    let _ = timeout(LINGER, async {
        let mut nothing = [0; 1024];
        while application.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    async fn read_all(side: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut all = Vec::new();
        side.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_before_closing_arrives_however_slow_the_other_side_is() {
        let (mut application, mut near) = duplex(64);
        let (mut far, mut broker) = duplex(16);
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let text = sent.clone();
        let client = tokio::spawn(async move {
            application.write_all(&text).await.unwrap();
            application.shutdown().await.unwrap();
            read_all(&mut application).await
        });
        let carried = Carried::default();
        let first = First { to_broker: b"first".to_vec(), to_application: b"hello".to_vec() };
        let both = tokio::join!(carry(&mut near, &mut far, first, &carried, std::future::pending()), async {
            let received = read_all(&mut broker).await;
            broker.write_all(b"bye").await.unwrap();
            drop(broker);
            received
        });
        drop(near);
        assert_eq!(both.1, [b"first".as_slice(), &sent].concat());
        assert_eq!(client.await.unwrap(), b"hellobye");
        assert_eq!(carried.moved(), 200_003);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_along_what_has_come() {
        let (mut application, mut near) = duplex(1 << 20);
        let (mut far, mut broker) = duplex(16);
        application.write_all(&vec![7; 100_000]).await.unwrap();
        let carried = Carried::default();
        let (received, ()) = tokio::join!(
            async {
                let received = read_all(&mut broker).await;
                drop(broker);
                received.len()
            },
            carry(&mut near, &mut far, First::default(), &carried, std::future::ready(())),
        );
        assert_eq!(received, 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_words_of_a_broker_arrive_and_a_silent_application_is_not_waited_for() {
        let (mut application, mut near) = duplex(8);
        let (mut far, mut broker) = duplex(64);
        broker.write_all(b"-ERR 'Stale Connection'\r\n").await.unwrap();
        drop(broker);
        let carried = Carried::default();
        let (said, ()) = tokio::join!(
            read_all(&mut application),
            carry(&mut near, &mut far, First::default(), &carried, std::future::pending()),
        );
        assert_eq!(said, b"-ERR 'Stale Connection'\r\n");
    }
}
