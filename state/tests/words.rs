//! The words that comments, messages, scripts and pages do not use, each with what to write instead,
//! and the width at which comments and pages are wrapped. `docs/style.md` has the rules.

mod tree;

use std::sync::OnceLock;

use tree::has_word;

/// The page with the table of the words, and what to write instead.
const PAGE: &str = "docs/style.md";
const TABLE: &str = "| Not | But |\n|---|---|\n";
/// Pages that list these words, or that a program generates.
const LISTS: [&str; 4] = [
    "docs/style.md",
    "docs/glossary.md",
    "docs/chaos-ledger.md",
    "state/tests/words.rs",
];
/// Places where a word is right: the user `nobody` in a text that is also shown without code spans,
/// and the end of a container as the cause of it is stored.
const EXCEPTIONS: [(&str, &str); 2] = [
    ("cli/src/args/run.rs", "nobody"),
    ("isolation/src/runtime/supervisor/ending.rs", "told"),
];
/// Sources whose texts release 0.1.0 stored: a group of both releases compares the bytes, so that
/// another wording would need a feature level.
const STORED_TEXTS: [&str; 3] = [
    "state/src/apply/",
    "state/src/rejection/",
    "state/src/task/",
];
/// Columns at which comments and paragraphs wrap.
const COLUMNS: usize = 100;

struct CheckedLine {
    file: String,
    number: usize,
    /// Without code spans.
    text: String,
    /// Characters of the whole line.
    width: usize,
    /// Whether it can be wrapped: no table, heading, link or diagram.
    wraps: bool,
}

/// The words of no other project's documentation, and the field's words for them.
fn words() -> &'static [(String, String)] {
    static WORDS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    WORDS.get_or_init(|| {
        let page = std::fs::read_to_string(tree::root().join(PAGE)).unwrap();
        let (_, table) = page.split_once(TABLE).unwrap();
        let rows = table.lines().map_while(|row| row.strip_prefix("| "));
        let words = rows.map(|row| row.trim_end_matches(" |").split_once(" | ").unwrap());
        let words: Vec<_> = words
            .map(|(word, instead)| (word.to_owned(), instead.to_owned()))
            .collect();
        assert!(words.len() > 30, "the table of {PAGE} has {words:?}");
        words
    })
}

/// The text of a line without code spans and the targets of links.
fn prose(line: &str) -> String {
    let parts = line.split('`').step_by(2);
    let text: String = parts.collect();
    let mut links = text.split("](");
    let first = links.next().unwrap_or_default().to_owned();
    links.fold(first, |text, rest| match rest.split_once(')') {
        Some((_, rest)) => text + "]" + rest,
        None => text,
    })
}

/// The comment of a line of Rust that is nothing but a comment.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix("//")?;
    let text = text.strip_prefix(['/', '!']).unwrap_or(text);
    (text.is_empty() || text.starts_with(' ')).then_some(text)
}

fn lines_of(name: &str, content: &str) -> Vec<CheckedLine> {
    let is_page = name.ends_with(".md");
    let mut is_code = false;
    let mut lines = Vec::new();
    for (at, line) in content.lines().enumerate() {
        let Some(text) = (if is_page { Some(line) } else { comment(line) }) else {
            continue;
        };
        let trimmed = text.trim_start();
        if trimmed.starts_with("```") {
            is_code = !is_code;
            continue;
        }
        if is_code || text.starts_with("    ") && is_page {
            continue;
        }
        let is_one_word = trimmed.split(' ').filter(|word| word.len() > 60).count() > 0;
        let is_drawn = trimmed.starts_with(['|', '#', '[', '!', '<']) || trimmed.contains("  ");
        lines.push(CheckedLine {
            file: name.to_owned(),
            number: at + 1,
            text: prose(text),
            width: line.chars().count(),
            wraps: !is_drawn && !is_one_word,
        });
    }
    lines
}

/// The string literals of product code that are texts, not names: they have a space.
fn messages_of(name: &str, content: &str) -> Vec<CheckedLine> {
    let product = content.split("#[cfg(test)]\nmod tests {").next();
    let mut rest = product.unwrap_or_default();
    let mut messages = Vec::new();
    let mut number = 1;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        number += rest[..at].matches('\n').count();
        let found = &rest[at..];
        let text = &found[1..];
        let length = if found.starts_with("//") {
            found.find('\n').unwrap_or(found.len())
        } else if found.starts_with("'\"'") || found.starts_with("'\\\"") {
            3
        } else if found.starts_with('"') {
            let mut is_escaped = false;
            let end = text.find(|letter| {
                let ends = letter == '"' && !is_escaped;
                is_escaped = letter == '\\' && !is_escaped;
                ends
            });
            let end = end.unwrap_or(text.len());
            messages.push(CheckedLine {
                file: name.to_owned(),
                number,
                text: text[..end].to_owned(),
                width: 0,
                wraps: false,
            });
            (end + 2).min(found.len())
        } else {
            1
        };
        number += found[..length].matches('\n').count();
        rest = &found[length..];
    }
    messages.retain(|message| message.text.contains(' '));
    messages
}

/// Every message of the product.
fn messages() -> Vec<CheckedLine> {
    let is_read = |name: &str| {
        name.ends_with(".rs")
            && name.contains("/src/")
            && !name.contains("/tests")
            && !STORED_TEXTS.iter().any(|prefix| name.starts_with(prefix))
    };
    let files = tree::tree().into_iter().filter(|file| is_read(&file.name));
    files
        .flat_map(|file| messages_of(&file.name, &file.text))
        .collect()
}

/// Every line of a script, with its code.
fn scripts() -> Vec<CheckedLine> {
    let is_script = |name: &str| name.starts_with("scripts/") || name.ends_with(".py");
    let files = tree::tree()
        .into_iter()
        .filter(|file| is_script(&file.name));
    let lines = files.flat_map(|file| {
        let lines = file.text.lines().enumerate();
        let lines = lines.map(|(at, line)| CheckedLine {
            file: file.name.clone(),
            number: at + 1,
            text: prose(line),
            width: 0,
            wraps: false,
        });
        lines.collect::<Vec<_>>()
    });
    lines.collect()
}

/// Every line of a comment or a page of the tree.
fn lines() -> Vec<CheckedLine> {
    let is_read = |name: &str| name.ends_with(".rs") || name.ends_with(".md");
    let files = tree::tree().into_iter();
    let files = files.filter(|file| is_read(&file.name) && !LISTS.contains(&file.name.as_str()));
    files
        .flat_map(|file| lines_of(&file.name, &file.text))
        .collect()
}

fn unwanted(lines: &[CheckedLine]) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines {
        for (word, instead) in words() {
            let CheckedLine { file, number, .. } = line;
            let is_right = EXCEPTIONS.contains(&(file.as_str(), word.as_str()));
            if has_word(&line.text.to_lowercase(), word) && !is_right {
                found.push(format!("{file}:{number}: {word:?}; write: {instead}"));
            }
        }
    }
    found
}

fn too_long(lines: &[CheckedLine]) -> Vec<String> {
    let long = lines
        .iter()
        .filter(|line| line.wraps && line.width > COLUMNS);
    long.map(|line| format!("{}:{}: {} columns", line.file, line.number, line.width))
        .collect()
}

#[test]
fn comments_and_pages_use_the_words_of_the_field() {
    let found = unwanted(&lines());
    assert!(
        found.is_empty(),
        "{} lines:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn messages_and_scripts_use_the_words_of_the_field() {
    let (messages, scripts) = (messages(), scripts());
    assert!(messages.len() > 3_000, "{}", messages.len());
    assert!(scripts.len() > 2_000, "{}", scripts.len());
    let found = [unwanted(&messages), unwanted(&scripts)].concat();
    assert!(
        found.is_empty(),
        "{} lines:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn comments_and_pages_wrap_at_a_hundred_columns() {
    let found = too_long(&lines());
    assert!(
        found.is_empty(),
        "{} lines:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn the_examples_of_the_page_are_in_their_files() {
    let page = std::fs::read_to_string(tree::root().join(PAGE)).unwrap();
    let (_, table) = page
        .split_once("| What | Where | Text |\n|---|---|---|\n")
        .unwrap();
    let rows = table.lines().map_while(|row| row.strip_prefix("| "));
    let rows: Vec<Vec<_>> = rows.map(|row| row.split('`').collect()).collect();
    assert!(rows.len() >= 5, "{rows:?}");
    for row in rows {
        let (file, text) = (row[1], row[3]);
        let content = std::fs::read_to_string(tree::root().join(file)).unwrap();
        assert!(content.contains(text), "{file} does not contain {text:?}");
    }
}

#[test]
fn an_unwanted_word_and_a_long_line_are_detected() {
    let long = "word ".repeat(21);
    let text = format!(
        "let told = 1; // Told by code.\n// It says so.\n// The `reign` of code.\n// Soothsayers.\n/// {long}\n//! Anew\n"
    );
    let lines = lines_of("x.rs", &text);
    let found = unwanted(&lines);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("x.rs:2: \"says\"") && found[1].starts_with("x.rs:6: \"anew\""));
    assert_eq!(too_long(&lines), ["x.rs:5: 109 columns"]);
    let page = lines_of(
        "x.md",
        &format!("{long}\n| {long} |\n```\nsays\n{long}\n```\nHe said\n"),
    );
    assert_eq!(unwanted(&page).len(), 1);
    assert_eq!(too_long(&page), ["x.md:1: 105 columns"]);
}

#[test]
fn an_unwanted_word_in_a_message_is_detected() {
    let text = "let a = \"told\"; // \"it says\"\nlet b = ('\"', \"no \\\"folder\\\" here\\\n  it says\");\n\
                let c = \"nobody came\";\n#[cfg(test)]\nmod tests {\n\"he said\"";
    let found = unwanted(&messages_of("x.rs", text));
    let places: Vec<_> = found.iter().map(|line| &line[..10]).collect();
    assert_eq!(places, ["x.rs:2: \"f", "x.rs:2: \"s", "x.rs:4: \"n"]);
}
