//! Tests of sandboxes whose user replaces a draft by something else.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// Creates a file of another user; returns it with its mode and owner.
fn victim(directory: &Path) -> (PathBuf, (u32, u32)) {
    let path = directory.join("victim");
    fs::write(&path, "kept").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let facts = facts(&path);
    (path, facts)
}

fn facts(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.mode(), metadata.uid())
}

#[tokio::test]
async fn a_link_at_the_path_of_a_temporary_file_exposes_no_other_file() {
    let directory = tempfile::tempdir().unwrap();
    let (victim, before) = victim(directory.path());
    let sandbox = directory.path().join("sandbox");
    fs::create_dir(&sandbox).unwrap();
    let (draft, leads_to) = (sandbox.join(".fetching-page"), victim.clone());
    // Between the first half, for which the draft is created, and the second.
    let halves = move || {
        let (draft, victim) = (draft.clone(), leads_to.clone());
        async move {
            let rest = futures::stream::once(async move {
                while !draft.exists() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                fs::remove_file(&draft).unwrap();
                symlink(&victim, &draft).unwrap();
                Ok::<_, io::Error>("b".repeat(50))
            });
            let all = futures::stream::iter([Ok("a".repeat(50))]).chain(rest);
            axum::body::Body::from_stream(all)
        }
    };
    let base = serve(Router::new().route("/page", get(halves))).await;
    let owner = ContainerUser {
        uid: nix::unistd::geteuid().as_raw() + 1_000_000,
        gid: nix::unistd::getegid().as_raw(),
        groups: vec![],
    };
    // Only root can give files away.
    let is_root = nix::unistd::geteuid().is_root();
    let whose = FetchContext {
        owner: is_root.then_some(&owner),
        ..FetchContext::default()
    };
    let mut wanted = uri(format!("{base}/page"));
    wanted.executable = true;
    // The result of the fetch does not matter: the user has interfered with it.
    let _ = fetcher()
        .fetch_all(&[wanted], &sandbox, whose, &meter())
        .await;
    assert_eq!(facts(&victim), before);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
}

#[tokio::test]
async fn an_existing_file_at_the_path_of_a_temporary_file_is_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let (victim, before) = victim(directory.path());
    let base = serve(Router::new().route("/page", get(|| async { "text" }))).await;
    for place in [
        |victim: &Path, draft: &Path| fs::hard_link(victim, draft),
        |victim: &Path, draft: &Path| symlink(victim, draft),
    ] {
        let sandbox = tempfile::tempdir_in(directory.path()).unwrap();
        place(&victim, &sandbox.path().join(".fetching-page")).unwrap();
        let wanted = uri(format!("{base}/page"));
        let fetched = fetcher()
            .fetch_all(&[wanted], sandbox.path(), FetchContext::default(), &meter())
            .await;
        fetched.unwrap();
        let page = fs::read_to_string(sandbox.path().join("page")).unwrap();
        assert_eq!(page, "text");
        assert_eq!(facts(&victim), before);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    }
}
