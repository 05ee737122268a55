//! What the identity controller tells the mesh controller, whose status shows it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::broker::MeshKey;

/// How it stands with the identities of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Parties that may connect.
    pub identities: usize,
    /// What keeps the operator from changing anything.
    pub problem: Option<String>,
}

/// The last report of each mesh.
#[derive(Default)]
pub struct Reports(Mutex<BTreeMap<MeshKey, Report>>);

impl Reports {
    pub fn get(&self, mesh: &MeshKey) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(mesh).cloned()
    }

    /// Returns whether it is another one than before.
    pub fn put(&self, mesh: &MeshKey, report: &Report) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(mesh.clone(), report.clone()).as_ref() != Some(report)
    }
}
