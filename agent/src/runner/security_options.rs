//! Security options of a task's container, as far as the operator allows them.
//!
//! The masters have checked the same; this check is authoritative.

use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::{Capabilities, Isolation};
use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation, SecurityOptions};

/// Returns the isolation layers of a task, or the reason for a refusal. Only full isolation has
/// any.
pub(super) fn isolation_layers(
    task: &v1::TaskSpec,
    allowed: &SecurityOptions,
    isolation: Isolation,
) -> Result<IsolationLayers, Explanation> {
    let container = task.container.as_ref();
    let requested = container.and_then(|container| container.opt_outs.clone());
    let requested = SecurityOptions {
        // Not an isolation layer of the profile: the code that creates its network checks this.
        host_network: false,
        ..convert::opt_outs_from(requested)
            .map_err(|malformed| malformed.inside("container.opt_outs").to_string())?
    };
    if requested.is_empty() {
        return Ok(IsolationLayers::ALL);
    }
    if isolation != Isolation::Full {
        return Err(Explanation::of(Code::OptOutsUnavailable, &[]));
    }
    if let Some((what, flag)) = requested.first_not_allowed(allowed) {
        return Err(Explanation::of(Code::OptOutForbidden, &[&what, &flag]));
    }
    let names = requested.capabilities.iter().map(|one| one.name());
    let capabilities = Capabilities::named(names)
        .map_err(|unknown| format!("container.opt_outs.capabilities: {unknown}"))?;
    Ok(IsolationLayers {
        capabilities,
        privileges: !requested.new_privileges,
        system_calls: !requested.unconfined_seccomp,
        user_namespaces: !requested.nested_user_namespaces,
        ..IsolationLayers::ALL
    })
}

#[cfg(test)]
mod tests {
    use argosy_state::task::LinuxCapability;

    use super::*;

    fn asking(opt_outs: &SecurityOptions) -> v1::TaskSpec {
        v1::TaskSpec {
            container: Some(v1::ContainerSpec {
                opt_outs: convert::opt_outs(opt_outs),
                ..v1::ContainerSpec::default()
            }),
            ..v1::TaskSpec::default()
        }
    }

    fn all() -> SecurityOptions {
        SecurityOptions {
            capabilities: LinuxCapability::ALL.into(),
            unconfined_seccomp: true,
            new_privileges: true,
            nested_user_namespaces: true,
            host_network: false,
        }
    }

    #[test]
    fn each_security_option_removes_exactly_one_layer() {
        let one = |change: fn(&mut SecurityOptions)| {
            let mut asked = SecurityOptions::default();
            change(&mut asked);
            isolation_layers(&asking(&asked), &all(), Isolation::Full).unwrap()
        };
        assert_eq!(one(|_| ()), IsolationLayers::ALL);
        let seccomp = IsolationLayers {
            system_calls: false,
            ..IsolationLayers::ALL
        };
        assert_eq!(one(|asked| asked.unconfined_seccomp = true), seccomp);
        let privileges = IsolationLayers {
            privileges: false,
            ..IsolationLayers::ALL
        };
        assert_eq!(one(|asked| asked.new_privileges = true), privileges);
        let nested = IsolationLayers {
            user_namespaces: false,
            ..IsolationLayers::ALL
        };
        assert_eq!(one(|asked| asked.nested_user_namespaces = true), nested);
        let every = one(|asked| asked.capabilities = LinuxCapability::ALL.into());
        assert_eq!(every.capabilities, Capabilities::all(), "both lists agree");
    }

    #[test]
    fn forbidden_options_are_rejected_with_their_flag() {
        let forbidden = SecurityOptions::default();
        let refused = isolation_layers(&asking(&all()), &forbidden, Isolation::Full).unwrap_err();
        assert!(
            refused.to_string().contains("--allow-capabilities CHOWN"),
            "{refused}"
        );
        for other in [Isolation::UserNamespaces, Isolation::Processes] {
            let refused = isolation_layers(&asking(&all()), &all(), other).unwrap_err();
            assert!(refused.to_string().contains("no profile"), "{refused}");
        }
        let mut unknown = asking(&all());
        let container = unknown.container.as_mut().unwrap();
        container.opt_outs.as_mut().unwrap().capabilities = vec!["SYS_ADMIN".to_owned()];
        let refused = isolation_layers(&unknown, &all(), Isolation::Full).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("container.opt_outs.capabilities"),
            "{refused}"
        );
    }
}
