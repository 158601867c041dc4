//! Agents of the clusters from which this one was restored.

use argosy_state::ids::ClusterId;
use argosy_state::registry::{Ancestor, ClusterRecord};

use super::fixture::{World, new_agent};
use crate::leader::Hello;
use crate::leader::agents::{Allegiance, allegiance};

const OWN: ClusterId = ClusterId(5);
const ANCESTOR: ClusterId = ClusterId(4);

fn restored() -> ClusterRecord {
    let mut cluster = World::new().registry.cluster().clone();
    cluster.facts.id = OWN;
    cluster.ancestors.push(Ancestor {
        id: ANCESTOR,
        epoch: cluster.epoch,
        index: 3,
    });
    cluster
}

fn decided(cluster: Option<ClusterId>, follows: Option<ClusterId>) -> Allegiance {
    let hello = Hello {
        cluster,
        follows,
        ..new_agent(1, "cpus:1")
    };
    allegiance(&restored(), &hello)
}

#[test]
fn an_agent_of_an_ancestor_follows_only_after_a_confirmation_of_this_cluster() {
    assert!(matches!(decided(None, None), Allegiance::Own));
    assert!(matches!(decided(Some(OWN), None), Allegiance::Own));
    assert!(matches!(
        decided(Some(OWN), Some(ClusterId(9))),
        Allegiance::Own
    ));
    let confirmed = decided(Some(ANCESTOR), Some(OWN));
    assert!(matches!(confirmed, Allegiance::Follows));
    for follows in [None, Some(ClusterId(9))] {
        let Allegiance::Foreign(text) = decided(Some(ANCESTOR), follows) else {
            panic!("not refused")
        };
        assert!(
            text.contains(&format!("argosy agent adopt {OWN}")),
            "{text}"
        );
    }
    let Allegiance::Foreign(text) = decided(Some(ClusterId(8)), Some(OWN)) else {
        panic!("not refused")
    };
    assert!(text.contains("belongs to another one"), "{text}");
}
