//! A pattern of addresses, as it stands in `from`.

use super::{AddressError, MAX_WILDCARDS, Syntax};

/// A valid pattern.
#[derive(Debug, Clone)]
pub struct AddressPattern {
    syntax: &'static Syntax,
    /// As subscribed to, a `$share/<group>/` prefix included.
    text: String,
    levels: Vec<String>,
}

impl AddressPattern {
    /// # Errors
    /// When the text breaks the rules of its kind of endpoint.
    pub fn parse(syntax: &'static Syntax, text: &str) -> Result<Self, AddressError> {
        let filter = match text.strip_prefix("$share/").filter(|_| syntax.shares) {
            Some(rest) => match rest.split_once('/') {
                Some((group, filter)) if !group.is_empty() && !syntax.has_wildcard(group) && !filter.is_empty() => {
                    filter
                }
                _ => return Err(AddressError::Share(text.to_owned())),
            },
            None => text,
        };
        syntax.check_text(filter)?;
        let levels = syntax.levels(filter);
        for (index, level) in levels.iter().enumerate() {
            let rest = syntax.rest.filter(|rest| level.contains(rest));
            match rest {
                Some(rest) if *level != rest || index + 1 != levels.len() => {
                    return Err(AddressError::RestPosition(text.to_owned(), rest));
                }
                None if level.contains(syntax.one) && *level != syntax.one => {
                    return Err(AddressError::PartialWildcard(text.to_owned(), syntax.one));
                }
                _ => {}
            }
        }
        let pattern = Self::of_levels(syntax, text, &levels);
        if pattern.wildcards() > MAX_WILDCARDS {
            return Err(AddressError::TooManyWildcards(text.to_owned()));
        }
        Ok(pattern)
    }

    /// The pattern of what a template makes; it was checked as such.
    pub(super) fn of_targets(syntax: &'static Syntax, text: &str) -> Self {
        Self::of_levels(syntax, text, &syntax.levels(text))
    }

    fn of_levels(syntax: &'static Syntax, text: &str, levels: &[&str]) -> Self {
        Self { syntax, text: text.to_owned(), levels: levels.iter().map(|level| (*level).to_owned()).collect() }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub const fn syntax(&self) -> &'static Syntax {
        self.syntax
    }

    fn is_one(&self, level: &str) -> bool {
        level == self.syntax.one
    }

    fn is_rest(&self, level: &str) -> bool {
        Some(level) == self.syntax.rest
    }

    fn is_hidden(&self, first_level: &str) -> bool {
        self.syntax.hidden.is_some_and(|first| first_level.starts_with(first))
    }

    /// Whether it ends with the wildcard for any number of levels.
    pub(super) fn has_rest(&self) -> bool {
        self.levels.last().is_some_and(|level| self.is_rest(level))
    }

    #[must_use]
    pub fn wildcards(&self) -> usize {
        self.levels.iter().filter(|level| self.is_one(level) || self.is_rest(level)).count()
    }

    #[must_use]
    pub fn matches(&self, address: &str) -> bool {
        self.captures(address, &mut [None; MAX_WILDCARDS])
    }

    /// Whether some address matches both patterns, which must be of one kind of endpoint.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.is_hidden(&self.levels[0]) != self.is_hidden(&other.levels[0]) {
            return false; // A leading wildcard never matches a hidden address.
        }
        let (mut left, mut right) = (self.levels.iter(), other.levels.iter());
        loop {
            match (left.next().map(String::as_str), right.next().map(String::as_str)) {
                (None, None) => return true,
                (Some(rest), other) | (other, Some(rest)) if self.is_rest(rest) => {
                    return other.is_some() || self.syntax.rest_may_be_none;
                }
                (Some(a), Some(b)) if a == b || self.is_one(a) || self.is_one(b) => {}
                _ => return false,
            }
        }
    }

    /// Whether the address matches; fills in what each wildcard matched. A wildcard for any number of levels that matched
    /// none stays `None`.
    pub(super) fn captures<'t>(&self, address: &'t str, captured: &mut [Option<&'t str>; MAX_WILDCARDS]) -> bool {
        if self.is_hidden(address) && !self.is_hidden(&self.levels[0]) {
            return false;
        }
        let mut wildcard = 0;
        let mut rest = Some(address);
        for (index, level) in self.levels.iter().enumerate() {
            if self.is_rest(level) {
                captured[wildcard] = rest;
                return rest.is_some() || self.syntax.rest_may_be_none;
            }
            let Some(text) = rest else { return false };
            let (head, tail) = self.syntax.split_level(text, index == 0);
            if self.is_one(level) {
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
