//! What was sent over links and what came, and the row that tells.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::broker::{Broker, Reader};

/// Publishes on their way at once.
const WINDOW: usize = 64;
/// An event that has not come so long after the one before it does not come any more.
const STALLED: Duration = Duration::from_mins(2);

/// How often each event came, by its text.
pub type Came = BTreeMap<String, usize>;

/// What one case showed.
#[derive(Debug, Default)]
pub struct Row {
    pub name: String,
    /// What was published, once for each mesh that it should have come to.
    pub sent: usize,
    pub lost: usize,
    pub duplicated: usize,
    pub note: String,
}

impl Row {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds what one mesh has been sent and what came there.
    pub fn add(&mut self, word: &str, events: u32, came: &Came) {
        let times = (0..events).map(|number| came.get(&payload(word, number)).copied().unwrap_or_default());
        for times in times {
            self.sent += 1;
            self.lost += usize::from(times == 0);
            self.duplicated += times.saturating_sub(1);
        }
    }

    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.duplicated == 0
    }

    #[must_use]
    pub fn heading() -> String {
        format!("{:<34}{:>8}{:>6}{:>12}  {}", "case", "sent", "lost", "duplicated", "")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sent, lost, duplicated, note } = self;
        write!(f, "{name:<34}{sent:>8}{lost:>6}{duplicated:>12}  {note}")
    }
}

/// Shows all rows and their sum.
pub fn judge(rows: &[Row]) -> Result<()> {
    println!("{}", Row::heading());
    for row in rows {
        println!("{row}");
    }
    let sum = |figure: fn(&Row) -> usize| rows.iter().map(figure).sum::<usize>();
    let (sent, lost, duplicated) = (sum(|row| row.sent), sum(|row| row.lost), sum(|row| row.duplicated));
    println!("links: cases {}, sent {sent}, lost {lost}, duplicated {duplicated}", rows.len());
    ensure!(sent > 0 && rows.iter().all(Row::is_good), "not every case is good");
    Ok(())
}

fn payload(word: &str, number: u32) -> String {
    format!("{word} {number}")
}

fn last(word: &str) -> String {
    format!("{word} last")
}

/// Publishes numbered events, each until it is stored here, and the last one after all others.
pub async fn publish(broker: &Broker, subject: &str, word: &str, events: u32) -> Result<()> {
    let sends = (0..events).map(|number| broker.publish(subject, payload(word, number)));
    futures::stream::iter(sends).buffer_unordered(WINDOW).try_for_each(|_| async { Ok(()) }).await?;
    broker.publish(subject, last(word)).await.map(drop)
}

/// Reads until the last event of `word` has come: how often each event came.
pub async fn came(reader: &mut Reader, word: &str) -> Result<Came> {
    let mut all = Came::new();
    while !all.contains_key(&last(word)) {
        let event =
            reader.next_within(STALLED).await.with_context(|| format!("{} events of {word} came", all.len()))?;
        *all.entry(String::from_utf8_lossy(&event.payload).into_owned()).or_default() += 1;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_held_against_what_was_sent() {
        let came = [("w 0".to_owned(), 1), ("w 1".to_owned(), 3), ("other".to_owned(), 9)].into();
        let mut row = Row::new("case");
        row.add("w", 3, &came);
        assert_eq!((row.sent, row.lost, row.duplicated), (3, 1, 2));
        assert!(!row.is_good());
    }
}
