//! One line of a script: words, and `name=value` pairs among them.

use std::str::FromStr;

use crate::ids::{AgentId, FrameworkId, OfferId, OrderIndex, Revision, Role, TaskId, TaskKey};

/// The words and the pairs of a line.
#[derive(Debug)]
pub struct ScenarioLine<'a> {
    text: &'a str,
    words: Vec<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> ScenarioLine<'a> {
    /// Parses a line.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        let mut pairs = Vec::new();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(pair) => pairs.push(pair),
                None => words.push(word),
            }
        }
        Self { text, words, pairs }
    }

    /// Returns the word at `position`; the command is at 0.
    #[must_use]
    pub fn word(&self, position: usize) -> &'a str {
        let word = self.words.get(position);
        word.unwrap_or_else(|| panic!("word {position} is missing in {:?}", self.text))
    }

    /// Returns the words from `position` on.
    #[must_use]
    pub fn words_from(&self, position: usize) -> &[&'a str] {
        self.words.get(position..).unwrap_or_default()
    }

    /// Returns whether the line has this word.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    /// Returns the value of a pair.
    #[must_use]
    pub fn pair(&self, name: &str) -> Option<&'a str> {
        let found = self.pairs.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }

    /// Returns the value of a pair, as a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.pair(name).map(|text| self.read(text))
    }

    /// Parses a word or a value; panics if it is invalid.
    #[must_use]
    pub fn read<T: FromStr>(&self, text: &str) -> T {
        text.parse()
            .unwrap_or_else(|_| panic!("{text:?} is invalid in {:?}", self.text))
    }

    /// Parses the word at `position` as an agent.
    #[must_use]
    pub fn agent(&self, position: usize) -> AgentId {
        self.read(self.word(position))
    }

    /// Parses the word at `position` as a framework.
    #[must_use]
    pub fn framework(&self, position: usize) -> FrameworkId {
        self.read(self.word(position))
    }

    /// Parses `framework-1/name`.
    #[must_use]
    pub fn key(&self, text: &str) -> TaskKey {
        let (framework, task) = text
            .split_once('/')
            .unwrap_or_else(|| panic!("{text:?} is not a task in {:?}", self.text));
        TaskKey {
            framework: self.read(framework),
            task: TaskId::new(task).unwrap(),
        }
    }

    /// Parses `framework-1/name@order`.
    #[must_use]
    pub fn instance(&self, text: &str) -> (TaskKey, OrderIndex) {
        let (key, order) = text
            .split_once('@')
            .unwrap_or_else(|| panic!("{text:?} is not an instance in {:?}", self.text));
        (self.key(key), OrderIndex(self.read(order)))
    }

    /// Parses `index.position`.
    #[must_use]
    pub fn revision(&self, text: &str) -> Revision {
        let id: OfferId = self.read(text);
        Revision {
            index: id.epoch.0,
            position: u32::try_from(id.serial).unwrap(),
        }
    }

    /// Returns the roles of a pair, which are separated by commas.
    #[must_use]
    pub fn roles(&self, name: &str) -> Option<Vec<Role>> {
        let names = self.pair(name)?;
        Some(
            names
                .split(',')
                .map(|role| Role::new(role).unwrap())
                .collect(),
        )
    }
}
