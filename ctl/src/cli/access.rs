//! `cluster-ctl token|credential …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use node_core::Timestamp;

use crate::spec::{parse_duration, parse_time};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, with which a client is let in
    #[command(after_help = "\
The token alone is printed on stdout. It is shown once; the cluster keeps only its hash. It works at
the peer asked when the command ends, and at all others a moment later.

The first one is made on a peer's own host, as the owner of its folder, over the socket there:

Examples:
  cluster-ctl --api unix:/var/lib/pinfleet/peer/admin.sock token create ops --scope admin
  cluster-ctl token create ci --namespace team-a --expire-in 90d > ci.token
  cluster-ctl token create dashboard --namespace team-a --scope read --output json")]
    Create(TokenCreate),
    /// List the tokens, without their secrets
    #[command(after_help = "Examples:\n  cluster-ctl token ls")]
    Ls,
    /// Make a token worth nothing, for good
    #[command(after_help = "\
It is refused at the peer asked when the command ends, and at all others a moment later. Streams that
were opened with it end.

Examples:
  cluster-ctl token revoke ci
  cluster-ctl token revoke mzxw6ytb")]
    Revoke {
        /// ID or name
        token: String,
    },
}

/// What can be done with names and passwords.
#[derive(Debug, Subcommand)]
pub enum CredentialCommand {
    /// Make a name with a password, for clients that speak HTTP's Basic scheme
    #[command(after_help = "\
The password is read from a file or from stdin, or asked for; it is never an argument, which others
could read in the list of processes. With --generate the cluster makes one, which is printed on stdout
and shown once. The cluster keeps only a hash.

Examples:
  cluster-ctl credential create alice --namespace team-a
  cluster-ctl credential create alice --password-file alice.password
  cluster-ctl credential create backup --scope read --generate")]
    Create(CredentialCreate),
    /// List the names that have a password
    #[command(after_help = "Examples:\n  cluster-ctl credential ls")]
    Ls,
    /// Make a name and its password worth nothing, and the web tokens given for them
    #[command(after_help = "\
It is refused at the peer asked when the command ends, and at all others a moment later. To change a
password, revoke the credential and make it anew.

Examples:
  cluster-ctl credential revoke alice")]
    Revoke {
        /// ID or name
        credential: String,
    },
}

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Look at pins, status, content and the cluster
    Read,
    /// Also add, pin and unpin
    Pin,
    /// Everything, in every namespace
    Admin,
}

/// What both kinds have.
#[derive(Debug, Args)]
pub struct Grant {
    /// A new name: letters, digits and - _ . @ +
    pub name: String,
    /// Whose pins it sees and changes
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// How much it allows
    #[arg(long, value_enum, value_name = "SCOPE", default_value = "pin")]
    pub scope: Scope,
    /// Worth nothing after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "expire_at")]
    pub expire_in: Option<Duration>,
    /// Worth nothing from then on, RFC 3339
    #[arg(long, value_name = "WHEN", value_parser = parse_time)]
    pub expire_at: Option<Timestamp>,
}

/// `token create`
#[derive(Debug, Args)]
pub struct TokenCreate {
    /// What it is good for.
    #[command(flatten)]
    pub grant: Grant,
}

/// `credential create`
#[derive(Debug, Args)]
pub struct CredentialCreate {
    /// What it is good for.
    #[command(flatten)]
    pub grant: Grant,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    pub password_file: Option<PathBuf>,
    /// Let the cluster make a password
    #[arg(long)]
    pub generate: bool,
}
