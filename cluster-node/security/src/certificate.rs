//! The certificate that carries a peer's key through a TLS handshake.

use libp2p_identity::ed25519;
use node_core::PeerId;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Identity;
use crate::identity::peer_id_of;

/// What stands before the 32 bytes of the seed in an Ed25519 private key (RFC 8410, PKCS #8 version 1).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Ours have about 300 bytes. Larger ones are not worth the parser's time.
const CERTIFICATE_BYTES_MAX: usize = 4096;

/// Why a certificate names no peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// None, or a chain. There are no authorities here.
    #[error("a peer presents exactly one certificate")]
    NotOne,
    /// Not an X.509 certificate.
    #[error("the certificate can't be read")]
    Malformed,
    /// A key of another kind.
    #[error("the certificate's key is not Ed25519")]
    NotEd25519,
    /// Signed by another key than its own.
    #[error("the certificate is not signed by its own key")]
    NotSelfSigned,
}

/// A fresh self-signed certificate of the identity, and its private key.
///
/// It never expires: what ends a peer's rights is the list of members. A date would only make a wrong clock an outage.
pub(crate) fn issue(
    identity: &Identity,
) -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), rcgen::Error> {
    let mut pkcs8 = PKCS8_PREFIX.to_vec();
    pkcs8.extend_from_slice(&identity.seed());
    let key = PrivatePkcs8KeyDer::from(pkcs8);
    let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, identity.peer_id().to_string());
    let certificate = params.self_signed(&signer)?;
    Ok((certificate.der().clone(), key))
}

/// The peer that the certificate names. Names and dates in it mean nothing. That the other side *has* the key is shown
/// by the handshake's signature, not here.
pub(crate) fn peer_of(
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<PeerId, CertificateError> {
    use CertificateError::{Malformed, NotEd25519, NotOne, NotSelfSigned};
    if !others.is_empty() {
        return Err(NotOne);
    }
    if certificate.len() > CERTIFICATE_BYTES_MAX {
        return Err(Malformed);
    }
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| Malformed)?;
    if !rest.is_empty() {
        return Err(Malformed);
    }
    let ed25519_oid = x509_parser::oid_registry::OID_SIG_ED25519;
    if parsed.public_key().algorithm.algorithm != ed25519_oid {
        return Err(NotEd25519);
    }
    if parsed.signature_algorithm.algorithm != ed25519_oid {
        return Err(NotSelfSigned);
    }
    let key =
        ed25519::PublicKey::try_from_bytes(&parsed.public_key().subject_public_key.data).map_err(|_| NotEd25519)?;
    if !key.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data) {
        return Err(NotSelfSigned);
    }
    Ok(peer_id_of(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_its_peer() {
        let identity = Identity::generate();
        let (certificate, _) = issue(&identity).unwrap();
        assert!(certificate.len() < 1024, "{}", certificate.len());
        assert_eq!(peer_of(&certificate, &[]), Ok(identity.peer_id()));
        assert_eq!(
            peer_of(&certificate, std::slice::from_ref(&certificate)),
            Err(CertificateError::NotOne)
        );
    }

    #[test]
    fn changed_bytes_never_name_another_peer() {
        let identity = Identity::generate();
        let (certificate, _) = issue(&identity).unwrap();
        let mut accepted = 0;
        for at in 0..certificate.len() {
            let mut bytes = certificate.to_vec();
            bytes[at] ^= 1;
            if let Ok(peer) = peer_of(&CertificateDer::from(bytes), &[]) {
                assert_eq!(peer, identity.peer_id(), "byte {at}");
                accepted += 1;
            }
        }
        // What may differ is how the outer parts are encoded, outside of what is signed.
        assert!(accepted < 4, "{accepted}");
        let mut longer = certificate.to_vec();
        longer.push(0);
        assert_eq!(
            peer_of(&CertificateDer::from(longer), &[]),
            Err(CertificateError::Malformed)
        );
        assert_eq!(
            peer_of(&CertificateDer::from(vec![0; 5000]), &[]),
            Err(CertificateError::Malformed)
        );
    }

    #[test]
    fn refuses_other_keys_and_signers() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = params.self_signed(&other).unwrap();
        assert_eq!(peer_of(certificate.der(), &[]), Err(CertificateError::NotEd25519));

        let authority = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &authority);
        let leaf = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let certificate = params.signed_by(&leaf, &issuer).unwrap();
        assert_eq!(peer_of(certificate.der(), &[]), Err(CertificateError::NotSelfSigned));
    }
}
