//! `pinfleet.v1.Access`.

use std::sync::Arc;

use cluster_proto::v1;
use cluster_proto::v1::access_server::Access as AccessService;
use node_core::{Credential, Namespace, Scope, SecretHash};
use tonic::{Request, Response, Status};

use super::caller::caller;
use super::convert;
use super::error::{deadline_of, status};
use crate::service::{Access, CredentialWish, Error, SecretWish, WAIT_DEFAULT, WAIT_MAX};

/// Handlers of `pinfleet.v1.Access`.
#[derive(Clone)]
pub struct AccessApi(pub Arc<Access>);

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn create(&self, request: Request<v1::CreateCredentialRequest>) -> Answered<v1::CreateCredentialResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let wish = wish(request.into_inner()).map_err(status)?;
        let made = self.0.create(wish, caller.name(), wait).await;
        let (credential, secret) = made.map_err(status)?;
        Ok(Response::new(v1::CreateCredentialResponse {
            credential: Some(self.shown(&credential)),
            secret,
        }))
    }

    async fn list(&self, _: Request<v1::ListCredentialsRequest>) -> Answered<v1::ListCredentialsResponse> {
        let all = self.0.list().map_err(status)?;
        Ok(Response::new(v1::ListCredentialsResponse {
            credentials: all.iter().map(|credential| self.shown(credential)).collect(),
        }))
    }

    async fn revoke(&self, request: Request<v1::RevokeCredentialRequest>) -> Answered<v1::RevokeCredentialResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let caller = caller(&request)?;
        let given = request.into_inner().credential;
        let revoked = self.0.revoke(&given, caller.name(), wait).await.map_err(status)?;
        Ok(Response::new(v1::RevokeCredentialResponse {
            credential: Some(self.shown(&revoked)),
        }))
    }
}

impl AccessApi {
    fn shown(&self, credential: &Credential) -> v1::Credential {
        let kind = match credential.secret {
            SecretHash::Token(_) => v1::CredentialKind::Token,
            SecretHash::Password(_) => v1::CredentialKind::Basic,
        };
        v1::Credential {
            id: credential.id.to_string(),
            name: credential.name.clone(),
            kind: kind.into(),
            namespace: credential.namespace.to_string(),
            scope: scope_code(credential.scope).into(),
            created: Some(convert::time(credential.created)),
            expires: credential.expires.map(convert::time),
            expired: self.0.is_expired(credential),
        }
    }
}

fn wish(request: v1::CreateCredentialRequest) -> Result<CredentialWish, Error> {
    let scope = match v1::Scope::try_from(request.scope) {
        Ok(v1::Scope::Read) => Scope::Read,
        Ok(v1::Scope::Pin) => Scope::Pin,
        Ok(v1::Scope::Admin) => Scope::Admin,
        Ok(v1::Scope::Unspecified) | Err(_) => {
            let remedy = "use read (1), pin (2) or admin (3)";
            return Err(Error::invalid("scope", request.scope.to_string(), remedy));
        }
    };
    let secret = match v1::CredentialKind::try_from(request.kind) {
        Ok(v1::CredentialKind::Token) if request.password.is_empty() => SecretWish::Token,
        Ok(v1::CredentialKind::Token) => {
            let remedy = "a token has none; it is made by the cluster. Leave it out, or use the kind basic (2)";
            return Err(Error::invalid("password", "…", remedy));
        }
        Ok(v1::CredentialKind::Basic) => SecretWish::Password(Some(request.password).filter(|given| !given.is_empty())),
        Ok(v1::CredentialKind::Unspecified) | Err(_) => {
            let remedy = "use token (1) or basic (2)";
            return Err(Error::invalid("kind", request.kind.to_string(), remedy));
        }
    };
    let expires = request
        .expires
        .map(|at| convert::read_time("expires", &at))
        .transpose()?;
    Ok(CredentialWish {
        name: request.name,
        namespace: Namespace::new(&request.namespace)?,
        scope,
        expires,
        secret,
    })
}

fn scope_code(scope: Scope) -> v1::Scope {
    match scope {
        Scope::Read => v1::Scope::Read,
        Scope::Pin => v1::Scope::Pin,
        Scope::Admin => v1::Scope::Admin,
    }
}
