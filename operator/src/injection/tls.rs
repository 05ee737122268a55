//! The certificate that this replica shows: taken up from its Secret without a restart.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;
use tracing::{info, warn};

use super::certificate;
use crate::pki::{Pair, reading};

/// The last one that was good.
#[derive(Debug)]
pub struct Certificates(watch::Sender<Option<Arc<CertifiedKey>>>);

impl Default for Certificates {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Certificates {
    /// Takes up what a Secret holds. One that is spoilt changes nothing: the leader puts it right.
    pub fn take_up(&self, secret: &Secret) {
        let pair = secret.data.as_ref().and_then(certificate::serving).ok_or_else(|| "keys are missing".to_owned());
        match pair.and_then(|pair| read(&pair)) {
            Ok(key) => {
                if self.0.borrow().as_ref().is_none_or(|before| before.cert != key.cert) {
                    info!("the webhook has a new certificate");
                    self.0.send_replace(Some(Arc::new(key)));
                }
            }
            Err(problem) => {
                warn!(secret = certificate::SECRET, problem, "not taken up; the certificate before is shown on");
            }
        }
    }

    /// Waits for the first.
    pub async fn ready(&self) {
        // The sender is this object itself.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

fn read(pair: &Pair) -> Result<CertifiedKey, String> {
    let chain = reading::certificates(&pair.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|_| "its key cannot be read".to_owned())?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

/// Whoever calls: API servers show no certificate unless each of them is told to.
pub fn server_config(certificates: Arc<Certificates>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(Arc::new(builder.with_cert_resolver(certificates)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use k8s_openapi::{ByteString, jiff::Timestamp};

    use super::*;
    use crate::pki::Authority;

    #[test]
    fn what_is_spoilt_does_not_replace_what_is_good() {
        let authority = Authority::generate("m", Duration::from_hours(1), Timestamp::now()).expect("an authority");
        let issue = || authority.issue(&["a".to_owned()].into(), Duration::from_hours(1), Timestamp::now());
        let (one, two) = (issue().expect("a leaf"), issue().expect("a leaf"));
        let secret = |certificate: &str, key: &str| Secret {
            data: Some(BTreeMap::from([
                ("tls.crt".to_owned(), ByteString(certificate.as_bytes().to_vec())),
                ("tls.key".to_owned(), ByteString(key.as_bytes().to_vec())),
            ])),
            ..Secret::default()
        };
        let certificates = Certificates::default();
        let shown = || certificates.0.borrow().as_ref().map(|key| key.cert.clone());
        certificates.take_up(&secret(&one.certificate, &two.key));
        assert_eq!(shown(), None);
        certificates.take_up(&secret(&one.certificate, &one.key));
        let first = shown();
        assert!(first.is_some());
        for spoilt in [Secret::default(), secret("x", "y"), secret(&one.certificate, &two.key)] {
            certificates.take_up(&spoilt);
            assert_eq!(shown(), first);
        }
        certificates.take_up(&secret(&two.certificate, &two.key));
        assert_ne!(shown(), first);
    }
}
