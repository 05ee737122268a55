//! Addresses of the outside (topics, queues, paths, subjects) and how they map to mesh subjects and back.
//!
//! An address is levels between separators; a [`Syntax`] tells how a kind of endpoint writes them.
//! `{n}` in a target stands for what the n-th wildcard of the source matched. A mapping is compiled once; mapping an
//! address allocates one string. Characters that the other side can not hold are percent-encoded, reversibly: see
//! [`crate::escape`].

mod pattern;
mod syntax;

use thiserror::Error;

use crate::escape;
use crate::subject::{self, Pattern, SubjectError};

pub use pattern::AddressPattern;
pub use syntax::{AMQP_1, AMQP_091, HTTP, KAFKA, MQTT, NATS, Syntax};

/// Wildcards that one address may have.
pub const MAX_WILDCARDS: usize = 16;

/// Why an address or a mapping can not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("the {0} is empty")]
    Empty(&'static str),
    #[error("a {0} can not contain the character NUL")]
    Nul(&'static str),
    #[error("`{0}` is longer than the {1} bytes that a {2} may have")]
    TooLong(String, usize, &'static str),
    #[error("`{0}`: `{1}` must be the last level, and a level of its own")]
    RestPosition(String, &'static str),
    #[error("`{0}`: `{1}` must be a whole level")]
    PartialWildcard(String, &'static str),
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
    #[error("`{0}` can not be delivered to: {1}")]
    BadTarget(String, &'static str),
    #[error(transparent)]
    Subject(#[from] SubjectError),
}

/// An event's own address does not map to a usable one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{address}` maps to `{mapped}`, which can not be used: {problem}")]
pub struct Unmappable {
    pub address: String,
    pub mapped: String,
    pub problem: &'static str,
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
fn check_tail(text: &str, parts: &[Part], tail: Option<usize>, ends: [Option<char>; 2]) -> Result<(), AddressError> {
    let Some(tail) = tail else { return Ok(()) };
    for (index, part) in parts.iter().enumerate() {
        if *part != Part::Wildcard(tail) {
            continue;
        }
        let alone = index == 0
            || matches!(&parts[index - 1], Part::Text(text) if ends.iter().flatten().any(|end| text.ends_with(*end)));
        if !alone || index + 1 != parts.len() {
            return Err(AddressError::TailPosition(text.to_owned(), tail + 1));
        }
    }
    Ok(())
}

/// From an address outside to a mesh subject.
#[derive(Debug, Clone)]
pub struct InboundMap {
    from: AddressPattern,
    parts: Vec<Part>,
    /// Index of the wildcard that may match several levels.
    tail: Option<usize>,
    pattern: Pattern,
}

impl InboundMap {
    /// # Errors
    /// When either side is not valid, or `to` names a wildcard that `from` does not have.
    pub fn new(syntax: &'static Syntax, from: &str, to: &str) -> Result<Self, AddressError> {
        let from = AddressPattern::parse(syntax, from)?;
        let wildcards = from.wildcards();
        let tail = from.has_rest().then(|| wildcards - 1);
        let parts = parse_template(to, from.as_str(), wildcards)?;
        check_tail(to, &parts, tail, [Some('.'), None])?;
        if matches!(parts.first(), Some(Part::Wildcard(_))) {
            return Err(AddressError::OpenStart(to.to_owned()));
        }
        // A token that contains a wildcard is one only as a whole; its fixed text must still be allowed in a token.
        let sample: String = parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        Pattern::parse_concrete(&sample)?;
        let pattern = Pattern::parse(&wildcard_tokens(&parts, tail.as_slice(), ('.', None), "*", ">"))?;
        Ok(Self { from, parts, tail, pattern })
    }

    #[must_use]
    pub fn from(&self) -> &AddressPattern {
        &self.from
    }

    /// The narrowest pattern that every mapped subject matches.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The subject for an address; `None` when the address does not match.
    ///
    /// # Errors
    /// When the subject would be longer than a subject can be.
    pub fn map(&self, address: &str) -> Option<Result<String, Unmappable>> {
        let mut captured = [None; MAX_WILDCARDS];
        if !self.from.captures(address, &mut captured) {
            return None;
        }
        let mut subject = String::with_capacity(address.len() + 32);
        for part in &self.parts {
            match part {
                Part::Text(text) => subject.push_str(text),
                Part::Wildcard(index) if Some(*index) == self.tail => {
                    escape::levels_into_tokens(self.from.syntax(), captured[*index], &mut subject);
                }
                Part::Wildcard(index) => escape::level_into_token(captured[*index].unwrap_or_default(), &mut subject),
            }
        }
        if subject.len() > subject::MAX_LENGTH {
            return Some(Err(Unmappable { address: address.to_owned(), mapped: subject, problem: "too long" }));
        }
        Some(Ok(subject))
    }
}

/// From a mesh subject to an address outside.
#[derive(Debug, Clone)]
pub struct OutboundMap {
    syntax: &'static Syntax,
    patterns: Vec<Pattern>,
    parts: Vec<Part>,
    filter: AddressPattern,
}

impl OutboundMap {
    /// # Errors
    /// When a side is not valid, or `to` names a wildcard that one of the patterns does not have.
    pub fn new(syntax: &'static Syntax, patterns: &[String], to: &str) -> Result<Self, AddressError> {
        let patterns = patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let fewest = patterns.iter().min_by_key(|pattern| pattern.wildcards());
        let fewest = fewest.ok_or(AddressError::Empty("list of subjects"))?;
        if let Some(many) = patterns.iter().find(|pattern| pattern.wildcards() > MAX_WILDCARDS) {
            return Err(AddressError::TooManyWildcards(many.to_string()));
        }
        let parts = parse_template(to, fewest.as_str(), fewest.wildcards())?;
        let tails = patterns.iter().filter(|pattern| pattern.tokens().last() == Some(">"));
        let tails: Vec<usize> = tails.map(|pattern| pattern.wildcards() - 1).collect();
        for tail in &tails {
            check_tail(to, &parts, Some(*tail), [Some(syntax.separator), syntax.head])?;
        }
        syntax.check_text(to)?;
        let literal = |part: &Part| matches!(part, Part::Text(text) if syntax.has_wildcard(text));
        if parts.iter().any(literal) {
            return Err(AddressError::BadTarget(to.to_owned(), "it contains a wildcard"));
        }
        let named = |parts: &[Part]| match parts {
            [Part::Text(text), ..] => syntax.head.is_none_or(|end| text.contains(end) || !to.contains(end)),
            _ => syntax.head.is_none_or(|end| !to.contains(end)),
        };
        if !named(&parts) {
            return Err(AddressError::BadTarget(
                to.to_owned(),
                "what is before the first `/` can not depend on the event",
            ));
        }
        // What the template says itself must be right, whatever its wildcards stand for.
        let sample: String = parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        (syntax.check_target)(&sample).map_err(|problem| AddressError::BadTarget(to.to_owned(), problem))?;
        let filter = wildcard_tokens(&parts, &tails, (syntax.separator, syntax.head), syntax.one, syntax.any());
        let filter = AddressPattern::of_targets(syntax, &filter);
        Ok(Self { syntax, patterns, parts, filter })
    }

    /// A pattern that every mapped address matches.
    #[must_use]
    pub fn filter(&self) -> &AddressPattern {
        &self.filter
    }

    /// The address for a subject; `None` when no pattern matches.
    ///
    /// # Errors
    /// When there is no such address at that kind of endpoint.
    pub fn map(&self, subject: &str) -> Option<Result<String, Unmappable>> {
        let mut captured = [""; MAX_WILDCARDS];
        let pattern = self.patterns.iter().find(|pattern| capture_tokens(pattern, subject, &mut captured))?;
        let tail = (pattern.tokens().last() == Some(">")).then(|| pattern.wildcards() - 1);
        let mut address = String::with_capacity(subject.len() + 16);
        for part in &self.parts {
            match part {
                Part::Text(text) => address.push_str(text),
                Part::Wildcard(index) if Some(*index) == tail => {
                    escape::tokens_into_levels(self.syntax, captured[*index], &mut address);
                }
                Part::Wildcard(index) => escape::token_into_level(self.syntax, captured[*index], &mut address),
            }
        }
        let problem = if address.len() > self.syntax.longest {
            Some("too long")
        } else {
            (self.syntax.check_target)(&address).err()
        };
        Some(match problem {
            None => Ok(address),
            Some(problem) => {
                Err(Unmappable { address: subject.to_owned(), mapped: address.chars().take(64).collect(), problem })
            }
        })
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

/// The template with each part that holds a wildcard replaced by one; `tails` are those that may be any number of parts.
fn wildcard_tokens(
    parts: &[Part],
    tails: &[usize],
    (separator, head): (char, Option<char>),
    one: &str,
    rest: &str,
) -> String {
    let marked: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Wildcard(index) if tails.contains(index) => "\u{2}".to_owned(),
            Part::Wildcard(_) => "\u{1}".to_owned(),
        })
        .collect();
    let (name, levels) = marked.split_at(head.and_then(|end| marked.find(end)).map_or(0, |at| at + 1));
    let tokens: Vec<&str> = levels
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
    format!("{name}{}", tokens.join(&separator.to_string()))
}

#[cfg(test)]
mod tests;
