//! Fetches in progress, their listing for the API, and their cancellation.

use argosy_content::fetcher::{FetchProgress, REPORT_INTERVAL, report};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Runner;
use super::requests::ContainerStart;
use crate::core::{Input, Instance};

impl Runner {
    pub(super) fn fetch(&mut self, start: ContainerStart) {
        let shared = self.shared.clone();
        let cancel = CancellationToken::new();
        let instance = start.name.instance;
        self.fetches.insert(instance, cancel.clone());
        let (meter, seen) = watch::channel(FetchProgress::default());
        let listed = self.preparations.add(instance, seen.clone());
        self.spawn(async move {
            let _listed = listed;
            let fetching = async {
                let _slot = shared.fetch_slots.acquire(start.key.framework).await;
                shared.fetch(&start, &meter).await
            };
            let say = |progress| shared.report(Input::Fetching { instance, progress });
            let result = tokio::select! {
                // A cancelled fetch acquires nothing more.
                biased;
                () = cancel.cancelled() => return shared.images.forget(instance),
                result = fetching => result,
                never = report(seen, REPORT_INTERVAL, say) => match never {},
            };
            let result = result.inspect_err(|_| shared.images.forget(instance));
            shared.report(Input::Fetched { instance, result }).await;
        });
    }

    pub(super) fn cancel_fetch(&mut self, instance: Instance) {
        if let Some(cancel) = self.fetches.remove(&instance) {
            cancel.cancel();
        }
        // The core may already have received the completion.
        self.shared.images.forget(instance);
    }
}
