//! Paths of tasks' files in the API of an agent: `tasks/<framework>/<task>/…`.
//!
//! A master decides about a request by the same function with which the agent finds the file, so
//! that no spelling of a path means one thing to the master and another to the agent.

#[cfg(test)]
mod tests;

use argosy_state::ids::{FrameworkId, TaskId, TaskKey};

/// Maximum length of a path, as of Linux: answers repeat it, a list for each entry.
pub const MAX_BYTES: usize = 4_096;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileTarget {
    /// The list of frameworks.
    Frameworks,
    /// The list of one framework's tasks.
    Tasks(String),
    /// A file or directory in a sandbox: components below it, none for the sandbox itself.
    Sandbox(TaskKey, Vec<String>),
}

impl FileTarget {
    /// Parses a path. Empty components and `.` are left out.
    ///
    /// # Errors
    /// The remedy, for a path that names nothing.
    pub fn parse(path: &str) -> Result<Self, &'static str> {
        if path.len() > MAX_BYTES {
            return Err("it has more than 4,096 bytes");
        }
        if path.starts_with('/') {
            return Err("give a relative path, as tasks/framework-1/web/stdout");
        }
        if path.contains('\0') {
            return Err("remove the NUL byte");
        }
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        if parts.contains(&"..") {
            return Err("a path may not contain ..");
        }
        match parts.as_slice() {
            [] | ["tasks"] => Ok(Self::Frameworks),
            ["tasks", framework] => Ok(Self::Tasks((*framework).to_owned())),
            ["tasks", framework, task, rest @ ..] => {
                let key = task_key(framework, task).ok_or("write tasks/framework-N/TASK/FILE")?;
                let rest = rest.iter().map(|part| (*part).to_owned());
                Ok(Self::Sandbox(key, rest.collect()))
            }
            _ => Err("it must begin with tasks/"),
        }
    }
}

/// Returns the task with these ids.
#[must_use]
pub fn task_key(framework: &str, task: &str) -> Option<TaskKey> {
    let framework: FrameworkId = framework.parse().ok()?;
    let task = TaskId::new(task).ok()?;
    Some(TaskKey { framework, task })
}
