//! `token create|list|revoke`: tokens by which callers prove their identity, or join the cluster.
//!
//! The secret of a token is created here. Masters receive its hash, so that none of them stores it.

use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::access::{TokenId, TokenSecret};
use argosy_state::actor::{Principal, PrincipalKind};
use argosy_state::ids::InvalidId;
use clap::{Args, Subcommand};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, ListView, OutputArguments, WriteArguments};
use crate::exit::{DONE, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout, Row, note, utc, wall_now_ms};
use crate::parsers;
use crate::random;

/// The default lifetime of a join token.
const JOIN_LIFETIME: Duration = Duration::from_secs(3_600);

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token, and print it once
    #[command(after_help = "Examples:
  argosy token create --principal operator/ci --expires 30d > ci.token
  argosy token create --for agent --uses 20 --expires 1h

The cluster stores only a hash of the token: it cannot be shown again. A holder of a token with
--principal acts as this principal. A holder of one with --for may have the key of a new agent or
master certified.")]
    Create(TokenCreate),
    /// List the tokens, without their secrets
    #[command(after_help = "Examples:
  argosy token list
  argosy token list -o json")]
    List(TokenList),
    /// Revoke a token: it is not accepted any more, and its streams end
    #[command(after_help = "Examples:
  argosy token revoke 3f1c7a9e5b2d4c60
  argosy token revoke 3f1c7a9e5b2d4c60 --dry-run")]
    Revoke(TokenRevoke),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// Principal as which its holder acts, as operator/ci or framework/web
    #[arg(long, value_name = "KIND/NAME", value_parser = principal, required_unless_present = "joins")]
    principal: Option<Principal>,
    /// Kind of the hosts that may join by it: agent or master
    #[arg(long = "for", id = "joins", value_name = "KIND", value_parser = joining_kind, conflicts_with = "principal")]
    joins: Option<PrincipalKind>,
    /// Number of hosts that may join by it, at most 10000
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "joins", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    uses: u32,
    /// Time after which it is not accepted [default: never; with --for, 1h]
    #[arg(long, value_name = "TIME", value_parser = parsers::timeout)]
    expires: Option<Duration>,
    /// Text for people, at most 255 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct TokenList {
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct TokenRevoke {
    /// Id of the token: the 16 digits after argosy_
    #[arg(value_name = "ID", value_parser = token_id)]
    id: TokenId,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

fn principal(text: &str) -> Result<Principal, String> {
    text.parse().map_err(|error: InvalidId| error.to_string())
}

fn token_id(text: &str) -> Result<TokenId, String> {
    text.parse().map_err(|error: InvalidId| error.to_string())
}

fn joining_kind(text: &str) -> Result<PrincipalKind, String> {
    match text.parse() {
        Ok(kind @ (PrincipalKind::Agent | PrincipalKind::Master)) => Ok(kind),
        Ok(PrincipalKind::Framework | PrincipalKind::Operator) | Err(_) => {
            Err("write agent or master".to_owned())
        }
    }
}

impl ObjectCommand for TokenCommand {
    const ABOUT: &str = "Tokens: create, list, revoke";
    const EXAMPLES: &str = "Examples:
  argosy token create --principal operator/ci --expires 30d
  argosy token list";

    fn run(&self) -> VerbResult {
        match self {
            Self::Create(arguments) => calls(create(arguments)),
            Self::List(arguments) => calls(list(arguments)),
            Self::Revoke(arguments) => calls(revoke(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Create(_) | Self::Revoke(_) => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    tokens: &'a [v1::Token],
}

impl Row for v1::Token {
    const HEADINGS: &'static [&'static str] = &["ID", "PURPOSE", "EXPIRES", "DESCRIPTION"];
    const WIDE: &'static [&'static str] = &["CREATED", "CREATED BY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.token_id.clone(),
            purpose_text(self),
            expiry_text(self.expires_wall_ms, wall_now_ms()),
            self.description.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![utc(self.created_wall_ms), self.created_by.clone()]
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        match heading {
            "EXPIRES" => Some(self.expires_wall_ms.unwrap_or(i64::MAX)),
            "CREATED" => Some(self.created_wall_ms),
            _ => None,
        }
    }

    fn name(&self) -> String {
        self.token_id.clone()
    }
}

fn purpose_text(token: &v1::Token) -> String {
    match &token.purpose {
        Some(v1::token::Purpose::Principal(principal)) => principal.clone(),
        Some(v1::token::Purpose::Join(join)) => format!("join {}, {} left", join.kind, join.uses),
        None => String::new(),
    }
}

fn expiry_text(expires: Option<i64>, now: i64) -> String {
    match expires {
        None => "never".to_owned(),
        Some(at) if at <= now => "expired".to_owned(),
        Some(at) => utc(at),
    }
}

/// Returns the change that creates a token.
fn creation(arguments: &TokenCreate, token: &TokenSecret) -> v1::CreateToken {
    let join = arguments.joins.map(|kind| v1::JoinPurpose {
        kind: kind.to_string(),
        uses: arguments.uses,
    });
    let principal = arguments.principal.as_ref().map(ToString::to_string);
    let join_lifetime = join.is_some().then_some(JOIN_LIFETIME);
    let lifetime = arguments.expires.or(join_lifetime);
    let purpose = match (join, principal) {
        (Some(join), _) => Some(v1::create_token::Purpose::Join(join)),
        (None, Some(principal)) => Some(v1::create_token::Purpose::Principal(principal)),
        (None, None) => None,
    };
    let hash: [u8; 32] = Sha256::digest(token.secret).into();
    v1::CreateToken {
        token_id: token.id.to_string(),
        secret_hash: argosy_state::access::KeyHash(hash).to_string(),
        purpose,
        lifetime_ms: lifetime.map(|time| time.as_millis() as u64),
        description: arguments.description.clone(),
    }
}

async fn create(arguments: &TokenCreate) -> VerbResult {
    let token = TokenSecret {
        id: TokenId(random::number()?),
        secret: random::bytes()?,
    };
    let create = creation(arguments, &token);
    let operator = ClusterClient::open(&arguments.reach)?;
    if arguments.write.dry_run {
        note("would create a token");
        return Ok(DONE);
    }
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::CreateToken(create))
        .await?;
    note(&format!(
        "created token {}; it is not shown again",
        token.id
    ));
    output::print(&format!("{token}\n"))
}

async fn list(arguments: &TokenList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Token>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut tokens = operator.tokens().await?;
    layout.arrange(&mut tokens);
    if tokens.is_empty() && !format.is_json() {
        note("there are no tokens");
    }
    let page = Page { tokens: &tokens };
    output::list_as(format, &layout, &page, &tokens)
}

async fn revoke(arguments: &TokenRevoke) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let token_id = arguments.id.to_string();
    if arguments.write.dry_run {
        note(&format!("would revoke token {token_id}"));
        return Ok(DONE);
    }
    let request_id = arguments.write.request_id.as_ref();
    let revoke = v1::RevokeToken {
        token_id: token_id.clone(),
    };
    operator
        .write(request_id, Operation::RevokeToken(revoke))
        .await?;
    note(&format!("revoked token {token_id}"));
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: TokenCreate,
    }

    fn created(line: &[&str]) -> v1::CreateToken {
        let line = Line::try_parse_from(["create"].iter().chain(line)).unwrap();
        let token = TokenSecret {
            id: TokenId(7),
            secret: [1; 32],
        };
        creation(&line.create, &token)
    }

    #[test]
    fn masters_receive_the_hash_of_the_secret() {
        let token = created(&["--principal", "operator/ci"]);
        let hash: [u8; 32] = Sha256::digest([1_u8; 32]).into();
        let hash = argosy_state::access::KeyHash(hash).to_string();
        assert_eq!(token.secret_hash, hash);
        assert_eq!(token.token_id, "0000000000000007");
        assert_eq!(token.lifetime_ms, None);
    }

    #[test]
    fn a_join_token_expires_after_an_hour_unless_told_otherwise() {
        let token = created(&["--for", "agent", "--uses", "20"]);
        assert_eq!(token.lifetime_ms, Some(3_600_000));
        let join = v1::JoinPurpose {
            kind: "agent".to_owned(),
            uses: 20,
        };
        assert_eq!(token.purpose, Some(v1::create_token::Purpose::Join(join)));
        let longer = created(&["--for", "master", "--expires", "2h"]);
        assert_eq!(longer.lifetime_ms, Some(7_200_000));
        for wrong in [
            &["--for", "operator"][..],
            &["--for", "agent", "--principal", "operator/ci"],
            &["--principal", "ci"],
            &["--for", "agent", "--uses", "0"],
            &[],
        ] {
            let line = ["create"].iter().chain(wrong);
            assert!(Line::try_parse_from(line).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn tokens_are_shown_with_their_expiry() {
        assert_eq!(expiry_text(None, 5), "never");
        assert_eq!(expiry_text(Some(5), 5), "expired");
        assert_eq!(expiry_text(Some(6), 5), "1970-01-01 00:00:00.006Z");
    }
}
