//! The cases; each is a sentence about the agent.

mod attaching;
mod blocked;
mod bombs;
mod callers;
mod checks;
mod compaction;
mod crashes;
mod cycles;
mod disks;
mod divided;
mod entering;
mod executors;
mod fetching;
mod full_disk;
mod groups;
mod host_paths;
mod images;
mod leftovers;
mod limits;
mod links;
mod lives;
mod nft;
mod opt_outs;
mod plugged;
mod silence;
mod sizes;
mod statistics;
mod stopped;
mod tasks;
mod volumes;

use std::path::Path;
use std::pin::Pin;
use std::process::Command;

use argosy_proto::v1;
use argosy_testing::skip;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub(crate) use self::compaction::{VERB as JOURNAL, writer as write_journal};

type TestCase = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($folder:ident::$name:ident),+ $(,)?) => {
        pub(crate) const ALL: &[(&str, TestCase)] =
            &[$((concat!(stringify!($folder), "::", stringify!($name)), || Box::pin($folder::$name()))),+];
    };
}

cases![
    entering::a_command_in_a_task_has_its_streams_and_its_end_is_told,
    entering::signals_reach_a_command_in_a_task,
    entering::a_terminal_in_a_task_has_the_size_that_it_is_given,
    entering::a_command_in_a_task_ends_with_its_client_and_its_task,
    entering::a_task_that_was_adopted_can_be_entered_again,
    entering::a_client_that_does_not_read_stops_its_command_and_nobody_else,
    entering::a_command_that_does_not_read_stops_its_input_and_not_its_signals,
    entering::what_cannot_be_let_in_is_refused_before_anything_is_upgraded,
    entering::a_frame_that_is_too_large_ends_the_command_in_words,
    entering::many_commands_run_in_a_task_at_once_and_too_many_are_refused_in_words,
    attaching::all_who_are_attached_see_a_task_and_type_at_it_until_it_ends,
    attaching::one_can_attach_again_after_the_agent_was_restarted,
    attaching::a_pipe_of_a_task_takes_input_and_its_end,
    attaching::what_cannot_be_attached_to_is_refused_before_anything_is_upgraded,
    callers::other_users_of_the_host_neither_enter_tasks_nor_read_their_files,
    callers::a_task_that_reaches_its_agent_neither_enters_tasks_nor_reads_their_files,
    executors::tasks_of_one_executor_share_its_container_and_it_ends_behind_the_last,
    executors::an_executor_with_more_on_the_disk_than_its_tasks_request_is_ended_with_them,
    executors::an_executor_outlives_its_agent_and_takes_tasks_of_a_new_leader,
    executors::an_executor_that_is_killed_takes_its_tasks_along,
    executors::one_task_of_an_executor_is_killed_and_the_other_runs_on,
    executors::an_executor_that_does_not_subscribe_is_ended_and_says_why,
    executors::messages_reach_an_executor_and_its_framework,
    executors::nobody_but_the_container_of_an_executor_gets_through_its_socket,
    tasks::a_task_runs_and_its_status_and_output_are_told,
    tasks::a_kill_is_killed_even_if_the_command_exits_with_0,
    tasks::a_kill_begins_with_the_signal_that_the_task_names,
    tasks::a_kill_behind_its_launch_never_starts_or_kills,
    tasks::a_kill_that_meets_starts_in_line_executes_none_of_their_commands,
    tasks::a_command_that_does_not_exist_fails_and_says_so,
    tasks::files_are_fetched_or_the_failure_names_them,
    fetching::a_fetch_that_takes_long_says_in_its_tasks_status_how_far_it_is,
    fetching::a_file_of_the_host_that_no_operator_gives_is_refused_in_words,
    fetching::a_file_that_is_kept_is_on_the_disk_before_it_has_its_name,
    tasks::an_archive_is_taken_apart_in_the_sandbox_and_never_outside,
    tasks::a_task_out_of_time_fails,
    tasks::a_task_without_a_leader_stops_itself,
    tasks::output_can_be_followed_to_the_end_of_the_task,
    tasks::output_is_followed_across_its_rotation,
    tasks::many_short_tasks_run_fast_and_leave_nothing,
    silence::a_command_ends_when_its_client_has_fallen_silent_and_not_before,
    silence::who_is_attached_and_falls_silent_is_given_up_and_the_task_goes_on,
    statistics::what_passes_the_link_of_a_task_is_told_to_people_and_to_prometheus,
    statistics::what_a_task_uses_is_told_to_people_and_to_prometheus_while_it_runs,
    full_disk::an_agent_whose_disk_is_full_runs_on_and_records_kills_and_ends,
    full_disk::who_fills_the_disk_beyond_its_request_is_evicted_and_others_run_on,
    lives::a_task_outlives_its_agent_and_is_adopted_with_the_same_pid,
    lives::an_end_while_the_agent_was_away_is_told_truly,
    lives::an_older_release_refuses_the_journal_of_a_newer_one_and_the_tasks_run_on,
    lives::an_upgraded_agent_takes_over_tasks_from_the_journal_of_the_format_before,
    lives::the_executable_is_replaced_under_running_tasks,
    lives::a_damaged_record_of_the_journal_costs_its_task_alone,
    lives::a_damaged_record_of_the_newest_launch_starts_nothing_twice,
    lives::a_journal_that_names_no_agent_stops_the_start_and_ends_nothing,
    lives::a_container_that_cannot_be_asked_for_a_while_runs_on_and_is_adopted_later,
    lives::a_second_agent_on_the_same_directory_is_refused_by_pid,
    lives::tasks_can_be_ended_with_the_agent,
    lives::an_agent_killed_amid_launches_starts_each_task_once,
    leftovers::an_orphan_that_does_not_end_keeps_no_agent_from_its_work,
    leftovers::a_route_over_the_containers_network_keeps_no_agent_from_its_tasks,
    leftovers::a_host_that_gives_tasks_no_ipv6_gives_them_ipv4,
    stopped::a_kill_ends_a_task_whose_supervisor_is_stopped,
    stopped::the_next_agent_ends_a_task_whose_supervisor_is_stopped,
    stopped::a_stopped_launcher_is_replaced_and_its_tasks_run_on,
    stopped::an_agent_stops_although_its_launcher_is_stopped,
    stopped::a_stopped_broker_or_spawner_holds_up_no_kill_and_no_end,
    stopped::an_agent_stops_although_its_broker_or_spawner_is_stopped,
    stopped::a_thousand_starts_that_are_killed_in_line_execute_nothing,
    stopped::a_task_is_killed_at_whichever_step_its_supervisor_or_the_launcher_stops,
    stopped::the_same_tasks_are_killed_by_agents_that_are_not_root,
    opt_outs::a_task_is_let_off_what_its_agent_allows_and_no_more,
    opt_outs::a_task_is_in_its_hosts_network_only_where_its_agent_allows_it,
    opt_outs::a_task_does_not_reach_the_api_of_its_agent,
    opt_outs::a_limit_that_this_host_cannot_keep_is_refused_in_words,
    host_paths::a_task_sees_host_paths_elsewhere_and_writes_only_where_it_may,
    host_paths::root_of_an_image_reads_a_host_path_as_any_user_may,
    sizes::a_task_has_the_sizes_that_it_asks_for_and_no_more_than_its_agent_gives,
    divided::an_agent_that_was_root_is_another_user_and_its_tasks_run_end_and_are_adopted,
    divided::no_core_has_what_tasks_were_given_and_what_brings_content_is_limited,
    divided::an_agent_takes_over_what_one_that_was_root_has_left,
    divided::tasks_with_images_are_made_and_removed_by_an_agent_that_is_not_root,
    divided::an_agent_ends_with_its_broker_and_a_broker_with_its_agent,
    divided::file_systems_plugins_networks_and_executors_are_made_by_a_broker_with_its_filter,
    divided::a_panic_in_the_broker_ends_it_and_its_agent_and_no_task,
    divided::callers_are_known_to_an_agent_that_is_not_root,
    divided::an_agent_whose_folder_is_closed_to_other_users_stays_root,
    crashes::every_step_can_be_the_last_of_an_agent,
    crashes::every_step_can_be_the_last_of_an_agent_that_fetches_or_removes_sandboxes,
    crashes::steps_can_be_the_last_of_an_agent_that_is_not_root_or_of_its_broker,
    compaction::every_step_can_be_the_last_of_a_compaction,
    cycles::launches_kills_and_dying_agents_leave_nothing,
    groups::tasks_of_a_group_that_is_alone_hear_each_other,
    groups::tasks_of_a_group_share_the_network_that_its_first_one_names,
    groups::files_of_one_task_of_a_group_are_files_of_the_others,
    groups::a_task_that_fails_ends_its_group_the_last_one_first,
    groups::the_folder_of_a_group_is_a_part_of_its_first_tasks_disk,
    groups::the_folder_of_a_group_is_measured_when_its_first_task_has_ended_and_by_the_next_agent,
    groups::a_group_of_which_one_task_cannot_be_prepared_never_starts,
    groups::a_group_that_broke_while_its_agent_was_away_is_ended_by_the_next,
    checks::a_task_is_healthy_until_it_is_not_and_then_it_is_ended,
    checks::a_task_is_ready_while_its_port_answers_as_expected,
    checks::a_task_that_answers_by_https_is_ready_whoever_has_signed_its_certificate,
    checks::a_look_that_takes_too_long_has_failed_and_is_ended,
    checks::the_next_agent_goes_on_looking_and_tells_nothing_twice,
    volumes::a_task_has_its_volumes_and_its_secret_is_nowhere_else,
    volumes::a_secret_that_an_agent_has_not_fails_the_task_in_words,
    volumes::an_agent_that_mounts_nothing_refuses_volumes,
    volumes::a_task_that_fills_the_disk_fails_with_the_figures_and_its_neighbour_goes_on,
    volumes::a_task_that_asks_for_no_disk_has_the_agents_default,
    volumes::a_file_without_a_name_counts_too,
    volumes::one_file_that_reaches_the_limit_is_the_end_of_its_task,
    volumes::a_task_is_measured_by_the_next_agent_too,
    disks::a_task_that_fills_its_file_system_goes_on_and_so_it_does_with_the_next_agent,
    disks::what_is_fetched_has_to_fit_into_the_same_file_system,
    disks::what_a_task_changes_of_its_image_fills_the_same_file_system,
    disks::the_folder_of_a_group_is_on_the_file_system_of_its_first_task,
    disks::an_agent_is_refused_disks_that_its_host_cannot_keep_small,
    crashes::every_step_can_be_the_last_of_an_agent_that_makes_file_systems,
    images::an_image_that_has_changed_under_its_name_is_noticed_if_the_operator_wants_so,
    images::a_task_can_have_its_tag_looked_up_at_each_start,
    images::a_kill_begins_with_the_signal_that_the_image_names,
    images::a_container_can_have_a_copy_of_its_image_which_counts_as_its_disk,
    images::a_host_that_makes_overlays_is_found_out,
    plugged::a_task_is_in_the_network_that_plugins_make_and_they_take_it_back,
    plugged::a_network_that_cannot_be_made_fails_its_task_in_words,
    plugged::the_next_agent_has_plugins_take_back_what_an_earlier_one_had_them_give,
    limits::a_task_that_asks_for_no_memory_has_the_agents_default,
    limits::limits_are_changed_while_a_task_runs_and_what_became_of_them_is_told,
    limits::the_next_agent_keeps_the_limits_and_changes_them_again,
    links::an_earlier_reign_and_another_cluster_are_refused,
    links::a_list_names_what_is_held_and_strays_are_ended,
    links::a_shutdown_ends_everything_and_comes_back_as_another,
    links::a_leader_that_freezes_is_left_for_the_next_without_a_missed_heartbeat,
    blocked::heartbeats_go_on_while_all_other_threads_of_an_agent_are_blocked,
    blocked::a_task_whose_host_path_hangs_holds_up_no_other,
    blocked::a_user_database_that_hangs_holds_up_no_task_without_a_user,
    bombs::a_task_without_limits_meets_the_agents_defaults_and_its_neighbour_runs_on,
    nft::an_nft_that_hangs_or_is_missing_fails_what_needs_it_and_nothing_else,
    nft::a_mkfs_that_hangs_fails_who_needs_a_file_system_and_nobody_else,
];

/// Returns the factor by which tests are longer than usual, if it is set.
pub(crate) fn length() -> u32 {
    u32::try_from(cycles::count().div_ceil(cycles::USUAL)).unwrap_or(u32::MAX)
}

/// Runs a test in a separate network namespace, which becomes a host of containers.
async fn on_a_host_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    with_namespaces(CloneFlags::CLONE_NEWNET, test).await;
}

/// Does the same with namespaces of these kinds. Mounts in a new mount namespace are private.
async fn with_namespaces<F: Future<Output = ()>>(
    kinds: CloneFlags,
    test: impl FnOnce() -> F + Send + 'static,
) {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let needed = ["/usr/sbin/nft", "/usr/sbin/ip", "/usr/bin/python3"];
    if needed.iter().any(|program| !Path::new(program).exists()) {
        return skip("needs the packages nftables, iproute2 and python3");
    }
    let host = std::thread::spawn(move || {
        // Before the thread has others, which would not be included.
        unshare(kinds).unwrap();
        if kinds.contains(CloneFlags::CLONE_NEWNS) {
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
        }
        let raised = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(raised.unwrap().success());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
    });
    let joined = tokio::task::spawn_blocking(|| host.join()).await.unwrap();
    joined.expect("it passes on its own host, too");
}

pub(super) fn state(update: &v1::NumberedUpdate) -> v1::TaskState {
    v1::TaskState::try_from(update.state).unwrap()
}

pub(super) fn reason(update: &v1::NumberedUpdate) -> v1::Reason {
    v1::Reason::try_from(update.reason).unwrap()
}

pub(super) fn code(update: &v1::NumberedUpdate) -> Option<v1::exit::How> {
    update.exit.and_then(|exit| exit.how)
}

pub(super) fn runs(update: &v1::NumberedUpdate) -> bool {
    state(update) == v1::TaskState::Running
}
