//! The rows of a trial that its user wants.

/// Tells whether a row is wanted: arguments of the program name those that are, by what they begin with; none: all.
pub fn wanted() -> impl Fn(&str) -> bool {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    move |name| wanted.is_empty() || wanted.iter().any(|wanted| name.starts_with(wanted.as_str()))
}
