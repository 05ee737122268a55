//! What the operator and the check of a broker's volume agree on: who is counted on by the others, and how the check ends.

use std::collections::BTreeSet;

/// The program in the image of the data plane.
pub const PROGRAM: &str = "/eventmesh-volume-check";
/// File with the brokers that the others count on, in the ConfigMap of the mesh.
pub const MEMBERS_FILE: &str = "brokers";
/// How the program ends when the broker must not start.
pub const REFUSED: u8 = 3;

/// The file: one name a line.
#[must_use]
pub fn render(members: &BTreeSet<String>) -> String {
    members.iter().flat_map(|name| [name.as_str(), "\n"]).collect()
}

#[must_use]
pub fn read(file: &str) -> BTreeSet<String> {
    file.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let members = BTreeSet::from(["m-broker-1".to_owned(), "m-broker-10".to_owned()]);
        assert_eq!(read(&render(&members)), members);
        assert_eq!(read("\n"), BTreeSet::new());
    }
}
