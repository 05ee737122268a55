//! Templates for the key of an outbound event: text, `{n}` for what the n-th wildcard of the matching subject stands for, and
//! `{name}` for a header.

use thiserror::Error;

use crate::subject::{Pattern, SubjectError};

/// Why a template can not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error(
        "`{0}`: unbalanced `{{` or `}}`; write `{{1}}` for what the first wildcard stands for, `{{name}}` for a header"
    )]
    Braces(String),
    #[error("`{0}` names `{{{1}}}`, but `{2}` has {3} wildcard(s)")]
    NoSuchWildcard(String, usize, String, usize),
    #[error("`{0}` names no header in `{{}}`")]
    NoName(String),
    #[error("the key is empty")]
    Empty,
    #[error(transparent)]
    Subject(#[from] SubjectError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Counted from 0.
    Wildcard(usize),
    Header(String),
}

/// A template that fits the subjects of its route.
#[derive(Debug, Clone)]
pub struct KeyTemplate {
    patterns: Vec<Pattern>,
    parts: Vec<Part>,
}

impl KeyTemplate {
    /// # Errors
    /// When it is malformed, or names a wildcard that one of the patterns does not have.
    pub fn new(patterns: &[String], text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let patterns = patterns.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<Vec<_>, _>>()?;
        let parts = parse(text)?;
        for part in &parts {
            let Part::Wildcard(index) = part else { continue };
            if let Some(pattern) = patterns.iter().find(|pattern| pattern.wildcards() <= *index) {
                let wildcards = pattern.wildcards();
                return Err(KeyError::NoSuchWildcard(text.to_owned(), index + 1, pattern.to_string(), wildcards));
            }
        }
        Ok(Self { patterns, parts })
    }

    /// The key of an event; `None` when it lacks a header that the template names, or its subject is none of the route's.
    pub fn apply<'h>(&self, subject: &str, header: impl Fn(&str) -> Option<&'h str>) -> Option<String> {
        let pattern = self.patterns.iter().find(|pattern| matches(pattern, subject))?;
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Wildcard(index) => key.push_str(captured(pattern, subject, *index)?),
                Part::Header(name) => key.push_str(header(name)?),
            }
        }
        Some(key)
    }
}

fn parse(text: &str) -> Result<Vec<Part>, KeyError> {
    let braces = || KeyError::Braces(text.to_owned());
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (literal, tail) = rest.split_at(open);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.to_owned()));
        }
        let (inner, after) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')).ok_or_else(braces)?;
        parts.push(match inner.parse::<usize>() {
            Ok(0) => return Err(KeyError::NoSuchWildcard(text.to_owned(), 0, text.to_owned(), 0)),
            Ok(number) => Part::Wildcard(number - 1),
            Err(_) if inner.is_empty() => return Err(KeyError::NoName(text.to_owned())),
            Err(_) if inner.contains('{') => return Err(braces()),
            Err(_) => Part::Header(inner.to_owned()),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

fn matches(pattern: &Pattern, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.tokens() {
        match (wanted, tokens.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// What a wildcard of a pattern stands for in a subject that matches it.
fn captured<'s>(pattern: &Pattern, subject: &'s str, wildcard: usize) -> Option<&'s str> {
    let place = pattern.tokens().enumerate().filter(|(_, token)| matches!(*token, "*" | ">")).nth(wildcard);
    let (place, token) = place?;
    if token == ">" {
        return subject.splitn(place + 1, '.').last();
    }
    subject.split('.').nth(place)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn template(text: &str) -> Result<KeyTemplate, KeyError> {
        KeyTemplate::new(&["orders.*.*".to_owned(), "audit.>".to_owned()], text)
    }

    #[rstest]
    #[case("{1}", "orders.7.paid", Some("7"))]
    #[case("{1}", "audit.a.b.c", Some("a.b.c"))]
    #[case("c-{1}/{tenant}", "orders.7.paid", Some("c-7/acme"))]
    #[case("fixed", "orders.7.paid", Some("fixed"))]
    #[case("{missing}", "orders.7.paid", None)]
    #[case("{1}", "elsewhere", None)]
    fn makes_the_key(#[case] text: &str, #[case] subject: &str, #[case] key: Option<&str>) {
        let header = |name: &str| (name == "tenant").then_some("acme");
        assert_eq!(template(text).unwrap().apply(subject, header).as_deref(), key);
    }

    #[rstest]
    #[case("{2}", "but `audit.>` has 1 wildcard(s)")]
    #[case("{0}", "names `{0}`")]
    #[case("{", "unbalanced")]
    #[case("a}", "unbalanced")]
    #[case("{}", "names no header")]
    #[case("", "empty")]
    fn refuses(#[case] text: &str, #[case] problem: &str) {
        let error = template(text).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}
