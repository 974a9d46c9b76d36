//! `token create|ls|revoke` and `credential create|ls|revoke`

use cluster_proto::v1;

use super::invalid;
use crate::Context;
use crate::cli::{CredentialCommand, Grant, Scope, TokenCommand};
use crate::client::{Kind, service};
use crate::exit::{Exit, Failure};
use crate::output::table::{Cell, Rows};
use crate::output::{Out, Tone, json, words};
use crate::secret::{ask_password, first_line};
use crate::spec::check_namespace;

/// A shorter password is guessed by whoever gets hold of its hash.
const PASSWORD_CHARS_SHORT: usize = 12;

/// Carries out a command about tokens.
pub async fn tokens(context: &mut Context, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create(arguments) => {
            create(context, v1::CredentialKind::Token, arguments.grant, String::new()).await?;
        }
        TokenCommand::Ls => list(context, v1::CredentialKind::Token).await?,
        TokenCommand::Revoke { token } => revoke(context, token).await?,
    }
    Ok(Exit::Ok)
}

/// Carries out a command about names with passwords.
pub async fn credentials(context: &mut Context, command: CredentialCommand) -> Result<Exit, Failure> {
    match command {
        CredentialCommand::Create(arguments) => {
            // Before a password is asked for.
            check(&arguments.grant)?;
            let password = match &arguments.password_file {
                _ if arguments.generate => String::new(),
                Some(file) => first_line(file, context.talk)?,
                None => ask_password(&arguments.grant.name).await?,
            };
            if !arguments.generate {
                if password.is_empty() {
                    return Err(Failure::usage("the password is empty").hint("--generate lets the cluster make one"));
                }
                if password.chars().count() < PASSWORD_CHARS_SHORT {
                    context.talk.warn(&format!(
                        "the password has fewer than {PASSWORD_CHARS_SHORT} characters; --generate makes one that nobody guesses"
                    ));
                }
            }
            create(context, v1::CredentialKind::Basic, arguments.grant, password).await?;
        }
        CredentialCommand::Ls => list(context, v1::CredentialKind::Basic).await?,
        CredentialCommand::Revoke { credential } => revoke(context, credential).await?,
    }
    Ok(Exit::Ok)
}

fn check(grant: &Grant) -> Result<(), Failure> {
    node_core::check_credential_name(&grant.name).map_err(Failure::usage)?;
    check_namespace(&grant.namespace).map_err(invalid)
}

async fn create(
    context: &mut Context,
    kind: v1::CredentialKind,
    grant: Grant,
    password: String,
) -> Result<(), Failure> {
    check(&grant)?;
    let scope = match grant.scope {
        Scope::Read => v1::Scope::Read,
        Scope::Pin => v1::Scope::Pin,
        Scope::Admin => v1::Scope::Admin,
    };
    let expires = grant.expire_in.map(|time| words::now().plus(time)).or(grant.expire_at);
    let request = v1::CreateCredentialRequest {
        kind: kind.into(),
        name: grant.name,
        password,
        namespace: grant.namespace,
        scope: scope.into(),
        expires: expires.map(words::proto_time),
    };
    let answer = context
        .client
        .call(Kind::Write, request, |channel, request| async move {
            service!(access_client::AccessClient, channel).create(request).await
        })
        .await?;
    let credential = answer.credential.unwrap_or_default();
    if context.out.is_json() {
        return context.out.object(&json::CreatedCredential {
            secret: Some(answer.secret).filter(|secret| !secret.is_empty()),
            credential: credential.into(),
        });
    }
    if !answer.secret.is_empty() {
        context.out.line(&words::printable(&answer.secret))?;
    }
    let what = match kind {
        v1::CredentialKind::Token => "token",
        _ => "credential",
    };
    let until = words::time(credential.expires.as_ref()).map(|until| format!(", until {until}"));
    context.talk.note(&format!(
        "{what} {} ({}): scope {}, namespace {}{}",
        credential.id,
        credential.name,
        words::scope(credential.scope()).0,
        credential.namespace,
        until.unwrap_or_default()
    ));
    if !answer.secret.is_empty() {
        context
            .talk
            .note("what is printed is shown once; the cluster keeps only its hash");
    }
    Ok(())
}

async fn list(context: &mut Context, kind: v1::CredentialKind) -> Result<(), Failure> {
    let answer = context
        .client
        .call(
            Kind::Read,
            v1::ListCredentialsRequest {},
            |channel, request| async move { service!(access_client::AccessClient, channel).list(request).await },
        )
        .await?;
    let of_kind = answer
        .credentials
        .into_iter()
        .filter(|credential| credential.kind() == kind);
    print(&mut context.out, of_kind)
}

async fn revoke(context: &mut Context, given: String) -> Result<(), Failure> {
    let request = v1::RevokeCredentialRequest { credential: given };
    let answer = context
        .client
        .call(Kind::Write, request, |channel, request| async move {
            service!(access_client::AccessClient, channel).revoke(request).await
        })
        .await?;
    let credential = answer.credential.unwrap_or_default();
    if context.out.is_json() {
        return context.out.object(&json::Credential::from(credential));
    }
    let line = format!("revoked {} ({})", credential.id, credential.name);
    context.out.line(&words::printable(&line))
}

fn print(out: &mut Out, credentials: impl Iterator<Item = v1::Credential>) -> Result<(), Failure> {
    let mut rows = Rows::new(&["NAME", "ID", "SCOPE", "NAMESPACE", "CREATED", "EXPIRES"])
        .flexible(&["NAME", "NAMESPACE"])
        .droppable(&["CREATED"]);
    for credential in credentials {
        if out.is_json() {
            out.object(&json::Credential::from(credential))?;
            continue;
        }
        let (scope, tone) = words::scope(credential.scope());
        let expires = match (credential.expired, words::time_short(credential.expires.as_ref())) {
            (true, when) => Cell::toned(format!("expired {when}"), Tone::Bad),
            (false, when) if when.is_empty() => Cell::from("never"),
            (false, when) => when.into(),
        };
        let row = vec![
            Cell::from(credential.name),
            credential.id.into(),
            Cell::toned(scope, tone),
            credential.namespace.into(),
            words::time_short(credential.created.as_ref()).into(),
            expires,
        ];
        rows.push(out, row)?;
    }
    rows.print(out)
}
