//! TLS between peers: version 1.3, both sides authenticated by their keys, nothing resumed.

use std::fmt;
use std::sync::Arc;

use node_core::PeerId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig, SignatureScheme};

use crate::certificate::{issue, peer_of};
use crate::{CertificateError, Identity};

/// Named in the handshake, so that a client of another protocol is refused before it says a word.
const PROTOCOL: &[u8] = b"pinfleet-peer/1";

/// Makes ring the provider for those parts of the process that don't name one (HTTPS to storage nodes). Peers' own
/// connections don't depend on it. Fine to call twice.
pub fn install_default_provider() {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A peer's side of TLS: its certificate and key, ready for both directions. Cheap to clone.
#[derive(Clone)]
pub struct PeerTls {
    peer_id: PeerId,
    provider: Arc<CryptoProvider>,
    key: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerTls({})", self.peer_id)
    }
}

impl PeerTls {
    /// Signs a certificate with the identity's key.
    pub fn new(identity: &Identity) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (certificate, key) = issue(identity).expect("any Ed25519 seed can sign a certificate");
        let signer = rustls::crypto::ring::sign::any_eddsa_type(&key).expect("an Ed25519 key was just made");
        let key = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signer)));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .with_client_cert_verifier(Arc::new(AnyPeer(provider.clone())))
            .with_cert_resolver(key.clone() as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        // A resumed session would skip the proof of the key. Connections live long: there is nothing to win.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Self {
            peer_id: identity.peer_id(),
            provider,
            key,
            server: Arc::new(server),
        }
    }

    /// Whose it is.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For connections to one peer: any other peer behind the address fails the handshake.
    pub(crate) fn client(&self, expected: PeerId) -> Arc<ClientConfig> {
        let verifier = ExactPeer {
            expected,
            provider: self.provider.clone(),
        };
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.key.clone() as Arc<dyn ResolvesClientCert>);
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Arc::new(client)
    }
}

/// The peer that the other side proved to be, after a handshake.
pub(crate) fn proven_peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<PeerId, CertificateError> {
    match certificates {
        Some([certificate, others @ ..]) => peer_of(certificate, others),
        _ => Err(CertificateError::NotOne),
    }
}

/// Accepts every client that proves a key; who may do what is decided later, per request.
#[derive(Debug)]
struct AnyPeer(Arc<CryptoProvider>);

/// Accepts one server.
#[derive(Debug)]
struct ExactPeer {
    expected: PeerId,
    provider: Arc<CryptoProvider>,
}

/// The address leads to another peer than the one that was wanted.
#[derive(Debug, thiserror::Error)]
#[error("it is peer {found}, not {expected}")]
pub(crate) struct WrongPeer {
    pub(crate) expected: PeerId,
    pub(crate) found: PeerId,
}

fn refuse(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(error))))
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("peers speak TLS 1.3 only".to_owned())
}

fn check_signature(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if signature.scheme != SignatureScheme::ED25519 {
        return Err(refuse(CertificateError::NotEd25519));
    }
    verify_tls13_signature(
        message,
        certificate,
        signature,
        &provider.signature_verification_algorithms,
    )
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        peer_of(end_entity, intermediates).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(&self.0, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ServerCertVerifier for ExactPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = peer_of(end_entity, intermediates).map_err(refuse)?;
        if found != self.expected {
            return Err(refuse(WrongPeer {
                expected: self.expected,
                found,
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
