//! How things are written for people. Pure.

use std::fmt::Write as _;

/// Columns, each as wide as its widest cell, under a heading.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("   ").trim_end())
    };
    let mut text = line(&mut heading.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Names and values, the values below each other.
#[must_use]
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    facts.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<width$}   {value}");
        text
    })
}

/// A number of bytes in three digits or so, as `12.3Ki`.
#[must_use]
pub fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["", "Ki", "Mi", "Gi", "Ti"];
    let (mut whole, mut rest, mut unit) = (count, 0, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1024, whole % 1024, unit + 1);
    }
    if unit == 0 || whole >= 100 {
        return format!("{whole}{}", UNITS[unit]);
    }
    format!("{whole}.{}{}", rest * 10 / 1024, UNITS[unit])
}

/// A length of time in its two largest units, as `3d4h`; nothing is shorter than a second.
#[must_use]
pub fn duration(seconds: i64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut rest = seconds.max(0);
    let parts = units.iter().skip(first).take(2).map(|(name, unit)| {
        let count = rest / unit;
        rest %= unit;
        (count, *name)
    });
    let parts: Vec<(i64, &str)> = parts.collect();
    let shown = parts.iter().enumerate().filter(|(index, (count, _))| *index == 0 || *count > 0);
    shown.fold(String::new(), |mut text, (_, (count, name))| {
        let _ = write!(text, "{count}{name}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0")]
    #[case(1023, "1023")]
    #[case(1536, "1.5Ki")]
    #[case(200 << 10, "200Ki")]
    #[case(5 << 30, "5.0Gi")]
    fn bytes_are_short(#[case] count: i64, #[case] text: &str) {
        assert_eq!(bytes(count), text);
    }

    #[rstest]
    #[case(-1, "0s")]
    #[case(59, "59s")]
    #[case(60, "1m")]
    #[case(3_700, "1h1m")]
    #[case(2_592_000, "30d")]
    #[case(100_000, "1d3h")]
    fn lengths_have_two_units(#[case] seconds: i64, #[case] text: &str) {
        assert_eq!(duration(seconds), text);
    }
}
