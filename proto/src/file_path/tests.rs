//! Tests of paths of tasks' files.

use super::*;

#[test]
fn every_spelling_of_a_path_names_the_same_file() {
    let wanted = FileTarget::parse("tasks/framework-1/web/a/b");
    assert!(matches!(&wanted, Ok(FileTarget::Sandbox(key, parts))
        if key.to_string() == "framework-1/web" && *parts == ["a", "b"]));
    for path in [
        "tasks//framework-1/web/a/b",
        "./tasks/framework-1/./web//a/b",
        "tasks/framework-1/web/a/./b/",
    ] {
        assert_eq!(FileTarget::parse(path), wanted, "{path}");
    }
    for path in ["", ".", "tasks", "tasks/", "./tasks//."] {
        assert_eq!(
            FileTarget::parse(path),
            Ok(FileTarget::Frameworks),
            "{path}"
        );
    }
    let tasks = Ok(FileTarget::Tasks("framework-1".to_owned()));
    assert_eq!(FileTarget::parse("tasks//framework-1/"), tasks);
}

#[test]
fn a_path_that_names_nothing_has_a_remedy() {
    let long = format!("tasks/{}", "a/".repeat(MAX_BYTES / 2));
    for (path, remedy) in [
        ("/tasks", "relative"),
        ("tasks/framework-1/web/..", ".."),
        ("tasks/framework-1/web/../api", ".."),
        ("tasks/framework-1/web/\0", "NUL"),
        ("tasks/web/a", "framework-N"),
        ("logs/framework-1", "tasks/"),
        (long.as_str(), "4,096"),
    ] {
        let found = FileTarget::parse(path).unwrap_err();
        assert!(found.contains(remedy), "{path}: {found}");
    }
}
