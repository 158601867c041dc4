//! Periodic lists of the leader's open offers: a framework sees only its own, and the registry has
//! none.

use std::time::Duration;

use argosy_client::resources;
use argosy_client::{Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::{convert, v1};

use super::world::World;
use crate::history::{ListedOffer, OfferFact};
use crate::sim::network;

/// Interval of lists.
const PAUSE: Duration = Duration::from_millis(250);
/// Deadline of a list, which is also the maximum age of its contents.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the process that lists offers.
pub(super) async fn lister(world: World) -> turmoil::Result {
    let mut rng = world.new_incarnation("lister");
    let config = ConnectorConfig {
        dialer: network::dialer("lister", &world.cuts),
        seed: rng.next(),
    };
    let masters = Masters::new(world.masters())?;
    let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(TIMEOUT);
    loop {
        tokio::time::sleep(PAUSE).await;
        let request = v1::ListRequest {
            page_size: 1_000,
            ..Default::default()
        };
        // Without a leader there is nothing to list.
        let Ok(page) = client.list_offers(request).await else {
            continue;
        };
        let Some(offers) = page.offers.iter().map(listed).collect() else {
            let message = format!("the leader lists an offer that cannot be read: {page:?}");
            world.notes.violation(message);
            continue;
        };
        world.notes.count("offers listed");
        let revision = convert::revision_from(page.revision);
        let fact = OfferFact::Listed { offers };
        world.notes.recorder.observe_at("lister", fact, revision);
    }
}

fn listed(offer: &v1::Offer) -> Option<ListedOffer> {
    Some(ListedOffer {
        offer: offer.offer_id.parse().ok()?,
        agent: offer.agent_id.parse().ok()?,
        resources: resources::from_wire(&offer.resources)?,
    })
}
