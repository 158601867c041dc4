//! The present names of tests that lines of the ledger name by a former one. A line of the ledger
//! never changes.

/// Parts of names of tests: the former one, and the present one.
const RENAMED: &[(&str, &str)] = &[
    (
        "a_framework_that_a_replaced_leader_does_not_know_is_not_told_that_it_was_removed",
        "a_framework_that_a_replaced_leader_does_not_know_is_not_reported_as_removed",
    ),
    (
        "a_late_subscription_of_a_killed_process_replaces_nobody",
        "a_late_subscription_of_a_killed_process_replaces_no_scheduler",
    ),
    (
        "a_leader_that_is_replaced_meanwhile_says_nothing_about_the_others",
        "a_leader_that_is_replaced_in_between_reports_nothing_about_the_others",
    ),
    (
        "a_life_that_ends_before_it_tells_of_a_reboot_does_not_hide_it",
        "a_run_that_ends_before_it_reports_a_reboot_does_not_hide_it",
    ),
    (
        "a_master_without_a_group_keeps_nobody_waiting",
        "a_master_without_a_group_answers_immediately",
    ),
    (
        "a_refusal_of_another_reign_is_no_answer",
        "a_refusal_of_another_epoch_is_no_answer",
    ),
    (
        "a_repeat_is_not_told_that_its_own_offer_is_used_once_its_answer_is_forgotten",
        "a_repeat_is_not_refused_for_its_own_used_offer_once_its_answer_is_forgotten",
    ),
    (
        "a_scheduler_that_was_killed_may_be_told_what_its_former_life_passed_over",
        "a_scheduler_that_was_killed_may_receive_what_its_former_process_skipped",
    ),
    (
        "a_task_that_ran_is_never_started_again_whatever_its_files_say",
        "a_task_that_ran_is_never_started_again_whatever_its_files_contain",
    ),
    (
        "an_offer_of_an_earlier_reign_is_withdrawn_when_it_cannot_be_told_from_a_used_one",
        "an_offer_of_an_earlier_epoch_is_withdrawn_when_it_may_be_used",
    ),
    (
        "an_offer_that_a_slow_link_tells_late_was_made_before_the_next_one",
        "an_offer_that_a_slow_link_delivers_late_was_made_before_the_next_one",
    ),
    (
        "neither_depth_nor_number_keeps_a_folder_from_going",
        "neither_depth_nor_number_prevents_the_removal_of_a_directory",
    ),
    ("disposal::", "remove_tree::"),
    ("reigns::", "epochs::"),
];

/// Returns the present name of a test, or of several.
pub(super) fn present_name(test: &str) -> String {
    let renamed = RENAMED.iter();
    renamed.fold(test.to_owned(), |name, (former, present)| {
        name.replace(former, present)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Returns whether a source file below this directory defines the test, or a scenario file has
    /// a scenario with its name as a sentence.
    fn defines(directory: &Path, test: &str) -> bool {
        let sentence = format!("# {}.", test.replace('_', " "));
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path()).any(|path| {
            if path.is_dir() {
                return !path.ends_with("target") && defines(&path, test);
            }
            let text = || fs::read_to_string(&path).unwrap();
            match path.extension().and_then(|end| end.to_str()) {
                Some("rs") => text().contains(&format!("fn {test}(")),
                Some("txt")
                    if path
                        .components()
                        .any(|part| part.as_os_str() == "scenarios") =>
                {
                    text()
                        .lines()
                        .any(|line| line.eq_ignore_ascii_case(&sentence))
                }
                _ => false,
            }
        })
    }

    #[test]
    fn a_renamed_test_exists_under_its_present_name() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (former, present) in RENAMED {
            assert_eq!(
                present_name(&format!("x::{former}")),
                format!("x::{present}")
            );
            let is_module = present.ends_with("::");
            assert!(is_module || defines(root, present), "{present}");
        }
    }
}
