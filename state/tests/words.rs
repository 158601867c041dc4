//! The words that comments and pages do not use, each with what to write instead, and the width at
//! which both are wrapped. `docs/style.md` has the rules.

mod tree;

use tree::has_word;

/// Words of no other project's documentation, and the field's words for them.
const WORDS: [(&str, &str); 34] = [
    ("anew", "again"),
    ("befalls", "happens to"),
    ("beside", "next to, in addition to, during"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("for ever", "forever, without a limit"),
    ("go on", "continue"),
    ("goes on", "continues"),
    ("handed over", "transferred"),
    ("hands over", "transfers"),
    ("in office", "the active leader"),
    ("let off", "a security option"),
    ("lets off", "relaxes"),
    ("meanwhile", "in the meantime, then"),
    ("nobody", "no process, no client"),
    ("of ours", "our"),
    ("of theirs", "their"),
    ("out of office", "not the active leader"),
    ("patience", "timeout"),
    ("reign", "epoch"),
    ("reigns", "epochs"),
    ("said", "sent, reported"),
    ("say", "report, log, return"),
    ("says", "reports, logs, returns"),
    ("somebody", "a client, a process"),
    ("stand still", "stall"),
    ("stands still", "stalls"),
    ("stranger", "an unknown client"),
    ("tells", "reports, sends"),
    ("told", "sent, informed"),
    ("way out", "escape technique"),
    ("ways out", "escape techniques"),
    ("whoever", "any client that"),
    ("whom", "which"),
];
/// Pages that list these words, or that a program generates.
const LISTS: [&str; 4] = [
    "docs/style.md",
    "docs/glossary.md",
    "docs/chaos-ledger.md",
    "state/tests/words.rs",
];
/// Places where a word is right: the user `nobody` in a text that is also shown without code spans.
const EXCEPTIONS: [(&str, &str); 1] = [("cli/src/args/run.rs", "nobody")];
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
        for (word, instead) in WORDS {
            let CheckedLine { file, number, .. } = line;
            let is_right = EXCEPTIONS.contains(&(file.as_str(), word));
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
