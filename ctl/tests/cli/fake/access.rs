//! Credentials: kept as they come, with secrets that a test can read.

use cluster_proto::v1;
use cluster_proto::v1::access_server::Access;
use prost_types::Timestamp;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Answer, Service, not_found};

/// What is shown once.
pub const SECRET: &str = "pft_9oKSXWmiTGJDEb3KVLTVdCW2fTMNQYVXkSSqzMTqVf8tSg2Qhv3";

/// What a peer says to a call with a credential that it does not like, or none.
pub fn refused(code: Code, reason: &str, message: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "pinfleet", std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

#[tonic::async_trait]
impl Access for Service {
    async fn create(&self, request: Request<v1::CreateCredentialRequest>) -> Answer<v1::CreateCredentialResponse> {
        let request = request.into_inner();
        let what = format!("{} {:?}", request.name, request.password);
        self.0.called("create_credential", &what).await?;
        let secret = if request.password.is_empty() { SECRET } else { "" };
        let mut script = self.0.script.lock().expect("not poisoned");
        let credential = v1::Credential {
            id: format!("mzxw6yt{}", char::from(b'a' + script.credentials.len() as u8)),
            name: request.name,
            kind: request.kind,
            namespace: request.namespace,
            scope: request.scope,
            created: Some(Timestamp {
                seconds: 1_767_323_045,
                nanos: 0,
            }),
            expires: request.expires,
            expired: false,
        };
        script.credentials.push(credential.clone());
        Ok(Response::new(v1::CreateCredentialResponse {
            credential: Some(credential),
            secret: secret.into(),
        }))
    }

    async fn list(&self, _: Request<v1::ListCredentialsRequest>) -> Answer<v1::ListCredentialsResponse> {
        self.0.called("list_credentials", "").await?;
        let credentials = self.0.script.lock().expect("not poisoned").credentials.clone();
        Ok(Response::new(v1::ListCredentialsResponse { credentials }))
    }

    async fn revoke(&self, request: Request<v1::RevokeCredentialRequest>) -> Answer<v1::RevokeCredentialResponse> {
        let given = request.into_inner().credential;
        self.0.called("revoke_credential", &given).await?;
        let mut script = self.0.script.lock().expect("not poisoned");
        let found = script
            .credentials
            .iter()
            .position(|one| one.id == given || one.name == given);
        let Some(found) = found else {
            return Err(not_found(format!(
                "there is no credential {given:?}; `cluster-ctl token ls` and `cluster-ctl credential ls` show them"
            )));
        };
        Ok(Response::new(v1::RevokeCredentialResponse {
            credential: Some(script.credentials.remove(found)),
        }))
    }
}
