//! Credentials.

use cluster_proto::v1;
use serde::Serialize;

use crate::output::words;

/// A credential without its secret: `token ls|revoke`, `credential ls|revoke`.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `Credential` in access.proto"
)]
pub struct Credential {
    pub id: String,
    pub name: String,
    pub kind: &'static str,
    pub namespace: String,
    pub scope: &'static str,
    pub created: Option<String>,
    pub expires: Option<String>,
    pub expired: bool,
}

impl From<v1::Credential> for Credential {
    fn from(credential: v1::Credential) -> Self {
        Self {
            kind: match credential.kind() {
                v1::CredentialKind::Token => "token",
                v1::CredentialKind::Basic => "basic",
                v1::CredentialKind::Unspecified => "unknown",
            },
            scope: words::scope(credential.scope()).0,
            created: words::time(credential.created.as_ref()),
            expires: words::time(credential.expires.as_ref()),
            id: credential.id,
            name: credential.name,
            namespace: credential.namespace,
            expired: credential.expired,
        }
    }
}

/// A credential and its secret: `token create`, `credential create`.
#[derive(Debug, Clone, Serialize)]
pub struct CreatedCredential {
    /// The token, or the password where the cluster made it; shown once.
    pub secret: Option<String>,
    /// What it is good for.
    #[serde(flatten)]
    pub credential: Credential,
}
