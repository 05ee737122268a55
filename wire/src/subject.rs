//! Subjects and subject patterns of the mesh, after the rules of the NATS protocol.
//!
//! A subject is tokens joined by dots. In a pattern `*` stands for exactly one token and a final `>` for one or more.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a usable subject or pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubjectError {
    #[error("subject is empty; write at least one token, for example `orders`")]
    Empty,
    #[error("subject `{0}` has an empty token; remove the leading, trailing or doubled dot")]
    EmptyToken(String),
    #[error("subject `{0}` contains white space or a control character; use letters, digits, `-` and `_`")]
    BadCharacter(String),
    #[error("subject `{0}` uses `*` or `>` inside a token; a wildcard must be a whole token")]
    PartialWildcard(String),
    #[error("subject `{0}` has `>` before its end; `>` must be the last token")]
    InnerTail(String),
    #[error("subject `{0}` contains a wildcard where a concrete subject is needed")]
    Wildcard(String),
    #[error(
        "subject `{0}` is reserved: subjects that start with `$`, `_INBOX`, `_R_` or `_GR_` belong to the broker and the mesh"
    )]
    Reserved(String),
    #[error("subject is {0} bytes long; the limit is {MAX_LENGTH}")]
    TooLong(usize),
}

/// Longest accepted subject in bytes. The broker's control line holds 4,096 bytes including reply subject and sizes.
pub const MAX_LENGTH: usize = 1024;

/// First tokens by which brokers and clients carry answers.
const INTERNAL: [&str; 3] = ["_INBOX", "_R_", "_GR_"];

/// A valid subject pattern that no reserved subject can match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// When the text breaks the subject rules, or is reserved.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check_tokens(text)?;
        let first = text.split('.').next().unwrap_or_default();
        // A first token that is a wildcard cannot match reserved subjects by itself: the broker keeps `$` subjects
        // out of a stream only when the pattern does not reach them, so such patterns are reserved too.
        if first.starts_with('$') || INTERNAL.contains(&first) || matches!(first, "*" | ">") {
            return Err(SubjectError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Parses a pattern that must not contain wildcards.
    ///
    /// # Errors
    /// As [`Pattern::parse`], and when there is a wildcard.
    pub fn parse_concrete(text: &str) -> Result<Self, SubjectError> {
        let pattern = Self::parse(text)?;
        if pattern.is_concrete() { Ok(pattern) } else { Err(SubjectError::Wildcard(text.to_owned())) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_concrete(&self) -> bool {
        !self.tokens().any(|token| matches!(token, "*" | ">"))
    }

    /// How many wildcards the pattern has; `{n}` of a mapping may name 1 to this number.
    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.tokens().filter(|token| matches!(*token, "*" | ">")).count()
    }

    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether some subject matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.tokens(), other.tokens());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }

    /// Whether every subject that matches `other` also matches `self`.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let (mut outer, mut inner) = (self.tokens(), other.tokens());
        loop {
            match (outer.next(), inner.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(">"), Some(_)) => return true,
                (Some(_), Some(">")) => return false,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// Whether they overlap in part: some subject matches both, and each matches one that the other does not.
    #[must_use]
    pub fn crosses(&self, other: &Self) -> bool {
        self.overlaps(other) && !self.contains(other) && !other.contains(self)
    }
}

impl Pattern {
    /// The pattern of all subjects that match both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (mut left, mut right) = (self.tokens(), other.tokens());
        let mut both = Vec::new();
        loop {
            match (left.next(), right.next()) {
                (None, None) => return Some(Self(both.join("."))),
                (Some(">"), Some(token)) => {
                    both.push(token);
                    both.extend(right);
                    return Some(Self(both.join(".")));
                }
                (Some(token), Some(">")) => {
                    both.push(token);
                    both.extend(left);
                    return Some(Self(both.join(".")));
                }
                (Some("*"), Some(token)) | (Some(token), Some("*")) => both.push(token),
                (Some(a), Some(b)) if a == b => both.push(a),
                _ => return None,
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Pattern {
    type Error = SubjectError;

    fn try_from(text: String) -> Result<Self, SubjectError> {
        Self::parse(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// First pair of patterns, one of each side, that some subject would match both of.
#[must_use]
pub fn first_overlap<'a>(left: &'a [Pattern], right: &'a [Pattern]) -> Option<(&'a Pattern, &'a Pattern)> {
    left.iter().find_map(|a| right.iter().find(|b| a.overlaps(b)).map(|b| (a, b)))
}

fn check_tokens(text: &str) -> Result<(), SubjectError> {
    if text.is_empty() {
        return Err(SubjectError::Empty);
    }
    if text.len() > MAX_LENGTH {
        return Err(SubjectError::TooLong(text.len()));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::BadCharacter(text.to_owned()));
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Err(SubjectError::EmptyToken(text.to_owned())),
            ">" if tokens.peek().is_some() => return Err(SubjectError::InnerTail(text.to_owned())),
            ">" | "*" => {}
            _ if token.contains(['*', '>']) => return Err(SubjectError::PartialWildcard(text.to_owned())),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a valid pattern")
    }

    #[rstest]
    #[case("", SubjectError::Empty)]
    #[case("a..b", SubjectError::EmptyToken("a..b".into()))]
    #[case(".a", SubjectError::EmptyToken(".a".into()))]
    #[case("a b", SubjectError::BadCharacter("a b".into()))]
    #[case("a.b*", SubjectError::PartialWildcard("a.b*".into()))]
    #[case("a.>.b", SubjectError::InnerTail("a.>.b".into()))]
    #[case("$JS.API", SubjectError::Reserved("$JS.API".into()))]
    #[case("$EM.report.a", SubjectError::Reserved("$EM.report.a".into()))]
    #[case("_INBOX.a", SubjectError::Reserved("_INBOX.a".into()))]
    #[case(">", SubjectError::Reserved(">".into()))]
    #[case("*.a", SubjectError::Reserved("*.a".into()))]
    fn refuses(#[case] text: &str, #[case] error: SubjectError) {
        assert_eq!(Pattern::parse(text), Err(error));
    }

    #[rstest]
    #[case("a.b", "a.b", true)]
    #[case("a.b", "a.c", false)]
    #[case("a.*", "a.b", true)]
    #[case("a.>", "a", false)]
    #[case("a.>", "a.b.c", true)]
    #[case("a.*.c", "a.b.*", true)]
    #[case("a.*", "a.b.c", false)]
    #[case("a.*.>", "a.b", false)]
    fn overlap(#[case] left: &str, #[case] right: &str, #[case] expected: bool) {
        assert_eq!(pattern(left).overlaps(&pattern(right)), expected);
        assert_eq!(pattern(right).overlaps(&pattern(left)), expected, "overlap is symmetric");
    }

    #[rstest]
    #[case("a.>", "a.b", true)]
    #[case("a.>", "a.*.c", true)]
    #[case("a.*", "a.>", false)]
    #[case("a.b", "a.*", false)]
    #[case("a.*", "a.b", true)]
    #[case("a.>", "a.>", true)]
    #[case("a.>", "a", false)]
    fn containment(#[case] outer: &str, #[case] inner: &str, #[case] expected: bool) {
        assert_eq!(pattern(outer).contains(&pattern(inner)), expected);
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn token() -> impl Strategy<Value = String> {
            prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("*".to_owned())]
        }

        fn any_pattern() -> impl Strategy<Value = Pattern> {
            (prop::collection::vec(token(), 0..4), any::<bool>()).prop_map(|(tokens, tail)| {
                let mut text = String::from("t");
                for token in tokens {
                    text.push('.');
                    text.push_str(&token);
                }
                if tail {
                    text.push_str(".>");
                }
                pattern(&text)
            })
        }

        fn any_subject() -> impl Strategy<Value = Pattern> {
            prop::collection::vec(prop_oneof![Just("a"), Just("b")], 0..5).prop_map(|tokens| {
                let mut text = String::from("t");
                for token in tokens {
                    text.push('.');
                    text.push_str(token);
                }
                pattern(&text)
            })
        }

        proptest! {
            #[test]
            fn a_subject_in_both_is_a_witness_of_overlap(a in any_pattern(), b in any_pattern(), s in any_subject()) {
                if a.contains(&s) && b.contains(&s) {
                    prop_assert!(a.overlaps(&b));
                }
            }

            #[test]
            fn containment_carries_every_subject(a in any_pattern(), b in any_pattern(), s in any_subject()) {
                if a.contains(&b) && b.contains(&s) {
                    prop_assert!(a.contains(&s));
                }
            }
        }
    }

    #[rstest]
    #[case("a.b", "a.b", Some("a.b"))]
    #[case("a.*", "a.b", Some("a.b"))]
    #[case("a.*.eu", "a.open.*", Some("a.open.eu"))]
    #[case("a.>", "a.*.c", Some("a.*.c"))]
    #[case("a.>", "a.b.>", Some("a.b.>"))]
    #[case("a.*", "a.>", Some("a.*"))]
    #[case("a.>", "a", None)]
    #[case("a.b", "a.c", None)]
    #[case("a.*", "a.b.c", None)]
    fn what_both_match(#[case] left: &str, #[case] right: &str, #[case] expected: Option<&str>) {
        let (left, right) = (pattern(left), pattern(right));
        for both in [left.intersection(&right), right.intersection(&left)] {
            assert_eq!(both.as_ref().map(Pattern::as_str), expected);
        }
        assert_eq!(left.overlaps(&right), expected.is_some());
    }
}
