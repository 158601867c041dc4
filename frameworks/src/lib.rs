//! First-party schedulers on the public SDK, without access that third-party frameworks lack.
//!
//! Reading order: `five_tasks` (the smallest complete framework), `steady`, `words`, `text`,
//! `paths`, `witness`, `wordmap` (the program on the agents), `wordcount` (the scheduler that
//! counts words), `shell_executor` (an executor).

pub mod arguments;
pub mod five_tasks;
pub mod hello_http;
pub mod paths;
pub mod progress;
pub mod shell_executor;
pub mod steady;
pub mod text;
pub mod witness;
pub mod wordcount;
pub mod wordmap;
pub mod words;
