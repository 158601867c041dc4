//! The file and the choice, on temporary directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::choice::choose;
use super::*;
use crate::args::ClusterArguments;

/// A directory for the configuration of all programs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> ContextFile {
        let own = self.0.path().to_owned();
        ContextFile::by_variables(|name| (name == "XDG_CONFIG_HOME").then(|| own.clone())).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("argosy").join(name)
    }

    /// Writes the file with these permissions.
    fn write(&self, text: &str, mode: u32) {
        fs::create_dir_all(self.path("")).unwrap();
        // The former one may be read-only.
        let _ = fs::remove_file(self.path("contexts.json"));
        fs::write(self.path("contexts.json"), text).unwrap();
        self.set_mode("contexts.json", mode);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }
}

fn name(text: &str) -> ContextName {
    text.parse().unwrap()
}

fn context(masters: &str) -> Context {
    Context {
        masters: masters.parse().unwrap(),
        tls: ClientTls::default(),
        token: None,
        dev: None,
    }
}

/// Returns a context with all fields, whose files need not exist.
fn full() -> Context {
    Context {
        tls: ClientTls {
            tls_ca: Some("/tls/ca.crt".into()),
            tls_cert: Some("/tls/alice.crt".into()),
            tls_key: Some("/tls/alice.key".into()),
        },
        token: Some("s3cret".parse().unwrap()),
        ..context("10.0.0.1,10.0.0.2:5051")
    }
}

fn of_dev(masters: &str, directory: &str) -> Context {
    Context {
        dev: Some(directory.into()),
        ..context(masters)
    }
}

#[test]
fn contexts_are_written_privately_and_read_again() {
    let place = Place::new();
    let file = place.file();
    assert_eq!(file.read().unwrap(), Contexts::default());
    file.change(|contexts| {
        contexts.current = Some(name("prod"));
        contexts.add(name("prod"), full(), false)
    })
    .unwrap();
    let read = file.read().unwrap();
    assert_eq!(read.find(&name("prod")).unwrap(), &full());
    assert_eq!(read.current, Some(name("prod")));
    assert_eq!(place.mode(""), 0o700);
    assert_eq!(place.mode("contexts.json"), 0o600);
    assert!(!place.path("contexts.new").exists());

    let refused = file.change(|contexts| contexts.add(name("prod"), full(), false));
    assert!(refused.unwrap_err().message.contains("prod exists"));
    file.change(|contexts| contexts.remove(&name("prod")))
        .unwrap();
    assert_eq!(file.read().unwrap(), Contexts::default());
    let refused = file.change(|contexts| contexts.remove(&name("prod")));
    assert_eq!(refused.unwrap_err().code, FailureCode::NotFound);
}

#[test]
fn a_file_that_is_not_private_is_refused() {
    let place = Place::new();
    let text = r#"{"format": 1, "contexts": {}}"#;
    for (mode, is_private) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
        place.write(text, mode);
        let read = place.file().read();
        assert_eq!(read.is_ok(), is_private, "{mode:o}: {read:?}");
        if let Err(failure) = read {
            assert!(failure.message.contains("other users"), "{failure}");
            assert!(failure.advice[0].contains("chmod 600 "), "{failure}");
        }
    }
    place.write(text, 0o600);
    place.set_mode("", 0o770);
    let refused = place.file().change(|_| Ok(())).unwrap_err();
    assert!(
        refused.message.contains("may change what is in"),
        "{refused}"
    );
    place.set_mode("", 0o700);

    fs::remove_file(place.path("contexts.json")).unwrap();
    fs::create_dir(place.path("contexts.json")).unwrap();
    let refused = place.file().read().unwrap_err();
    assert!(refused.message.contains("is not a file"), "{refused}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let place = Place::new();
    place.write(r#"{"format": 1, "contexts": {}}"#, 0o600);
    let path = place.path("contexts.json");
    let owner = match nix::unistd::geteuid().is_root() {
        true => {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            65_534
        }
        false => {
            fs::remove_file(&path).unwrap();
            symlink("/proc/version", &path).unwrap();
            0
        }
    };
    let refused = place.file().read().unwrap_err();
    let expected = format!("belongs to the user {owner}");
    assert!(refused.message.contains(&expected), "{refused}");
}

#[test]
fn a_malformed_file_is_an_error_with_its_line() {
    let place = Place::new();
    let whole = |context: &str| {
        format!("{{\n\"format\": 1,\n\"contexts\": {{\n\"prod\": {{{context}}}\n}}\n}}")
    };
    for (text, part) in [
        ("not JSON".to_owned(), "line 1"),
        (String::new(), "line 1"),
        (whole("\"masters\": []"), "line 4, prod: no master is named"),
        (whole("\"masters\": [\"a:b\"]"), "line 4, prod: "),
        (
            whole("\"masters\": [\"a\"], \"tls-ca\": \"ca.crt\""),
            "absolute",
        ),
        (
            whole("\"masters\": [\"a\"], \"tls-cert\": \"/c\""),
            "tls-key",
        ),
        (whole("\"masters\": [\"a\"], \"colour\": 1"), "line 4"),
        (whole("\"masters\": [\"a\"], \"token\": \"t\""), "tls-ca"),
        ("{\"format\": 2, \"contexts\": {}}".to_owned(), "format 2"),
        (
            "{\"format\": 1, \"contexts\": {\"-x\": {\"masters\": [\"a\"]}}}".to_owned(),
            "a name of a context",
        ),
    ] {
        place.write(&text, 0o600);
        let failure = place.file().read().unwrap_err();
        assert!(failure.message.contains(part), "{text}: {failure}");
        assert!(failure.message.contains("contexts.json"), "{failure}");
        let has_line = failure.message.contains("line ");
        assert!(has_line || part == "format 2", "{text}: {failure}");
        assert!(!failure.advice.is_empty(), "{failure}");
        // A change leaves it as it is.
        place.file().change(|_| Ok(())).unwrap_err();
        assert_eq!(
            fs::read_to_string(place.path("contexts.json")).unwrap(),
            text
        );
    }
    place.write(&" ".repeat(2 << 20), 0o600);
    let failure = place.file().read().unwrap_err();
    assert!(failure.message.contains("larger than 1 MiB"), "{failure}");
}

#[test]
fn no_message_contains_a_token() {
    let place = Place::new();
    for token in ["\"with blanks s3cret\"", "[\"s3cret\"]", "{\"s3cret\": 1}"] {
        let text = format!(
            "{{\"format\": 1, \"contexts\": {{\"a\": {{\"masters\": [\"a\"], \"tls-ca\": \"/c\", \"token\": {token}}}}}}}"
        );
        place.write(&text, 0o600);
        let failure = place.file().read().unwrap_err();
        assert!(failure.message.contains("printable"), "{failure}");
        assert!(!failure.to_string().contains("s3cret"), "{failure}");
    }
    assert!(!format!("{:?}", full()).contains("s3cret"));
}

#[test]
fn simultaneous_changes_all_happen() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let file = place.file();
            scope.spawn(move || {
                let name = name(&format!("dev-{number}"));
                file.change(|contexts| contexts.add(name, context("a"), false))
                    .unwrap();
            });
        }
    });
    assert_eq!(place.file().read().unwrap().all.len(), 8);
}

#[test]
fn the_place_follows_the_environment() {
    let path = |xdg: Option<&str>, home: Option<&str>| {
        let variable = |name: &str| match name {
            "XDG_CONFIG_HOME" => xdg.map(PathBuf::from),
            "HOME" => home.map(PathBuf::from),
            _ => None,
        };
        ContextFile::by_variables(variable).map(|file| file.path().display().to_string())
    };
    let of_home = Some("/h/.config/argosy/contexts.json".to_owned());
    assert_eq!(path(None, Some("/h")), of_home);
    assert_eq!(path(Some(""), Some("/h")), of_home);
    assert_eq!(path(Some("relative"), Some("/h")), of_home);
    let of_xdg = Some("/x/argosy/contexts.json".to_owned());
    assert_eq!(path(Some("/x"), Some("/h")), of_xdg);
    assert_eq!(path(None, Some("relative")), None);
}

#[test]
fn only_a_dev_cluster_replaces_and_removes_its_context() {
    let mut contexts = Contexts::default();
    let dev = ContextName::of_dev(None);
    assert!(contexts.add_dev(&dev, of_dev("127.77.0.1", "/tmp/first")));
    // The first was killed, so its context was left.
    assert!(contexts.add_dev(&dev, of_dev("127.77.0.1", "/tmp/second")));
    contexts.current = Some(dev.clone());
    contexts.remove_dev(&dev, Path::new("/tmp/first"));
    assert_eq!(contexts.all.len(), 1);
    contexts.remove_dev(&dev, Path::new("/tmp/second"));
    assert_eq!(contexts, Contexts::default());

    contexts
        .add(dev.clone(), context("10.0.0.1"), false)
        .unwrap();
    assert!(!contexts.add_dev(&dev, of_dev("127.77.0.1", "/tmp/third")));
    contexts.remove_dev(&dev, Path::new("/tmp/third"));
    assert_eq!(contexts.all[&dev], context("10.0.0.1"));
    let other = ContextName::of_dev(Some([127, 78, 0, 1].into()));
    assert_eq!(other.to_string(), "dev-127.78.0.1");
}

/// The contexts `prod`, `test` and `dev`.
fn three() -> Contexts {
    let mut contexts = Contexts::default();
    contexts.add(name("prod"), full(), false).unwrap();
    contexts
        .add(name("test"), context("10.9.0.1"), false)
        .unwrap();
    contexts.add_dev(&name("dev"), of_dev("127.77.0.1", "/tmp/d"));
    contexts
}

/// Returns the masters and the CA that are chosen.
fn chosen(
    arguments: &ClusterArguments,
    contexts: Contexts,
    listening: &[&str],
) -> (String, Option<String>) {
    let listens = |address: &str| listening.contains(&address);
    let chosen = choose(arguments, |_| Ok(contexts), &listens).unwrap();
    let ca = chosen.tls.tls_ca.map(|path| path.display().to_string());
    (chosen.masters.to_string(), ca)
}

fn named(masters: Option<&str>, context: Option<&str>) -> ClusterArguments {
    ClusterArguments {
        masters: masters.map(|masters| masters.parse().unwrap()),
        context: context.map(name),
        tls: ClientTls::default(),
        token_file: None,
    }
}

fn pair(masters: &str, ca: Option<&str>) -> (String, Option<String>) {
    (masters.to_owned(), ca.map(str::to_owned))
}

const PROD: &str = "10.0.0.1:5050,10.0.0.2:5051";

#[test]
fn a_named_context_is_used_and_flags_replace_its_parts() {
    let of_prod = chosen(&named(None, Some("prod")), three(), &[]);
    assert_eq!(of_prod, pair(PROD, Some("/tls/ca.crt")));
    let replaced = chosen(&named(Some("10.0.0.3"), Some("prod")), three(), &[]);
    assert_eq!(replaced, pair("10.0.0.3:5050", Some("/tls/ca.crt")));
    let mut with_ca = named(None, Some("prod"));
    with_ca.tls.tls_ca = Some("/other.crt".into());
    let chosen = choose(&with_ca, |_| Ok(three()), &|_| false).unwrap();
    // Neither a certificate nor a token of the context is presented to servers of another CA.
    assert_eq!((chosen.tls, chosen.token), (with_ca.tls, None));
    let unknown = named(None, Some("absent"));
    let failure = choose(&unknown, |_| Ok(three()), &|_| false).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotFound);
    assert!(failure.advice[0].contains("dev, prod, test"), "{failure}");
}

#[test]
fn named_masters_take_precedence_over_the_current_context() {
    let mut contexts = three();
    contexts.current = Some(name("prod"));
    let nothing = named(None, None);
    let of_current = chosen(&nothing, contexts.clone(), &["127.77.0.1:5050"]);
    assert_eq!(of_current, pair(PROD, Some("/tls/ca.crt")));
    // The file is not even read.
    let masters = named(Some("10.9.0.9"), None);
    let unread = |_| -> Result<Contexts, Failure> { panic!("the file is read") };
    let found = choose(&masters, unread, &|_| false).unwrap();
    assert_eq!(found.masters.to_string(), "10.9.0.9:5050");
    assert!(found.tls.is_empty());
    contexts.remove(&name("prod")).unwrap();
    assert_eq!(contexts.current, None);
}

#[test]
fn without_a_choice_a_running_dev_cluster_is_called_or_this_host() {
    let nothing = named(None, None);
    let own = "127.0.0.1:5050";
    let dev = "127.77.0.1:5050";
    assert_eq!(chosen(&nothing, three(), &[dev]), pair(dev, None));
    // Its directory is in the context, so another process at its port is not mistaken for it.
    assert_eq!(chosen(&nothing, three(), &[own, dev]), pair(dev, None));
    assert_eq!(chosen(&nothing, three(), &[]), pair(own, None));
    let mut three_of_dev = Contexts::default();
    assert_eq!(
        chosen(&nothing, three_of_dev.clone(), &[dev]),
        pair("127.77.0.1:5050,127.77.0.2:5050,127.77.0.3:5050", None)
    );
    // A context that the user has named so is not used by itself.
    three_of_dev
        .add(name("dev"), context("10.1.1.1"), false)
        .unwrap();
    let listening = ["10.1.1.1:5050"];
    assert_eq!(chosen(&nothing, three_of_dev, &listening), pair(own, None));
}

#[test]
fn a_file_of_a_token_that_others_may_read_or_replace_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ci.token");
    fs::write(&path, "s3cret\n").unwrap();
    for (mode, is_private) in [
        (0o600, true),
        (0o400, true),
        (0o640, true),
        (0o644, false),
        (0o660, false),
        (0o602, false),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = Token::read(&path);
        assert_eq!(read.is_ok(), is_private, "{mode:o}");
        if let Err(failure) = read {
            assert!(failure.message.contains("chmod g-w,o="), "{failure}");
        }
    }
}
