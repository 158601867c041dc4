//! The page of the ledger is what its lines add up to: rewritten with UPDATE_EXPECT=1.

use std::fs;
use std::path::Path;

use argosy_chaos::ledger;

#[test]
fn the_page_is_what_the_lines_add_up_to() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let lines = fs::read_to_string(docs.join("chaos-ledger.jsonl")).unwrap();
    let page = ledger::render(&ledger::read(&lines).unwrap());
    let place = docs.join("chaos-ledger.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&place, &page).unwrap();
    }
    let written = fs::read_to_string(&place).unwrap();
    assert!(
        page == written,
        "docs/chaos-ledger.md is old: UPDATE_EXPECT=1 cargo test -p argosy-chaos --test ledger"
    );
}
