//! Signing in with the client certificate: SASL EXTERNAL (AMQP 1.0, section 5.3), before the AMQP library has the socket.
//! The library does it itself only over a TLS connection that it made, and this one is ours.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::endpoint::amqp::LinkError;
use crate::endpoint::amqp::socket::{Place, Socket};

const GREETING: [u8; 8] = *b"AMQP\x03\x01\0\0";
/// sasl-init with the mechanism EXTERNAL and an empty answer: nobody else than the certificate says.
const INIT: [u8; 26] = *b"\0\0\0\x1a\x02\x01\0\0\0\x53\x41\xc0\x0d\x02\xa3\x08EXTERNAL\xa0\0";
const MECHANISMS: [u8; 3] = [0, 0x53, 0x40];
const OUTCOME: [u8; 3] = [0, 0x53, 0x44];
/// A list of mechanisms is short.
const LONGEST: u32 = 4096;

pub(super) async fn sign_in(socket: &mut Socket, place: &Place) -> Result<(), LinkError> {
    let refused = LinkError::refused;
    let broken = |error: io::Error| place.failed(&error);
    socket.write_all(&GREETING).await.map_err(broken)?;
    let mut greeting = [0; 8];
    socket.read_exact(&mut greeting).await.map_err(broken)?;
    if greeting != GREETING {
        return Err(refused(
            "the broker does not speak AMQP 1.0 with SASL on this port; another version, or another port?",
        ));
    }
    let offered = frame(socket).await.map_err(broken)?;
    let known = offered.windows(8).any(|name| name == b"EXTERNAL");
    if !offered.starts_with(&MECHANISMS) || !known {
        return Err(refused(
            "the AMQP broker does not let the bridge sign in with its certificate (EXTERNAL); allow it there, or give credentials",
        ));
    }
    socket.write_all(&INIT).await.map_err(broken)?;
    socket.flush().await.map_err(broken)?;
    let outcome = frame(socket).await.map_err(broken)?;
    if outcome.starts_with(&OUTCOME) && outcome.get(3..).is_some_and(is_welcome) {
        return Ok(());
    }
    Err(refused("the AMQP broker does not know the one that the client certificate names; add it there"))
}

/// The body of one frame.
async fn frame(socket: &mut Socket) -> io::Result<Vec<u8>> {
    let size = socket.read_u32().await?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it sent a frame that can not be read");
    if !(8..=LONGEST).contains(&size) {
        return Err(invalid());
    }
    let mut rest = vec![0; size as usize - 4];
    socket.read_exact(&mut rest).await?;
    let begin = (usize::from(rest[0]) * 4).checked_sub(4).ok_or_else(invalid)?;
    rest.get(begin..).map(<[u8]>::to_vec).ok_or_else(invalid)
}

/// Whether the list of a sasl-outcome begins with the code 0.
fn is_welcome(list: &[u8]) -> bool {
    let fields = match list.first() {
        Some(0xc0) => list.get(3..),
        Some(0xd0) => list.get(9..),
        _ => None,
    };
    fields.is_some_and(|fields| fields.starts_with(&[0x50, 0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_as_long_as_it_says() {
        assert_eq!(usize::from(INIT[3]), INIT.len());
        assert_eq!(usize::from(INIT[12]), INIT.len() - 13);
    }
}
