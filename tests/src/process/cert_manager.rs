//! The controllers of cert-manager, which issue certificates from an authority in a Secret, beside an API server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use kube::core::GroupVersionKind;

use crate::{
    child::{Child, Start},
    objects::{Kube, Namespace},
    paths,
    wait::eventually,
};

/// Running controllers.
pub struct CertManager {
    process: Child,
}

impl CertManager {
    /// Puts the definitions onto the API server and starts the controllers.
    pub async fn start(kube: &Kube, kubeconfig: &Path, folder: &Path) -> Result<Self> {
        for file in definitions()? {
            kube.apply("default", &std::fs::read_to_string(file)?).await?;
        }
        for kind in ["Issuer", "ClusterIssuer", "Certificate", "CertificateRequest"] {
            let kind = GroupVersionKind::gvk("cert-manager.io", "v1", kind);
            eventually("a served kind", Duration::from_secs(30), async || {
                let found = kube::discovery::pinned_kind(&kube.client, &kind).await;
                found.map(|_| Some(())).map_err(|error| error.to_string())
            })
            .await?;
        }
        let program = paths::tool("cert-manager")?;
        let process = Start::new(&program, folder).arg("--kubeconfig").arg(kubeconfig).spawn()?;
        Ok(Self { process })
    }

    /// An authority of its own, and an Issuer `company` that signs with it.
    pub async fn issuer(&self, namespace: &Namespace) -> Result<()> {
        namespace.apply(ISSUER).await.with_context(|| self.process.log_tail(20))
    }

    /// What it wrote last.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log_tail(30)
    }
}

fn definitions() -> Result<Vec<PathBuf>> {
    let folder = paths::repository().join(".build/cert-manager-crds");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("{}: run `tests/tools/build api`", folder.display()));
    let mut files: Vec<PathBuf> = entries?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

const ISSUER: &str = "
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: beginning}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: company}
spec:
  isCA: true
  commonName: company
  secretName: company-authority
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: beginning}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: company}
spec: {ca: {secretName: company-authority}}
";
