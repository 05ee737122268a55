//! One level of an address outside as one subject token, and back.
//!
//! Going in, what a token can not hold (white space, control characters, `.`, `*`, `>`) and `%` itself become `%XX`, an empty
//! level becomes a bare `%`, and no level at all (a `#` that matched nothing) `%-`. Going out, `%XX` is decoded, except to the
//! characters that a level can not hold there (for MQTT `/`, `+`, `#`, NUL); these, raw in a token, are encoded.

use std::fmt::Write as _;

use crate::address::Syntax;

fn encode(character: char, into: &mut String) {
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(into, "%{byte:02X}");
    }
}

/// Appends one level as one token.
pub(crate) fn level_into_token(level: &str, into: &mut String) {
    if level.is_empty() {
        into.push('%');
        return;
    }
    for character in level.chars() {
        if matches!(character, '.' | '*' | '>' | '%') || character.is_whitespace() || character.is_control() {
            encode(character, into);
        } else {
            into.push(character);
        }
    }
}

/// Appends any number of levels as tokens joined by dots.
pub(crate) fn levels_into_tokens(syntax: &Syntax, levels: Option<&str>, into: &mut String) {
    let Some(levels) = levels else {
        into.push_str("%-");
        return;
    };
    for (index, level) in levels.split(syntax.separator).enumerate() {
        if index > 0 {
            into.push('.');
        }
        level_into_token(level, into);
    }
}

/// Appends one token as one level.
pub(crate) fn token_into_level(syntax: &Syntax, token: &str, into: &mut String) {
    if token == "%" {
        return;
    }
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%').then(|| hex_pair(after)).flatten();
        match decoded {
            Some(decoded) if syntax.can_hold(char::from(decoded)) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    // Bytes that were decoded may not be text; then the token is its own best name.
    let text = String::from_utf8(bytes).unwrap_or_else(|_| token.to_owned());
    for (index, character) in text.chars().enumerate() {
        let hidden = Some(character) == syntax.hidden && index == 0 && into.is_empty();
        if !syntax.can_hold(character) || hidden {
            encode(character, into);
        } else {
            into.push(character);
        }
    }
}

/// Appends tokens joined by dots as levels.
pub(crate) fn tokens_into_levels(syntax: &Syntax, tokens: &str, into: &mut String) {
    if tokens == "%-" {
        if into.ends_with(syntax.separator) {
            into.pop();
        }
        return;
    }
    for (index, token) in tokens.split('.').enumerate() {
        if index > 0 {
            into.push(syntax.separator);
        }
        token_into_level(syntax, token, into);
    }
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (digit(*bytes.first()?)?, digit(*bytes.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}
