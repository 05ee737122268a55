//! Waiting for what cannot be watched: asked again and again until it holds, with a deadline and the last answer.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Asks until the answer is `Ok(Some(_))`.
///
/// # Errors
/// When `limit` has passed; with the last answer, so that one sees how far it came.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, String>,
) -> Result<T> {
    let begun = Instant::now();
    let mut last = "not yet".to_owned();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let answer = tokio::time::timeout(limit.saturating_sub(begun.elapsed()), ask()).await;
        match answer {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => "not yet".clone_into(&mut last),
            Ok(Err(problem)) => last = problem,
            Err(_) => last.push_str(", then no answer"),
        }
        if begun.elapsed() >= limit {
            bail!("no {what} after {} s: {last}", limit.as_secs());
        }
    }
}
