//! Frames of AMQP 0-9-1 (section 4.2.3) on a stream of bytes.

use std::io;
use std::sync::{Mutex, PoisonError};

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::AMQPClass;
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::Notify;

/// Type, channel and size come before the payload of a frame, and one byte ends it.
const HEAD: usize = 7;
const END: u8 = 0xCE;
/// What a connection begins with, from both sides where they do not speak the same version.
pub const GREETING: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// Reads frame after frame.
pub struct Reader<R> {
    socket: R,
    buffer: BytesMut,
    /// The largest payload that was agreed on.
    pub largest: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(socket: R) -> Self {
        Self { socket, buffer: BytesMut::with_capacity(16 * 1024), largest: 128 * 1024 }
    }

    /// The next frame. Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<AMQPFrame> {
        loop {
            if let Some(frame) = self.parse()? {
                return Ok(frame);
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<AMQPFrame>> {
        let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
        if self.buffer.first() == Some(&GREETING[0]) {
            return Err(invalid("it answers as a broker does that speaks another version of AMQP, or none"));
        }
        let Some(size) = self.buffer.get(3..HEAD).and_then(|bytes| bytes.try_into().ok()) else { return Ok(None) };
        let size = u32::from_be_bytes(size) as usize;
        if size > self.largest {
            return Err(invalid("it sent a frame that is larger than agreed, or does not speak AMQP 0-9-1"));
        }
        let Some(bytes) = self.buffer.get(..HEAD + size + 1) else {
            self.buffer.reserve(HEAD + size + 1);
            return Ok(None);
        };
        let (_, frame) = parse_frame(bytes).map_err(|_| invalid("it sent a frame that can not be read"))?;
        self.buffer.advance(HEAD + size + 1);
        Ok(Some(frame))
    }
}

/// What waits to be written. Frames are put in at any time, and leave together.
#[derive(Default)]
pub struct Outbox {
    bytes: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    pub fn method(&self, channel: u16, method: AMQPClass) {
        self.put(|bytes| encode(bytes, &AMQPFrame::Method(channel, method)));
    }

    /// A method with content; `largest` is the largest payload of a frame.
    pub fn content(&self, channel: u16, method: AMQPClass, header: AMQPContentHeader, body: &[u8], largest: usize) {
        self.put(|bytes| {
            encode(bytes, &AMQPFrame::Method(channel, method));
            encode(bytes, &AMQPFrame::Header(channel, header));
            for part in body.chunks(largest) {
                bytes.push(3);
                bytes.extend_from_slice(&channel.to_be_bytes());
                bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                bytes.extend_from_slice(part);
                bytes.push(END);
            }
        });
    }

    pub fn heartbeat(&self) {
        self.put(|bytes| encode(bytes, &AMQPFrame::Heartbeat));
    }

    fn put(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
    }

    /// Waits for something to write, and takes all of it.
    pub async fn take(&self) -> Vec<u8> {
        loop {
            let taken = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }
}

/// Only a body of more than 4 GiB can not be encoded, and bodies do not go this way.
fn encode(bytes: &mut Vec<u8>, frame: &AMQPFrame) {
    if let Ok(written) = gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::with_capacity(64))) {
        bytes.extend_from_slice(&written.into_inner().0);
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::{BasicProperties, basic};

    use super::*;

    fn publish() -> AMQPClass {
        let publish =
            basic::Publish { exchange: "x".into(), routing_key: "k".into(), mandatory: true, immediate: false };
        AMQPClass::Basic(basic::AMQPMethod::Publish(publish))
    }

    #[tokio::test]
    async fn content_that_is_larger_than_a_frame_comes_in_parts() {
        let outbox = Outbox::default();
        let header = AMQPContentHeader { class_id: 60, body_size: 10, properties: BasicProperties::default() };
        outbox.content(7, publish(), header, b"0123456789", 4);
        let bytes = outbox.take().await;
        let mut reader = Reader::new(bytes.as_slice());
        assert_eq!(reader.next().await.unwrap(), AMQPFrame::Method(7, publish()));
        assert!(matches!(reader.next().await.unwrap(), AMQPFrame::Header(7, header) if header.body_size == 10));
        for part in ["0123", "4567", "89"] {
            assert_eq!(reader.next().await.unwrap(), AMQPFrame::Body(7, part.into()));
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_off_is_an_end() {
        let outbox = Outbox::default();
        outbox.method(1, publish());
        let bytes = outbox.take().await;
        let error = Reader::new(&bytes[..bytes.len() - 1]).next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_amqp_is_told() {
        for bytes in [b"AMQP\0\x01\0\0".as_slice(), b"HTTP/1.1 400 Bad Request\r\n"] {
            assert_eq!(Reader::new(bytes).next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
