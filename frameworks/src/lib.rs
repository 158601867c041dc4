//! First-party schedulers on the public SDK: whatever they do, a stranger's framework can do.
//!
//! Reading order: `five_tasks` (the smallest whole framework), `steady`, `words`, `text`, `paths`,
//! `witness`, `wordmap` (what runs on the agents), `wordcount` (the scheduler that counts words), `shell_executor`
//! (what runs tasks on the agents).

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
