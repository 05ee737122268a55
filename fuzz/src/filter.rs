//! Filters: any expression is compiled or refused, and one that is compiled answers for any event or says why not.

use arbitrary::{Result, Unstructured};
use eventmesh_wire::{event::EventView, expression::Filter};

use crate::input::text;

const PIECES: [&str; 56] = [
    "event",
    ".data",
    ".subject",
    ".id",
    ".headers",
    "['k']",
    "[0]",
    ".x",
    "has(",
    "size(",
    "int(",
    "uint(",
    "double(",
    "string(",
    "bytes(",
    "timestamp(",
    "duration(",
    "matches('",
    ".matches('",
    ".contains('",
    ".startsWith('",
    ".exists(x, ",
    ".all(x, ",
    ".map(x, ",
    ".filter(x, ",
    "x",
    ")",
    "(",
    "[",
    "]",
    "{",
    "}",
    "'",
    "'a'",
    "b'a'",
    "1",
    "0",
    "-1",
    "9223372036854775807",
    "1u",
    "1.5",
    "true",
    "null",
    " == ",
    " < ",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " && ",
    " || ",
    " in ",
    " ? ",
    " : ",
    "!",
];

pub fn run(data: &[u8]) {
    if let Ok(expression) = std::str::from_utf8(data) {
        check(expression, b"{\"x\": 1}");
    }
    let _ = structured(&mut Unstructured::new(data));
}

fn structured(input: &mut Unstructured<'_>) -> Result<()> {
    let mut expression = text(input, &PIECES, 40)?;
    // The depth of an expression is where parsers that call themselves break.
    if input.ratio(1, 8)? {
        let (piece, times) = (text(input, &PIECES, 2)?, input.int_in_range(0..=300)?);
        expression.push_str(&piece.repeat(times));
    }
    check(&expression, input.bytes(input.len())?);
    Ok(())
}

fn check(expression: &str, data: &[u8]) {
    let Ok(filter) = Filter::compile(expression) else { return };
    let headers = [("k".to_owned(), "v".to_owned())];
    let event = EventView { id: "1", source: "s", kind: "t", subject: "a/b", time: "", headers: &headers, data };
    let first = filter.passes(&event);
    assert_eq!(filter.passes(&event), first, "the same event, another answer");
}
