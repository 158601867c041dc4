//! Tests of files of the host: permitted directories and users.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::sys::stat::Mode as FileMode;

use super::super::local::{FetchDirs, ReadIdentity};
use super::*;

fn unprivileged() -> ReadIdentity {
    ReadIdentity::User(ContainerUser {
        uid: 65_534,
        gid: 65_534,
        groups: vec![],
    })
}

fn given_from(directories: Vec<PathBuf>) -> Fetcher {
    let settings = FetchSettings {
        directories,
        ..settings(1_000)
    };
    let downloads = Arc::new(DownloadClient::new(&settings, without_tls).unwrap());
    let slots = FairSlots::new(4);
    Fetcher::new(settings, downloads, Arc::new(PlainTar), slots, None)
}

fn change_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Creates a directory with a file, both readable for all users.
fn served() -> (tempfile::TempDir, PathBuf) {
    let directory = open_directory();
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    change_mode(&file, 0o644);
    (directory, file)
}

async fn refusal(fetcher: &Fetcher, value: String) -> String {
    let (sandbox, result) = fetch(fetcher, uri(value)).await;
    assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
    result.unwrap_err()
}

#[tokio::test]
async fn host_files_are_fetched_only_from_allowed_directories() {
    let why = refusal(&given_from(Vec::new()), "file:///etc/shadow".to_owned()).await;
    let expected = "cannot fetch \"file:///etc/shadow\": this agent gives tasks no files of its host; start the agent \
                    with --fetch-dir and the file's directory, or serve it by http:// or https://";
    assert_eq!(why, expected);
    let (directory, _) = served();
    let given = given_from(vec![directory.path().to_owned()]);
    // Including a directory whose name has a permitted one as prefix.
    for elsewhere in [
        "/etc/passwd".to_owned(),
        format!("{}-more/file", directory.path().display()),
    ] {
        let why = refusal(&given, elsewhere.clone()).await;
        assert!(
            why.contains(&elsewhere) && why.contains("--fetch-dir"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn links_and_dots_do_not_leave_an_allowed_directory() {
    let (directory, _) = served();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    change_mode(&inner, 0o755);
    symlink("/etc/passwd", inner.join("to-file")).unwrap();
    symlink("/etc", inner.join("to-folder")).unwrap();
    symlink("../file", inner.join("to-own")).unwrap();
    let given = given_from(vec![inner.clone()]);
    for (name, rule) in [
        ("to-file", "symbolic link"),
        ("to-folder/passwd", "symbolic link"),
        ("to-own", "symbolic link"),
        ("../file", "without"),
        ("../../../etc/passwd", "without"),
    ] {
        let why = refusal(&given, format!("{}/{name}", inner.display())).await;
        assert!(why.contains(name) && why.contains(rule), "{why}");
    }
    // Links in the operator's own setting are followed.
    let named = directory.path().join("named");
    symlink(&inner, &named).unwrap();
    fs::write(inner.join("file"), "inside").unwrap();
    change_mode(&inner.join("file"), 0o644);
    let (sandbox, result) = fetch(
        &given_from(vec![named.clone()]),
        uri(named.join("file").display().to_string()),
    )
    .await;
    result.unwrap();
    let copied = fs::read_to_string(sandbox.path().join("file")).unwrap();
    assert_eq!(copied, "inside");
}

#[test]
fn a_file_is_fetched_only_with_read_permission() {
    let (directory, file) = served();
    let directories = FetchDirs(vec![directory.path().to_owned()]);
    let value = file.display().to_string();
    let open = |reader: &ReadIdentity| {
        let opened = directories.open(&value, reader);
        opened.map(drop).map_err(|error| crate::error_chain(&error))
    };
    for reader in [unprivileged(), ReadIdentity::Unmapped] {
        open(&reader).unwrap();
        change_mode(&file, 0o640);
        let why = open(&reader).unwrap_err();
        assert!(why.contains(&format!("chmod o+r {value}")), "{why}");
        change_mode(&file, 0o644);
        change_mode(directory.path(), 0o750);
        let why = open(&reader).unwrap_err();
        let remedy = format!("chmod o+x {}", directory.path().display());
        assert!(why.contains(&remedy), "{why}");
        change_mode(directory.path(), 0o755);
    }
    // Its owner, and its group, as far as they have permission.
    let metadata = fs::metadata(&file).unwrap();
    let user = |uid: u32, gid: u32| {
        ReadIdentity::User(ContainerUser {
            uid,
            gid: 65_534,
            groups: vec![gid],
        })
    };
    let (owner, group) = (user(metadata.uid(), 65_534), user(65_534, metadata.gid()));
    change_mode(&file, 0o400);
    open(&owner).unwrap();
    open(&group).unwrap_err();
    change_mode(&file, 0o040);
    open(&group).unwrap();
    change_mode(&file, 0o004);
    open(&unprivileged()).unwrap();
    open(&group).unwrap_err();
}

#[test]
fn no_file_is_fetched_with_the_rights_of_root() {
    let root = ContainerUser {
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    assert_eq!(ReadIdentity::of(Some(&root)), ReadIdentity::Unmapped);
    let of_agent = match nix::unistd::geteuid().is_root() {
        true => ReadIdentity::Unmapped,
        false => ReadIdentity::Agent,
    };
    assert_eq!(ReadIdentity::of(None), of_agent);
}

#[tokio::test]
async fn special_files_are_rejected_without_blocking() {
    let (directory, _) = served();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, FileMode::from_bits_truncate(0o666)).unwrap();
    change_mode(&pipe, 0o666);
    let given = given_from(vec![directory.path().to_owned()]);
    let why = refusal(&given, pipe.display().to_string()).await;
    assert!(why.contains("not a regular file"), "{why}");
    let mut of_directory = uri(directory.path().display().to_string());
    of_directory.output_file = "file".to_owned();
    let why = fetch(&given, of_directory).await.1.unwrap_err();
    assert!(why.contains("not a regular file"), "{why}");
    let (fetcher, device) = (given_from(vec!["/dev".into()]), "/dev/null".to_owned());
    let why = refusal(&fetcher, device).await;
    assert!(why.contains("not a regular file"), "{why}");
}
