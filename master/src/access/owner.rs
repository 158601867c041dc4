//! The owner of a framework: the principal that registered it.

use argosy_state::actor::Actor;
use argosy_state::framework::Framework;

/// Returns whether a framework was registered by this principal. While access is enforced, the
/// master sets the principal of a framework to the proven identity of its scheduler.
pub(crate) fn is_owner(framework: &Framework, actor: &Actor) -> bool {
    let registered = framework.info.principal.split_once('/');
    match actor {
        Actor::Principal(one) => registered == Some((one.kind.as_str(), one.name.as_str())),
        Actor::Unauthenticated | Actor::Cluster => false,
    }
}
