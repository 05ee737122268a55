//! Addresses and subjects: a mapping yields valid ones, and what went in comes out again.

use arbitrary::{Result, Unstructured};
use eventmesh_wire::{
    address::{AddressPattern, InboundMap, MQTT, OutboundMap},
    subject::Pattern,
};

use crate::input::text;

/// What the texts of one side are made of.
struct Alphabet {
    separator: char,
    /// Stands for one part, and for the rest.
    wildcards: [&'static str; 2],
    parts: &'static [&'static str],
    /// Pieces that only by chance make something that is well formed.
    pieces: &'static [&'static str],
    /// The same for a text that is made from what the other side's wildcards caught.
    template: &'static [&'static str],
}

const TOPICS: Alphabet = Alphabet {
    separator: '/',
    wildcards: ["+", "#"],
    parts: &["a", "b", "", "%", "$", ".", " ", "%2F", "-", "*"],
    pieces: &["/", "a", "b", "/+", "+", "/#", "#", "$", "$share/g/", "%", "%2F", "%-", ".", " "],
    template: &["a", "/", "b", "{1}", "/{1}", "{2}", "/{2}", "{", "}", "$", "+", "#"],
};

const NATS: Alphabet = Alphabet {
    separator: '.',
    wildcards: ["*", ">"],
    parts: &["a", "b", "%", "%-", "$", "/", "+", "%2F", "%20", "%FF"],
    pieces: &[".", "a", "b", ".*", "*", ".>", ">", "$", "%", "%2F", "%-", "/", "+"],
    template: &["a", ".", "b", "{1}", ".{1}", "{2}", ".{2}", "{", "}", "_INBOX"],
};

const MOST: usize = 12;

impl Alphabet {
    /// A pattern, mostly a well-formed one.
    fn pattern(&self, input: &mut Unstructured<'_>) -> Result<String> {
        if input.ratio(1, 4)? {
            return text(input, self.pieces, MOST);
        }
        let mut parts = vec!["a"];
        for _ in 0..input.int_in_range(0..=3)? {
            parts.push(if input.arbitrary()? { self.wildcards[0] } else { input.choose(self.parts)? });
        }
        if input.arbitrary()? {
            parts.push(self.wildcards[1]);
        }
        Ok(parts.join(&self.separator.to_string()))
    }

    /// An address, mostly one that the pattern matches.
    fn address(&self, input: &mut Unstructured<'_>, pattern: &str) -> Result<String> {
        if input.ratio(1, 4)? {
            return text(input, self.pieces, MOST);
        }
        let mut parts = Vec::new();
        for part in pattern.split(self.separator) {
            let count = match part {
                _ if part == self.wildcards[0] => 1,
                _ if part == self.wildcards[1] => input.int_in_range(0..=3)?,
                fixed => {
                    parts.push(fixed.to_owned());
                    0
                }
            };
            for _ in 0..count {
                parts.push(if input.ratio(1, 4)? {
                    text(input, &[], 3)?
                } else {
                    (*input.choose(self.parts)?).to_owned()
                });
            }
        }
        Ok(parts.join(&self.separator.to_string()))
    }

    /// What an address becomes on this side.
    fn target(&self, input: &mut Unstructured<'_>) -> Result<String> {
        if input.ratio(1, 4)? {
            return text(input, self.template, MOST);
        }
        let mut parts = vec!["a"];
        for _ in 0..input.int_in_range(0..=3)? {
            parts.push(input.choose(&["b", "{1}", "{2}", "x{1}", "{3}"])?);
        }
        Ok(parts.join(&self.separator.to_string()))
    }
}

pub fn run(data: &[u8]) {
    // Bytes that run out end the attempt.
    let _ = attempt(&mut Unstructured::new(data));
}

fn attempt(input: &mut Unstructured<'_>) -> Result<()> {
    match input.int_in_range(0..=3)? {
        0 => {
            let from = TOPICS.pattern(input)?;
            inbound(&from, &NATS.target(input)?, &TOPICS.address(input, &from)?);
        }
        1 => {
            let from: Vec<String> =
                (0..input.int_in_range(1..=3)?).map(|_| NATS.pattern(input)).collect::<Result<_>>()?;
            let one = input.choose(&from)?.clone();
            outbound(&from, &TOPICS.target(input)?, &NATS.address(input, &one)?);
        }
        2 => {
            let from = TOPICS.pattern(input)?;
            there_and_back(&from, &TOPICS.address(input, &from)?);
        }
        _ => {
            let (left, right) = (NATS.pattern(input)?, NATS.pattern(input)?);
            patterns(&left, &right, &NATS.address(input, &right)?);
        }
    }
    Ok(())
}

fn inbound(from: &str, to: &str, topic: &str) {
    let Ok(map) = InboundMap::new(&MQTT, from, to) else { return };
    let mapped = map.map(topic);
    assert_eq!(mapped.is_some(), map.from().matches(topic), "matching and mapping differ");
    if let Some(Ok(subject)) = mapped {
        let subject = Pattern::parse_concrete(&subject).expect("a mapped subject is one");
        assert!(map.pattern().contains(&subject), "{} does not contain {subject}", map.pattern());
    }
}

fn outbound(patterns: &[String], to: &str, subject: &str) {
    let Ok(map) = OutboundMap::new(&MQTT, patterns, to) else { return };
    let Some(Ok(topic)) = map.map(subject) else { return };
    let usable = !topic.is_empty() && !topic.starts_with('$') && !topic.contains(['+', '#', '\0']);
    assert!(usable && u16::try_from(topic.len()).is_ok(), "{topic:?} is no topic to publish to");
    if Pattern::parse_concrete(subject).is_ok() {
        assert!(map.filter().matches(&topic), "{} does not match {topic:?}", map.filter().as_str());
    }
}

/// What a filter's wildcards catch, as tokens and back in the same places.
fn there_and_back(from: &str, topic: &str) {
    if topic.is_empty()
        || AddressPattern::parse(&MQTT, from).is_err()
        || from.starts_with("$share/")
        || topic.contains(['+', '#', '\0'])
    {
        return;
    }
    let (mut number, mut tokens, mut wildcards) = (0, "t".to_owned(), "t".to_owned());
    let place = |level: &str| {
        let wildcard = match level {
            "+" => ".*",
            "#" => ".>",
            fixed => return fixed.to_owned(),
        };
        number += 1;
        wildcards.push_str(wildcard);
        let place = format!("{{{number}}}");
        tokens.push('.');
        tokens.push_str(&place);
        place
    };
    let back = from.split('/').map(place).collect::<Vec<_>>().join("/");
    let Ok(inward) = InboundMap::new(&MQTT, from, &tokens) else { return };
    let Ok(outward) = OutboundMap::new(&MQTT, &[wildcards], &back) else { return };
    if let Some(Ok(subject)) = inward.map(topic) {
        assert_eq!(
            outward.map(&subject).and_then(std::result::Result::ok).as_deref(),
            Some(topic),
            "by way of {subject}"
        );
    }
}

fn patterns(left: &str, right: &str, subject: &str) {
    let (Ok(left), Ok(right)) = (Pattern::parse(left), Pattern::parse(right)) else { return };
    assert_eq!(left.overlaps(&right), right.overlaps(&left), "overlap is symmetric");
    assert!(left.contains(&left) && left.overlaps(&left));
    if left.contains(&right) {
        assert!(left.overlaps(&right));
    }
    let Ok(subject) = Pattern::parse_concrete(subject) else { return };
    if right.contains(&subject) {
        assert!(!left.contains(&right) || left.contains(&subject), "containment carries every subject");
        assert!(!left.contains(&subject) || left.overlaps(&right), "{subject} is a witness of overlap");
    }
}
