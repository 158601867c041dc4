//! `ca show`: the content of a file of certificates, or of a request.

use std::path::{Path, PathBuf};

use argosy_tls::credentials::read_certificates;
use argosy_tls::description::{self, CertificateDescription, time_text};
use argosy_tls::request::CertificateRequest;
use clap::Args;
use serde::Serialize;

use super::{failed, of_file};
use crate::args::{Format, OutputArguments};
use crate::exit::{Failure, VerbResult};
use crate::output::{self, Row, plain};

#[derive(Debug, Args)]
pub(crate) struct CaShow {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    pub(super) show: OutputArguments,
}

/// A certificate or a request as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    pub(super) kind: &'static str,
    pub(super) identity: String,
    pub(super) hosts: Vec<String>,
    pub(super) issuer: String,
    pub(super) serial: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) fingerprint: String,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    certificates: &'a [Shown],
}

impl Shown {
    fn certificate(of: CertificateDescription) -> Self {
        Self {
            kind: if of.is_ca { "CA" } else { "certificate" },
            identity: of.identity,
            hosts: of.hosts,
            issuer: of.issuer,
            serial: of.serial,
            not_before: time_text(of.not_before),
            not_after: time_text(of.not_after),
            fingerprint: format!("sha256:{}", of.fingerprint),
        }
    }

    fn request(of: &CertificateRequest) -> Self {
        Self {
            kind: "request",
            identity: of.names.identity.to_string(),
            hosts: of.names.hosts.iter().map(ToString::to_string).collect(),
            issuer: String::new(),
            serial: String::new(),
            not_before: String::new(),
            not_after: String::new(),
            fingerprint: String::new(),
        }
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("kind", self.kind.to_owned()),
            ("identity", self.identity.clone()),
            ("hosts", self.hosts.join(", ")),
            ("issuer", self.issuer.clone()),
            ("serial", self.serial.clone()),
            ("valid from", self.not_before.clone()),
            ("valid until", self.not_after.clone()),
            ("fingerprint", self.fingerprint.clone()),
        ];
        all.into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }
}

impl Row for Shown {
    const HEADINGS: &'static [&'static str] = &["KIND", "IDENTITY", "VALID UNTIL"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.to_owned(),
            self.identity.clone(),
            self.not_after.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.identity.clone()
    }
}

pub(super) fn shown(path: &Path, text: &[u8]) -> Result<Vec<Shown>, Failure> {
    if let Ok(request) = CertificateRequest::from_pem(text) {
        return Ok(vec![Shown::request(&request)]);
    }
    let described = description::describe(text).map_err(|error| of_file(path, error))?;
    Ok(described.into_iter().map(Shown::certificate).collect())
}

pub(super) fn show(arguments: &CaShow) -> VerbResult {
    let text = read_certificates(&arguments.file).map_err(failed)?;
    let shown = shown(&arguments.file, &text)?;
    match arguments.show.output {
        Format::Table | Format::Wide => {
            let texts: Vec<_> = shown.iter().map(|one| plain(&one.details())).collect();
            output::print(&texts.join("\n"))
        }
        format => {
            let page = Page {
                certificates: &shown,
            };
            output::list(format, &page, &shown)
        }
    }
}
