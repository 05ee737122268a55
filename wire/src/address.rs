//! Addresses of the outside (MQTT topics and topic filters) and how they map to mesh subjects and back.
//!
//! `{n}` in a target stands for what the n-th wildcard of the source matched. A mapping is compiled once; mapping an
//! address allocates one string. Characters that the other side can not hold are percent-encoded, reversibly: see
//! [`crate::escape`].

use thiserror::Error;

use crate::escape;
use crate::subject::{self, Pattern, SubjectError};

/// Wildcards that one address may have.
pub const MAX_WILDCARDS: usize = 16;

/// Why an address or a mapping can not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("the MQTT topic filter is empty")]
    Empty,
    #[error("an MQTT topic can not contain the character NUL")]
    Nul,
    #[error("`{0}` is longer than the 65,535 bytes that MQTT allows")]
    TooLong(String),
    #[error("`{0}`: `#` must be the last level, and a level of its own")]
    HashPosition(String),
    #[error("`{0}`: `+` must be a whole level")]
    PartialPlus(String),
    #[error("`{0}`: a shared subscription has the form `$share/<group>/<filter>`")]
    Share(String),
    #[error("`{0}` has more than {MAX_WILDCARDS} wildcards")]
    TooManyWildcards(String),
    #[error("`{0}`: unbalanced `{{` or `}}`; write `{{1}}` for what the first wildcard matched")]
    Braces(String),
    #[error("`{0}` names `{{{1}}}`, but `{2}` has {3} wildcard(s)")]
    NoSuchWildcard(String, usize, String, usize),
    #[error("`{0}`: `{{{1}}}` stands for any number of levels, so it must be the last part and a part of its own")]
    TailPosition(String, usize),
    #[error("`{0}` begins with a wildcard; begin with a fixed token so that a Topic can own the subject")]
    OpenStart(String),
    #[error("`{0}`: an MQTT topic to publish to can not contain `+` or `#`, or begin with `$`")]
    BadTopic(String),
    #[error(transparent)]
    Subject(#[from] SubjectError),
}

/// An event's own address does not map to a usable one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{address}` maps to `{mapped}`, which is {problem}")]
pub struct Unmappable {
    pub address: String,
    pub mapped: String,
    pub problem: &'static str,
}

/// A valid MQTT topic filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttFilter {
    /// As subscribed to, a `$share/<group>/` prefix included.
    text: String,
    levels: Vec<String>,
}

impl MqttFilter {
    /// # Errors
    /// When the text breaks the rules of MQTT 5, section 4.7.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let filter = match text.strip_prefix("$share/") {
            Some(rest) => match rest.split_once('/') {
                Some((group, filter)) if !group.is_empty() && !group.contains(['+', '#']) && !filter.is_empty() => {
                    filter
                }
                _ => return Err(AddressError::Share(text.to_owned())),
            },
            None => text,
        };
        check_topic_text(filter)?;
        let levels: Vec<&str> = filter.split('/').collect();
        for (index, level) in levels.iter().enumerate() {
            if level.contains('#') && (*level != "#" || index + 1 != levels.len()) {
                return Err(AddressError::HashPosition(text.to_owned()));
            }
            if level.contains('+') && *level != "+" {
                return Err(AddressError::PartialPlus(text.to_owned()));
            }
        }
        let levels: Vec<String> = levels.into_iter().map(str::to_owned).collect();
        let filter = Self { text: text.to_owned(), levels };
        if filter.wildcards() > MAX_WILDCARDS {
            return Err(AddressError::TooManyWildcards(text.to_owned()));
        }
        Ok(filter)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.levels.iter().filter(|level| matches!(level.as_str(), "+" | "#")).count()
    }

    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.captures(topic, &mut [None; MAX_WILDCARDS])
    }

    /// Whether some topic matches both filters.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let system = |levels: &[String]| levels[0].starts_with('$');
        if system(&self.levels) != system(&other.levels) {
            return false; // A leading wildcard never matches a topic that begins with `$`.
        }
        let (mut left, mut right) = (self.levels.iter(), other.levels.iter());
        loop {
            match (left.next().map(String::as_str), right.next().map(String::as_str)) {
                (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
                (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
                _ => return false,
            }
        }
    }

    /// Whether the topic matches; fills in what each wildcard matched. A `#` that matched no level at all stays `None`.
    fn captures<'t>(&self, topic: &'t str, captured: &mut [Option<&'t str>; MAX_WILDCARDS]) -> bool {
        if topic.starts_with('$') && !self.levels[0].starts_with('$') {
            return false;
        }
        let mut wildcard = 0;
        let mut rest = Some(topic);
        for level in &self.levels {
            if level == "#" {
                captured[wildcard] = rest;
                return true;
            }
            let Some(text) = rest else { return false };
            let (head, tail) = match text.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (text, None),
            };
            if level == "+" {
                captured[wildcard] = Some(head);
                wildcard += 1;
            } else if level != head {
                return false;
            }
            rest = tail;
        }
        rest.is_none()
    }
}

fn check_topic_text(text: &str) -> Result<(), AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    if text.contains('\0') {
        return Err(AddressError::Nul);
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(AddressError::TooLong(text.chars().take(64).collect()));
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Counted from 0.
    Wildcard(usize),
}

/// Splits `a.{1}.b` into its parts, and checks that every `{n}` has its wildcard.
fn parse_template(text: &str, source: &str, wildcards: usize) -> Result<Vec<Part>, AddressError> {
    let braces = || AddressError::Braces(text.to_owned());
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, tail) = rest.split_at(open);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.to_owned()));
        }
        let inner = tail.strip_prefix('{').ok_or_else(braces)?;
        let (number, after) = inner.split_once('}').ok_or_else(braces)?;
        let number: usize = number.parse().map_err(|_| braces())?;
        if number == 0 || number > wildcards {
            return Err(AddressError::NoSuchWildcard(text.to_owned(), number, source.to_owned(), wildcards));
        }
        parts.push(Part::Wildcard(number - 1));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// The wildcard that stands for any number of levels must be the last part, and a level of its own.
fn check_tail(text: &str, parts: &[Part], tail: Option<usize>, separator: char) -> Result<(), AddressError> {
    let Some(tail) = tail else { return Ok(()) };
    for (index, part) in parts.iter().enumerate() {
        if *part != Part::Wildcard(tail) {
            continue;
        }
        let alone = index == 0 || matches!(&parts[index - 1], Part::Text(text) if text.ends_with(separator));
        if !alone || index + 1 != parts.len() {
            return Err(AddressError::TailPosition(text.to_owned(), tail + 1));
        }
    }
    Ok(())
}

/// From an MQTT topic to a mesh subject.
#[derive(Debug, Clone)]
pub struct InboundMap {
    from: MqttFilter,
    parts: Vec<Part>,
    /// Index of the `#`, which may match several levels.
    tail: Option<usize>,
    pattern: Pattern,
}

impl InboundMap {
    /// # Errors
    /// When either side is not valid, or `to` names a wildcard that `from` does not have.
    pub fn new(from: &str, to: &str) -> Result<Self, AddressError> {
        let from = MqttFilter::parse(from)?;
        let wildcards = from.wildcards();
        let tail = (from.levels.last().is_some_and(|level| level == "#")).then(|| wildcards - 1);
        let parts = parse_template(to, from.as_str(), wildcards)?;
        check_tail(to, &parts, tail, '.')?;
        if matches!(parts.first(), Some(Part::Wildcard(_))) {
            return Err(AddressError::OpenStart(to.to_owned()));
        }
        // A token that contains a wildcard is one only as a whole; its fixed text must still be allowed in a token.
        let sample: String = parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        Pattern::parse_concrete(&sample)?;
        let pattern = Pattern::parse(&wildcard_tokens(&parts, tail, '.', "*", ">"))?;
        Ok(Self { from, parts, tail, pattern })
    }

    #[must_use]
    pub fn from(&self) -> &MqttFilter {
        &self.from
    }

    /// The narrowest pattern that every mapped subject matches.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The subject for a topic; `None` when the topic does not match.
    ///
    /// # Errors
    /// When the subject would be longer than a subject can be.
    pub fn map(&self, topic: &str) -> Option<Result<String, Unmappable>> {
        let mut captured = [None; MAX_WILDCARDS];
        if !self.from.captures(topic, &mut captured) {
            return None;
        }
        let mut subject = String::with_capacity(topic.len() + 32);
        for part in &self.parts {
            match part {
                Part::Text(text) => subject.push_str(text),
                Part::Wildcard(index) if Some(*index) == self.tail => {
                    escape::levels_into_tokens(captured[*index], &mut subject);
                }
                Part::Wildcard(index) => escape::level_into_token(captured[*index].unwrap_or_default(), &mut subject),
            }
        }
        if subject.len() > subject::MAX_LENGTH {
            return Some(Err(Unmappable {
                address: topic.to_owned(),
                mapped: subject,
                problem: "too long for a subject",
            }));
        }
        Some(Ok(subject))
    }
}

/// From a mesh subject to an MQTT topic.
#[derive(Debug, Clone)]
pub struct OutboundMap {
    patterns: Vec<Pattern>,
    parts: Vec<Part>,
    filter: MqttFilter,
}

impl OutboundMap {
    /// # Errors
    /// When a side is not valid, or `to` names a wildcard that one of the patterns does not have.
    pub fn new(patterns: &[String], to: &str) -> Result<Self, AddressError> {
        let patterns = patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let fewest = patterns.iter().min_by_key(|pattern| pattern.wildcards()).ok_or(AddressError::Empty)?;
        if let Some(many) = patterns.iter().find(|pattern| pattern.wildcards() > MAX_WILDCARDS) {
            return Err(AddressError::TooManyWildcards(many.to_string()));
        }
        let parts = parse_template(to, fewest.as_str(), fewest.wildcards())?;
        let mut tail = None;
        for pattern in patterns.iter().filter(|pattern| pattern.tokens().last() == Some(">")) {
            tail = Some(pattern.wildcards() - 1);
            check_tail(to, &parts, tail, '/')?;
        }
        let literal = |part: &Part| matches!(part, Part::Text(text) if text.contains(['+', '#']));
        if to.starts_with('$') || parts.iter().any(literal) {
            return Err(AddressError::BadTopic(to.to_owned()));
        }
        check_topic_text(to)?;
        let filter = MqttFilter::parse(&wildcard_tokens(&parts, tail, '/', "+", "#"))?;
        Ok(Self { patterns, parts, filter })
    }

    /// A topic filter that every mapped topic matches.
    #[must_use]
    pub fn filter(&self) -> &MqttFilter {
        &self.filter
    }

    /// The topic for a subject; `None` when no pattern matches.
    ///
    /// # Errors
    /// When the topic would be empty or too long.
    pub fn map(&self, subject: &str) -> Option<Result<String, Unmappable>> {
        let mut captured = [""; MAX_WILDCARDS];
        let pattern = self.patterns.iter().find(|pattern| capture_tokens(pattern, subject, &mut captured))?;
        let tail = (pattern.tokens().last() == Some(">")).then(|| pattern.wildcards() - 1);
        let mut topic = String::with_capacity(subject.len() + 16);
        for part in &self.parts {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Wildcard(index) if Some(*index) == tail => {
                    escape::tokens_into_levels(captured[*index], &mut topic);
                }
                Part::Wildcard(index) => escape::token_into_level(captured[*index], &mut topic),
            }
        }
        let problem = if topic.is_empty() {
            "an empty topic"
        } else if topic.len() > usize::from(u16::MAX) {
            "too long for a topic"
        } else {
            return Some(Ok(topic));
        };
        Some(Err(Unmappable { address: subject.to_owned(), mapped: topic.chars().take(64).collect(), problem }))
    }
}

fn capture_tokens<'s>(pattern: &Pattern, subject: &'s str, captured: &mut [&'s str; MAX_WILDCARDS]) -> bool {
    let mut wildcard = 0;
    let mut rest = Some(subject);
    for token in pattern.tokens() {
        let Some(text) = rest else { return false };
        if token == ">" {
            captured[wildcard] = text;
            return true;
        }
        let (head, tail) = match text.split_once('.') {
            Some((head, tail)) => (head, Some(tail)),
            None => (text, None),
        };
        if token == "*" {
            captured[wildcard] = head;
            wildcard += 1;
        } else if token != head {
            return false;
        }
        rest = tail;
    }
    rest.is_none()
}

/// The template with each part that holds a wildcard replaced by one.
fn wildcard_tokens(parts: &[Part], tail: Option<usize>, separator: char, one: &str, rest: &str) -> String {
    let marked: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Wildcard(index) if Some(*index) == tail => "\u{2}".to_owned(),
            Part::Wildcard(_) => "\u{1}".to_owned(),
        })
        .collect();
    let tokens: Vec<&str> = marked
        .split(separator)
        .map(|token| {
            if token.contains('\u{2}') {
                rest
            } else if token.contains('\u{1}') {
                one
            } else {
                token
            }
        })
        .collect();
    tokens.join(&separator.to_string())
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
