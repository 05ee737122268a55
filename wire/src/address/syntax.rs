//! How each kind of endpoint writes addresses.

use super::AddressError;
use crate::validate::{ALPHABET, may_name_topic};

/// The way of one kind of endpoint.
#[derive(Debug)]
pub struct Syntax {
    /// What an address is called there.
    pub noun: &'static str,
    /// Between levels.
    pub separator: char,
    /// Ends a first level that is a name of its own, where an address has one: an exchange.
    pub head: Option<char>,
    /// Stands for one level.
    pub one: &'static str,
    /// Stands for the levels at the end, where there is such a wildcard.
    pub rest: Option<&'static str>,
    /// Whether `rest` also stands for no level at all: `a/#` matches `a`.
    pub rest_may_be_none: bool,
    /// First character of addresses that only patterns match which begin with it too.
    pub hidden: Option<char>,
    /// Whether patterns may be shared by several readers with `$share/<group>/` before them.
    pub shares: bool,
    /// Characters that no level can hold, beside the separator and NUL.
    pub reserved: &'static [char],
    /// In bytes.
    pub longest: usize,
    /// What is wrong with an address to deliver to.
    pub check_target: fn(&str) -> Result<(), &'static str>,
}

/// MQTT 5, section 4.7.
pub const MQTT: Syntax = Syntax {
    noun: "MQTT topic",
    separator: '/',
    head: None,
    one: "+",
    rest: Some("#"),
    rest_may_be_none: true,
    hidden: Some('$'),
    shares: true,
    reserved: &['+', '#'],
    longest: u16::MAX as usize,
    check_target: |topic| match topic {
        "" => Err("an MQTT topic has at least one character"),
        // A wildcard that stands for an empty level leaves the first place to the text after it.
        _ if topic.starts_with('$') => Err("topics that begin with `$` are the MQTT broker's own"),
        _ => Ok(()),
    },
};

/// AMQP 0-9-1: `queue`, or `exchange/routing key` with the wildcards of a topic exchange. The default exchange has no name.
pub const AMQP_091: Syntax = Syntax {
    noun: "queue or exchange/routing key",
    separator: '.',
    head: Some('/'),
    one: "*",
    rest: Some("#"),
    rest_may_be_none: true,
    hidden: None,
    shares: false,
    reserved: &[],
    longest: 2 * SHORT_STRING + 1,
    check_target: |address| {
        let (exchange, key) = address.split_once('/').unwrap_or(("", address));
        if exchange.len() > SHORT_STRING || key.len() > SHORT_STRING {
            return Err("an exchange, a routing key and a queue have at most 255 bytes in AMQP 0-9-1");
        }
        Ok(())
    },
};

/// The longest name in AMQP 0-9-1, in bytes.
const SHORT_STRING: usize = 255;

/// AMQP 1.0, which leaves it to the broker what an address says: levels between dots are what most of them make of it.
pub const AMQP_1: Syntax = Syntax {
    noun: "AMQP address",
    separator: '.',
    head: None,
    one: "*",
    rest: Some("#"),
    rest_may_be_none: true,
    hidden: None,
    shares: false,
    reserved: &[],
    longest: 1024,
    check_target: |_| Ok(()),
};

/// Kafka knows no levels; names are read as levels between dots, as most clusters name their topics.
pub const KAFKA: Syntax = Syntax {
    noun: "Kafka topic",
    separator: '.',
    head: None,
    one: "*",
    rest: None,
    rest_may_be_none: false,
    hidden: None,
    shares: false,
    reserved: &['*'],
    longest: 249,
    check_target: |topic| match topic {
        "" => Err("a Kafka topic has at least one character"),
        "." | ".." => Err("no Kafka topic can have this name"),
        _ if topic.chars().all(may_name_topic) => Ok(()),
        _ => Err(ALPHABET),
    },
};

/// The path of a URL, without percent-encoding but for a slash inside a segment.
pub const HTTP: Syntax = Syntax {
    noun: "HTTP path",
    separator: '/',
    head: None,
    one: "*",
    rest: Some("**"),
    rest_may_be_none: false,
    hidden: None,
    shares: false,
    reserved: &[],
    longest: 4096,
    check_target: |path| {
        // A server takes these for another path than the one that was meant, also when they are percent-encoded.
        let up = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        match path {
            _ if !path.starts_with('/') => Err("an HTTP path begins with a slash"),
            _ if path.split('/').any(up) => Err("a segment of an HTTP path can not be `.` or `..`"),
            _ if path.contains(char::is_control) => Err("an HTTP path can not hold control characters"),
            _ => Ok(()),
        }
    },
};

/// Subjects of another NATS system.
pub const NATS: Syntax = Syntax {
    noun: "NATS subject",
    separator: '.',
    head: None,
    one: "*",
    rest: Some(">"),
    rest_may_be_none: false,
    hidden: None,
    shares: false,
    reserved: &['*', '>', ' ', '\t', '\r', '\n'],
    // What servers take in one line by default, with room for the rest of that line.
    longest: 2048,
    check_target: |subject| match subject {
        "" => Err("a NATS subject has at least one character"),
        _ if subject.split('.').any(str::is_empty) => Err("a token of it would be empty"),
        _ if subject.starts_with("$SYS.") || subject.starts_with("$JS.") => {
            Err("subjects that begin with `$SYS.` or `$JS.` are the NATS server's own")
        }
        _ => Ok(()),
    },
};

impl Syntax {
    /// The first level and what follows it; `first`: of a whole address. A head keeps the character that ends it.
    pub(super) fn split_level<'t>(&self, text: &'t str, first: bool) -> (&'t str, Option<&'t str>) {
        if let Some(end) = self.head.filter(|_| first).and_then(|end| text.find(end)) {
            return (&text[..=end], Some(&text[end + 1..]));
        }
        match text.split_once(self.separator) {
            Some((level, rest)) => (level, Some(rest)),
            None => (text, None),
        }
    }

    pub(super) fn levels<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let (first, mut rest) = self.split_level(text, true);
        let mut levels = vec![first];
        while let Some(text) = rest {
            let (level, after) = self.split_level(text, false);
            levels.push(level);
            rest = after;
        }
        levels
    }

    /// The wildcard for any number of levels, or its best stand-in.
    pub(super) fn any(&self) -> &'static str {
        self.rest.unwrap_or(self.one)
    }

    pub(super) fn has_wildcard(&self, text: &str) -> bool {
        text.contains(self.one) || self.rest.is_some_and(|rest| text.contains(rest))
    }

    pub(crate) fn can_hold(&self, character: char) -> bool {
        character != self.separator && character != '\0' && !self.reserved.contains(&character)
    }

    pub(super) fn check_text(&self, text: &str) -> Result<(), AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty(self.noun));
        }
        if text.contains('\0') {
            return Err(AddressError::Nul(self.noun));
        }
        if text.len() > self.longest {
            return Err(AddressError::TooLong(text.chars().take(64).collect(), self.longest, self.noun));
        }
        Ok(())
    }
}
