//! Tests of the tokens of pages.

use super::*;

/// Returns the token after a page on which the reader finds none of these records.
fn token_of_an_empty_page(rules: &str, records: usize) -> Option<String> {
    let reader = Reader::As("operator/vera".parse().unwrap());
    let sight = reader.sight_by(&rules.parse().unwrap(), Action::ViewTask);
    let mut making = PageBuilder::new(10, String::new(), &sight);
    loop {
        let after: usize = making.token.parse().unwrap_or(0);
        let part = gather(
            after + 1..=records,
            making.room(),
            usize::to_string,
            |_, _| (),
        );
        if !making.add(part) {
            return making.page.next;
        }
    }
}

#[test]
fn a_token_names_no_record_that_its_reader_may_not_see() {
    let all = "allow operator/vera view-task *";
    let some = "allow operator/vera view-task role:eng";
    let most = PART * PARTS;
    assert_eq!(token_of_an_empty_page(all, most), None);
    // A filter that few records match continues with the next page.
    assert_eq!(
        token_of_an_empty_page(all, most + 1),
        Some(most.to_string())
    );
    assert_eq!(token_of_an_empty_page(some, most + 1), None);
    assert_eq!(token_of_an_empty_page(some, 2 * most), None);
}
