//! TLS for a server, from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds something else.
    #[error("{path:?} holds no {wanted} in PEM ({reason}); give a file that does, readable for this process")]
    File {
        /// Which file.
        path: PathBuf,
        /// What it was to hold.
        wanted: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key don't belong together, or are of a kind that is not taken.
    #[error(
        "the certificate in {certificate:?} and the key in {key:?} can't be used ({reason}); give a pair that belongs together"
    )]
    Pair {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
}

/// TLS 1.2 and 1.3 with HTTP/1.1 only, from a certificate with its chain and its private key, both PEM. Clients show no
/// certificates.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |path: &Path, wanted, reason: String| TlsError::File {
        path: path.to_owned(),
        wanted,
        reason,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(certificate, "certificate", error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(certificate, "certificate", "there is none in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, "private key", error.to_string()))?;
    let pair = |reason| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_is_read_and_what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ((cert, key), (_, other)) = (pair(), pair());
        let (cert, key, other) = (file("cert", &cert), file("key", &key), file("other", &other));
        let config = server_config(&cert, &key).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);

        let error = server_config(&cert, &other).unwrap_err().to_string();
        assert!(error.contains("belongs together"), "{error}");
        let error = server_config(&key, &key).unwrap_err().to_string();
        assert!(error.contains("holds no certificate"), "{error}");
        let error = server_config(&cert, &cert).unwrap_err().to_string();
        assert!(error.contains("holds no private key"), "{error}");
        let error = server_config(&folder.path().join("none"), &key)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("none") && error.contains("holds no certificate"),
            "{error}"
        );
    }
}
