//! One line of a script: words, and `name=value` pairs among them.

use std::str::FromStr;

use argosy_state::ids::{
    AgentId, FrameworkId, OfferId, OrderIndex, Revision, Role, TaskId, TaskKey,
};

pub(crate) struct ScenarioLine<'a> {
    text: &'a str,
    words: Vec<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> ScenarioLine<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
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
    pub(crate) fn word(&self, position: usize) -> &'a str {
        let word = self.words.get(position);
        word.unwrap_or_else(|| panic!("word {position} is missing in {:?}", self.text))
    }

    pub(crate) fn words_from(&self, position: usize) -> &[&'a str] {
        self.words.get(position..).unwrap_or_default()
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    pub(crate) fn pair(&self, name: &str) -> Option<&'a str> {
        let found = self.pairs.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.pair(name).map(|text| self.read(text))
    }

    pub(crate) fn read<T: FromStr>(&self, text: &str) -> T {
        text.parse()
            .unwrap_or_else(|_| panic!("{text:?} is invalid in {:?}", self.text))
    }

    pub(crate) fn agent(&self, position: usize) -> AgentId {
        self.read(self.word(position))
    }

    pub(crate) fn framework(&self, position: usize) -> FrameworkId {
        self.read(self.word(position))
    }

    /// Parses `framework-1/name`.
    pub(crate) fn key(&self, text: &str) -> TaskKey {
        let (framework, task) = text
            .split_once('/')
            .unwrap_or_else(|| panic!("{text:?} is not a task in {:?}", self.text));
        TaskKey {
            framework: self.read(framework),
            task: TaskId::new(task).unwrap(),
        }
    }

    /// Parses `framework-1/name@order`.
    pub(crate) fn instance(&self, text: &str) -> (TaskKey, OrderIndex) {
        let (key, order) = text
            .split_once('@')
            .unwrap_or_else(|| panic!("{text:?} is not an instance in {:?}", self.text));
        (self.key(key), OrderIndex(self.read(order)))
    }

    /// Parses `index.position`.
    pub(crate) fn revision(&self, text: &str) -> Revision {
        let id: OfferId = self.read(text);
        Revision {
            index: id.epoch.0,
            position: u32::try_from(id.serial).unwrap(),
        }
    }

    pub(crate) fn roles(&self, name: &str) -> Option<Vec<Role>> {
        let names = self.pair(name)?;
        Some(
            names
                .split(',')
                .map(|role| Role::new(role).unwrap())
                .collect(),
        )
    }
}
