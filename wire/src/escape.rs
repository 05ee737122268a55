//! One MQTT topic level as one subject token, and back.
//!
//! Going in, what a token can not hold (white space, control characters, `.`, `*`, `>`) and `%` itself become `%XX`, an empty
//! level becomes a bare `%`, and no level at all (a `#` that matched nothing) `%-`. Going out, `%XX` is decoded, except to the
//! characters that a topic level can not hold (`/`, `+`, `#`, NUL); these, raw in a token, are encoded.

use std::fmt::Write as _;

fn encode(character: char, into: &mut String) {
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(into, "%{byte:02X}");
    }
}

/// Appends one topic level as one token.
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

/// Appends any number of topic levels, joined by `/`, as tokens joined by dots.
pub(crate) fn levels_into_tokens(levels: Option<&str>, into: &mut String) {
    let Some(levels) = levels else {
        into.push_str("%-");
        return;
    };
    for (index, level) in levels.split('/').enumerate() {
        if index > 0 {
            into.push('.');
        }
        level_into_token(level, into);
    }
}

/// Appends one token as one topic level.
pub(crate) fn token_into_level(token: &str, into: &mut String) {
    if token == "%" {
        return;
    }
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%').then(|| hex_pair(after)).flatten();
        match decoded {
            Some(decoded) if !matches!(decoded, b'/' | b'+' | b'#' | 0) => {
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
        let leading_dollar = character == '$' && index == 0 && into.is_empty();
        if matches!(character, '/' | '+' | '#' | '\0') || leading_dollar {
            encode(character, into);
        } else {
            into.push(character);
        }
    }
}

/// Appends tokens joined by dots as topic levels joined by `/`.
pub(crate) fn tokens_into_levels(tokens: &str, into: &mut String) {
    if tokens == "%-" {
        if into.ends_with('/') {
            into.pop();
        }
        return;
    }
    for (index, token) in tokens.split('.').enumerate() {
        if index > 0 {
            into.push('/');
        }
        token_into_level(token, into);
    }
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (digit(*bytes.first()?)?, digit(*bytes.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}
