//! The context of a dev cluster: by it, commands of the same user find the cluster. It exists while
//! the cluster runs.

use std::path::Path;

use super::credentials;
use super::plan::DevPlan;
use crate::args::{ClientTls, Dev};
use crate::contexts::{Context, ContextFile};
use crate::exit::Failure;
use crate::output::note;
use crate::parsers::ContextName;

/// The context as it was added.
pub(super) struct PublishedContext {
    name: ContextName,
    /// Whether commands that name no cluster call this one.
    is_default: bool,
}

/// Adds the context. Without it, commands can use the cluster by its addresses and files.
pub(super) fn publish(
    plan: &DevPlan,
    home: &Path,
    tls: ClientTls,
) -> Result<PublishedContext, Failure> {
    let name = plan.context();
    let context = Context {
        masters: plan.masters(),
        tls,
        token: None,
        dev: Some(home.to_owned()),
    };
    ContextFile::of_user()?.change(|contexts| {
        if !contexts.add_dev(&name, context) {
            return Err(
                Failure::failed(format!("the context {name} is another cluster's"))
                    .advise(format!("argosy context remove {name} removes it")),
            );
        }
        let is_default = match &contexts.current {
            Some(current) => *current == name,
            None => name == ContextName::of_dev(None),
        };
        Ok(PublishedContext { name, is_default })
    })
}

/// Removes the context, if it is still that of this cluster. Without one, nothing is written.
pub(super) fn withdraw(plan: &DevPlan, home: &Path) -> Result<(), Failure> {
    let name = plan.context();
    let Ok(file) = ContextFile::of_user() else {
        return Ok(());
    };
    let is_own = |found: &Context| found.dev.as_deref() == Some(home);
    // A file that cannot be read got no context either.
    let found = file.read().unwrap_or_default();
    if !found.all.get(&name).is_some_and(is_own) {
        return Ok(());
    }
    file.change(|contexts| {
        contexts.remove_dev(&name, home);
        Ok(())
    })
}

/// Prints how commands reach the cluster.
pub(super) fn report(
    arguments: &Dev,
    plan: &DevPlan,
    home: &Path,
    published: &Result<PublishedContext, Failure>,
) {
    let masters = plan.masters();
    let ca = credentials::ca(home);
    match published {
        Ok(PublishedContext {
            is_default: true, ..
        }) => {}
        Ok(PublishedContext { name, .. }) => {
            note(&format!("  context      export ARGOSY_CONTEXT={name}"));
        }
        Err(failure) => {
            note(&format!("! no context: {}", failure.message));
            note(&format!("  masters      export ARGOSY_MASTERS={masters}"));
            let tls = credentials::of_user(home);
            if let (Some(cert), Some(key)) = (tls.tls_cert, tls.tls_key)
                && !arguments.insecure_plaintext
            {
                note(&format!(
                    "               export ARGOSY_TLS_CA={} ARGOSY_TLS_CERT={} ARGOSY_TLS_KEY={}",
                    ca.display(),
                    cert.display(),
                    key.display()
                ));
            }
        }
    }
    for user in &arguments.api_users {
        let tls = match arguments.insecure_plaintext {
            true => String::new(),
            false => format!(" --tls-ca {}", ca.display()),
        };
        note(&format!(
            "  user {user:<7} argosy context add {} --masters {masters}{tls}",
            plan.context()
        ));
    }
    note("  try          argosy run -- echo hello");
    note("               argosy status; argosy agent list; argosy ps");
    note("  stop         Ctrl-C");
}
