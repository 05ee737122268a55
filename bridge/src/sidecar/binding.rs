//! The folder that says where the mesh is and who the application is: a Service Binding, as docs/identities.md describes it,
//! with `sidecar.json` beside it.
//!
//! It may come later than the sidecar: the Secret is optional in the pod, so that a pod never waits for the operator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use eventmesh_wire::config::sidecar::{SIDECAR_FILE, SIDECAR_VERSION, SidecarConfig};
use eventmesh_wire::config::{MeshConfig, MeshCredentials};
use nkeys::KeyPair;
use rustls::ClientConfig;

use crate::tls;

const FILES: [&str; 5] = ["uri", "jwt", "nkey", "ca.crt", SIDECAR_FILE];
/// What no binding can be without.
const NEEDED: usize = 3;

/// Whom the application is at the brokers.
pub struct User {
    pub jwt: String,
    pub key: KeyPair,
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    /// Nothing but TLS will do.
    pub tls: bool,
}

/// A binding that can be used.
pub struct Binding {
    pub mesh: MeshConfig,
    pub sidecar: Option<SidecarConfig>,
    pub addresses: Vec<Address>,
    pub user: User,
    pub tls: Arc<ClientConfig>,
}

/// Why a folder is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error(
        "waiting for the credentials: {0} has no `{1}`; the operator writes it when the ServiceAccount has a right in the mesh"
    )]
    NotYet(String, &'static str),
    #[error("{0}")]
    Wrong(String),
}

/// The texts of the folder, in the order of [`FILES`].
type Texts = [Option<Vec<u8>>; FILES.len()];

/// Reads and judges a folder.
///
/// # Errors
/// What is missing, or wrong.
pub fn load(folder: &Path) -> Result<Binding, Unusable> {
    judge(folder, &read(folder))
}

fn read(folder: &Path) -> Texts {
    // Kubernetes swaps one symbolic link, through which all files are seen; read through its target they belong together.
    let now = std::fs::canonicalize(folder.join("..data"));
    let folder = now.as_deref().unwrap_or(folder);
    FILES.map(|name| std::fs::read(folder.join(name)).ok())
}

fn judge(folder: &Path, texts: &Texts) -> Result<Binding, Unusable> {
    if let Some(missing) = texts[..NEEDED].iter().position(Option::is_none) {
        return Err(Unusable::NotYet(folder.display().to_string(), FILES[missing]));
    }
    let text = |index: usize| -> Result<Option<String>, Unusable> {
        let Some(bytes) = texts[index].clone() else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| wrong(FILES[index], "is no text"))?;
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    };
    let needed = |index: usize| text(index)?.ok_or_else(|| wrong(FILES[index], "is empty"));
    let servers: Vec<String> = needed(0)?.split(',').map(|server| server.trim().to_owned()).collect();
    let addresses = servers.iter().map(|server| address(server)).collect::<Result<_, _>>()?;
    let (jwt, seed) = (needed(1)?, needed(2)?);
    let credentials = MeshCredentials { jwt: jwt.as_str().into(), seed: seed.as_str().into() };
    if let Some((field, problem)) = credentials.problems().into_iter().next() {
        return Err(wrong(if field == "seed" { "nkey" } else { field }, problem));
    }
    let key = KeyPair::from_seed(&seed).map_err(|_| wrong("nkey", "is not the seed of a user"))?;
    let ca_pem = text(3)?;
    let tls = tls::client_config(ca_pem.as_deref(), None).map_err(|error| wrong("ca.crt", &format!("{error:#}")))?;
    let sidecar = texts[4].as_deref().map(sidecar).transpose()?;
    let mesh = MeshConfig { servers, credentials: Some(credentials), ca_pem };
    Ok(Binding { mesh, sidecar, addresses, user: User { jwt, key }, tls: Arc::new(tls) })
}

fn wrong(file: &str, problem: &str) -> Unusable {
    Unusable::Wrong(format!("`{file}` of the binding {problem}"))
}

fn address(server: &str) -> Result<Address, Unusable> {
    let unusable = || wrong("uri", &format!("has `{server}`; write nats://host:port or tls://host:port"));
    let parsed: async_nats::ServerAddr = server.parse().map_err(|_| unusable())?;
    let tls = match parsed.scheme() {
        "tls" => true,
        "nats" => false,
        _ => return Err(unusable()),
    };
    let host = parsed.host().to_owned();
    if host.is_empty() { Err(unusable()) } else { Ok(Address { host, port: parsed.port(), tls }) }
}

fn sidecar(text: &[u8]) -> Result<SidecarConfig, Unusable> {
    let sidecar: SidecarConfig =
        serde_json::from_slice(text).map_err(|error| wrong(SIDECAR_FILE, &format!("can not be read: {error}")))?;
    if sidecar.version != SIDECAR_VERSION {
        let problem = format!("has version {}, and {SIDECAR_VERSION} is what can be read", sidecar.version);
        return Err(wrong(SIDECAR_FILE, &problem));
    }
    Ok(sidecar)
}

/// Finds changes by looking, as [`crate::config_file::Watch`] does.
pub struct Watch {
    folder: PathBuf,
    last: Option<Texts>,
}

impl Watch {
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), last: None }
    }

    /// The judgement of the folder when it is not what it was at the last look; at the first look it always is another.
    pub fn look(&mut self) -> Option<Result<Binding, Unusable>> {
        let texts = read(&self.folder);
        if self.last.as_ref() == Some(&texts) {
            return None;
        }
        let judgement = judge(&self.folder, &texts);
        self.last = Some(texts);
        Some(judgement)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn token(key: &KeyPair) -> String {
        let encode = |part: serde_json::Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let claims = json!({"sub": key.public_key(), "nats": {"type": "user"}});
        format!("{}.{}.{}", encode(json!({"alg": "ed25519-nkey"})), encode(claims), BASE64URL_NOPAD.encode(&[7; 64]))
    }

    fn texts(uri: &str, sidecar: Option<&str>) -> Texts {
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        [bytes(uri), bytes(&token(&key)), bytes(&seed), None, sidecar.and_then(bytes)]
    }

    fn judged(texts: &Texts) -> Result<Binding, Unusable> {
        judge(Path::new("/b"), texts)
    }

    const SIDECAR: &str = r#"{"version":1,"mesh":{"namespace":"m","name":"n"},"namespace":"shop","serviceAccount":"api","publish":["a.>"]}"#;

    #[test]
    fn addresses_and_rights_are_read() {
        let binding = judged(&texts("tls://a:4222, nats://[::1]:1 \n", Some(SIDECAR))).ok().unwrap();
        let address = |host: &str, port, tls| Address { host: host.to_owned(), port, tls };
        assert_eq!(binding.addresses, [address("a", 4222, true), address("::1", 1, false)]);
        assert_eq!(binding.sidecar.unwrap().publish, ["a.>"]);
        assert!(judged(&texts("nats://a", None)).ok().unwrap().sidecar.is_none());
    }

    #[rstest]
    #[case(0, None, "has no `uri`")]
    #[case(2, None, "has no `nkey`")]
    #[case(0, Some("ws://a"), "write nats://host:port")]
    #[case(1, Some("?"), "`jwt` of the binding is not a token")]
    #[case(2, Some("SU"), "`nkey` of the binding is not the seed")]
    #[case(3, Some("no pem"), "`ca.crt` of the binding the CA certificate holds no certificate")]
    #[case(4, Some("{}"), "`sidecar.json` of the binding can not be read")]
    fn what_is_wrong_is_told(#[case] file: usize, #[case] text: Option<&str>, #[case] problem: &str) {
        let mut texts = texts("nats://a", Some(SIDECAR));
        texts[file] = text.map(|text| text.as_bytes().to_vec());
        let error = judged(&texts).err().unwrap();
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(matches!(error, Unusable::NotYet(..)), text.is_none());
    }

    #[test]
    fn a_version_of_the_future_is_refused() {
        let error = judged(&texts("nats://a", Some(&SIDECAR.replace(":1,", ":2,")))).err().unwrap();
        assert!(error.to_string().contains("version 2"), "{error}");
    }
}
