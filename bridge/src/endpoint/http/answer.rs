//! Bodies of answers: read only so far that the connection can be used again, or that a person sees what is wrong.

use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

/// What is read of a body that nobody needs; behind a longer one the connection is closed.
const DISCARD: usize = 64 * 1024;
/// What is read of a body that tells why.
const EXCERPT: usize = 4 * 1024;
/// What is shown of it, in characters.
const SHOWN: usize = 200;
/// How long either may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the rest of an answer on the side; the event is done with.
pub fn discard(body: Incoming) {
    if !body.is_end_stream() {
        tokio::spawn(drain(body));
    }
}

/// Reads the rest of an answer, so that the connection can be used again.
pub async fn drain(body: Incoming) {
    if !body.is_end_stream() {
        let _ = timeout(PATIENCE, Limited::new(body, DISCARD).collect()).await;
    }
}

/// The beginning of an answer, on one line, without control characters.
pub async fn excerpt(mut body: Incoming) -> String {
    let mut read = Vec::new();
    let _ = timeout(PATIENCE, async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                let room = EXCERPT.saturating_sub(read.len());
                read.extend_from_slice(&data[..data.len().min(room)]);
            }
            if read.len() >= EXCERPT {
                break;
            }
        }
    })
    .await;
    shown(&read)
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(shown(b"  no\r\n\tsuch \x1b[31m order\0 "), "no such [31m order");
        assert_eq!(shown(&[0xff; 1000]).chars().count(), SHOWN);
        assert_eq!(shown(b""), "");
    }
}
