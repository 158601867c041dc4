//! Tests of the slots for unpacking, which frameworks share.

use super::*;
use crate::testing::eventually;

/// Does not end archives that are not empty.
#[derive(Default)]
struct StuckExtractor {
    stuck: AtomicU32,
}

impl Extractor for StuckExtractor {
    fn extract<'a>(
        &'a self,
        archive: fs::File,
        _into: fs::File,
        _owner: Option<&'a ContainerUser>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let bytes = archive.metadata().unwrap().len();
        Box::pin(async move {
            if bytes > 0 {
                self.stuck.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn archives_of_one_framework_do_not_delay_those_of_others() {
    let (settings, extractor) = (settings(1_000), Arc::new(StuckExtractor::default()));
    let downloads = Arc::new(DownloadClient::new(&settings, without_tls).unwrap());
    let slots = FairSlots::new(4);
    let fetcher = Fetcher::new(settings, downloads, extractor.clone(), slots, None);
    let fetcher = Arc::new(fetcher);
    let (slow, empty) = (open_file("slow"), open_file(""));
    let start = |archive: &tempfile::NamedTempFile, framework: u64| {
        let uris = [v1::Uri {
            extract: true,
            output_file: "files".to_owned(),
            ..uri(archive.path().display().to_string())
        }];
        let fetcher = Arc::clone(&fetcher);
        tokio::spawn(async move {
            let sandbox = tempfile::tempdir().unwrap();
            let context = FetchContext {
                framework: FrameworkId(framework),
                ..FetchContext::default()
            };
            fetcher
                .fetch_all(&uris, sandbox.path(), context, &meter())
                .await
        })
    };
    let stuck: Vec<_> = (0..6).map(|_| start(&slow, 1)).collect();
    eventually(|| extractor.stuck.load(Ordering::SeqCst) == 2).await;
    let other = tokio::time::timeout(Duration::from_secs(30), start(&empty, 2)).await;
    other.expect("it is unpacked in time").unwrap().unwrap();
    assert_eq!(extractor.stuck.load(Ordering::SeqCst), 2);
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}
