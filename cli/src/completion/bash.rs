//! The words of a line in Bash, which divides them also at colons and equals signs: `web:out`
//! arrives as three words, and candidates replace only the part at the cursor.

use std::ffi::OsString;

use clap_complete::engine::complete;

/// The variable in which the script passes the line up to the cursor.
const LINE: &str = "_ARGOSY_COMPLETE_LINE";
/// The line of the script before which the variable is set.
const BEFORE: &str = "        _CLAP_IFS=\"$IFS\" \\\n";
/// Characters that have a meaning in a shell. The words of such a line are left to it.
const SPECIAL: &str = "'\"\\$`<>|&;(){}*?[]!#~";

/// A line whose words are divided at blanks only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BashLine {
    words: Vec<OsString>,
    /// The part of the last word before the one that candidates replace, as `web:`.
    kept: String,
}

/// Adds the variable to the script for Bash. The scripts of other shells remain as they are.
pub(super) fn with_line(script: &str) -> String {
    let set = format!("        {LINE}=\"${{COMP_LINE:0:COMP_POINT}}\" \\\n{BEFORE}");
    script.replacen(BEFORE, &set, 1)
}

impl BashLine {
    /// Returns the line that the script has passed with these words. An older script passes none.
    pub(super) fn passed(words: &[OsString]) -> Option<Self> {
        let line = std::env::var(LINE).ok()?;
        let index = std::env::var("_CLAP_COMPLETE_INDEX").ok()?.parse().ok()?;
        Self::parse(&line, words, index)
    }

    /// Divides a line at its blanks. `given` are the words as Bash divides them, `index` is that of
    /// the part at the cursor. It is empty directly after a colon.
    fn parse(line: &str, given: &[OsString], index: usize) -> Option<Self> {
        if line.contains(|letter: char| SPECIAL.contains(letter)) {
            return None;
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if line.ends_with(char::is_whitespace) {
            words.push("");
        }
        let part = given.get(index)?.to_str()?;
        let kept = words.last()?.strip_suffix(part)?.to_owned();
        let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        // Otherwise, the line is not the one of these words.
        (words.len() > 1 && words.first() == given.first()).then_some(Self { words, kept })
    }

    /// Returns the candidates for the part at the cursor.
    pub(super) fn completed(self) -> Option<String> {
        let last = self.words.len() - 1;
        let here = std::env::current_dir().ok();
        let mut command = super::command(&self.words);
        let candidates = complete(&mut command, self.words, last, here.as_deref()).ok()?;
        let values = candidates.iter().filter_map(|candidate| {
            let value = candidate.get_value().to_str()?;
            value.strip_prefix(&self.kept).map(str::to_owned)
        });
        let separator = std::env::var("_CLAP_IFS").unwrap_or_else(|_| "\n".to_owned());
        Some(values.collect::<Vec<_>>().join(&separator))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn words_are_divided_at_blanks_only() {
        let cases = [
            ("argosy cp web:re", "argosy cp web : re", 4, "web:"),
            // Directly after the colon, Bash passes an empty word in its place.
            ("argosy cp web:", "argosy cp web ", 3, "web:"),
            (
                "argosy cp f/web:a:b",
                "argosy cp f/web : a : b",
                6,
                "f/web:a:",
            ),
            ("argosy cp a:b ./c", "argosy cp a : b ./c", 5, ""),
            ("argosy cp a:b ", "argosy cp a : b ", 5, ""),
            (
                "argosy ps --state=run",
                "argosy ps --state = run",
                4,
                "--state=",
            ),
            // The user has removed the colon from the characters at which Bash divides words.
            ("argosy cp web:re", "argosy cp web:re", 2, ""),
        ];
        for (line, given, index, kept) in cases {
            let expected = BashLine {
                words: words(line),
                kept: kept.to_owned(),
            };
            let parsed = BashLine::parse(line, &words(given), index);
            assert_eq!(parsed, Some(expected), "{line}");
        }
    }

    #[test]
    fn a_line_with_special_characters_or_of_other_words_is_left_to_the_shell() {
        for (line, given, index) in [
            ("argosy cp 'a b:c", "argosy cp 'a b : c", 5),
            ("argosy cp $HOME:c", "argosy cp $HOME : c", 4),
            ("other cp web:re", "argosy cp web : re", 4),
            ("argosy cp web:re", "argosy cp web : other", 4),
            ("argosy cp web:re", "argosy cp", 4),
            ("argosy", "argosy", 0),
            ("", "argosy cp", 1),
        ] {
            assert_eq!(BashLine::parse(line, &words(given), index), None, "{line}");
        }
    }

    #[test]
    fn only_the_script_for_bash_passes_the_line() {
        let changed = with_line(&format!("a\n{BEFORE}b\n"));
        let set = "_ARGOSY_COMPLETE_LINE=\"${COMP_LINE:0:COMP_POINT}\" \\\n";
        assert!(changed.contains(set), "{changed}");
        assert_eq!(with_line("zsh"), "zsh");
    }
}
