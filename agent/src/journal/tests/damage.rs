//! That damage is told, and how.

use super::*;
use crate::captured_log::Log;
use crate::paths::Paths;
use crate::start::tell_damage;

/// What an agent logs that finds a journal of these bytes.
fn told(folder: &Folder, bytes: &[u8]) -> Vec<String> {
    fs::write(folder.path(), bytes).unwrap();
    let contents = folder.read();
    let log = Log::default();
    let paths = Paths::new(folder.path().parent().unwrap());
    tracing::subscriber::with_default(log.clone(), || tell_damage(&contents, &paths));
    let lines = log.0.lock().unwrap();
    lines.clone()
}

#[test]
fn a_damaged_record_is_told_as_an_error_that_says_where() {
    let folder = Folder::new();
    folder.write(&story(3));
    let whole = fs::read(folder.path()).unwrap();
    assert_eq!(told(&folder, &whole), [""; 0], "there is nothing to tell");
    let second = frame::find(&whole, 42, frame::HEAD_BYTES + 1).unwrap();
    let third = frame::find(&whole, 42, second + 1).unwrap();
    let mut bytes = whole.clone();
    bytes[second + frame::FRAME_BYTES] ^= 1;
    let expected = format!(
        "ERROR message=a part of the journal is damaged: what it said is lost, the masters repair what they can \
         journal={} offset={second} bytes={}",
        folder.path().display(),
        third - second
    );
    assert_eq!(told(&folder, &bytes), [expected]);
    // A write that was cut off is nobody's fault, and was never told to anybody as done.
    let told = told(&folder, &whole[..whole.len() - 1]);
    let [line] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(
        line.starts_with("INFO message=a write that a crash cut off"),
        "{line}"
    );
}
