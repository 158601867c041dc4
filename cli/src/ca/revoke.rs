//! `ca revoke`: the revocation of a certificate's key in a cluster.

use std::path::PathBuf;

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_tls::credentials::read_certificates;
use argosy_tls::request;
use clap::Args;

use super::{failed, of_file};
use crate::args::{ConnectionArguments, WriteArguments};
use crate::exit::{DONE, VerbResult};
use crate::objects::calls;
use crate::operator::ClusterClient;
use crate::output::note;

#[derive(Debug, Args)]
pub(crate) struct CaRevoke {
    /// The certificate, in PEM; only its public key is used
    certificate: PathBuf,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

pub(super) fn revoke(arguments: &CaRevoke) -> VerbResult {
    let path = &arguments.certificate;
    let text = read_certificates(path).map_err(failed)?;
    let certificate = request::first_certificate(&text);
    let certificate = certificate.map_err(|error| of_file(path, error))?;
    let key = request::key_hash(&certificate).map_err(|error| of_file(path, error))?;
    let key_hash = key.to_string();
    if arguments.write.dry_run {
        note(&format!("would revoke the key {key_hash}"));
        return Ok(DONE);
    }
    calls(async {
        let operator = ClusterClient::open(&arguments.reach)?;
        let request_id = arguments.write.request_id.as_ref();
        let revoke = v1::RevokeKey {
            key_hash: key_hash.clone(),
        };
        operator
            .write(request_id, Operation::RevokeKey(revoke))
            .await?;
        note(&format!("revoked the key {key_hash}"));
        Ok(DONE)
    })
}
