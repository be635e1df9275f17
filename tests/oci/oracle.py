"""What a reference is not asked to do, each by name and with its reason.

Lives here: the one list of tests that `RUNTIME=runc` and `RUNTIME=crun` skip. The
references are those of Debian 12: runc 1.1.5 and crun 1.8.1. Nothing else in
tests/oci may skip a test.
"""

from __future__ import annotations

from .driver import oracle

# Test name (without parameters, or with one parameter set in brackets) -> reason.
_EARLY = "runs the poststart hooks in create"
_VERSION = "does not look at ociVersion"
_PIDFD = "has no --pidfd-socket (it came with 1.2)"
_GO = "at times puts Go's own limit of open files back"
_RACE = "has no lock: of several at once all may fail, or hang"
_FLAGS = "has no flags of seccomp (they came with 1.1.6)"
_WRONG = "test_a_wrong_value_is_refused"
_UNMEANT = "test_a_value_that_cannot_be_meant_is_refused"
_TOGETHER = "test_what_does_not_go_together_is_refused"
_WORD = "test_every_word_of_the_spec_is_carried_out_or_known"
_REFUSED = "test_a_profile_that_cannot_be_meant_is_refused_and_leaves_nothing"
_LOOSE = "takes it, though the specification says that it must not"
_ATIME = "clears one value of the access time field, which the kernel refuses"
_TIME = "has no time namespaces (they came with 1.2)"
_PRIORITIES = "knows no priorities, policies or personality (they came with 1.2)"

# What neither knows.
_OF_PRIORITIES = (
    "test_the_policy_and_the_priority_are_the_configs",
    "test_a_deadline_is_the_configs",
    "test_a_priority_holds_in_a_user_namespace_too",
    "test_a_scheduler_that_cannot_be_meant_is_refused",
    "test_what_the_kernel_refuses_is_said_and_leaves_nothing",
    "test_the_io_priority_is_the_configs_and_of_exec_too",
    "test_an_io_priority_that_cannot_be_meant_is_refused",
    "test_exec_has_the_scheduler_of_the_container_unless_it_brings_one",
    "test_exec_runs_on_the_cpus_it_asks_for",
    "test_exec_by_a_file_asks_for_cpus_of_its_own",
    "test_a_list_of_cpus_that_is_none_is_refused",
    "test_exec_on_cpus_that_are_not_there_says_so",
    "test_the_memory_policy_is_the_configs_and_of_exec_too",
    "test_a_memory_policy_that_cannot_be_meant_is_refused",
)
_OF_DEVICES = (
    "test_a_device_is_moved_with_its_addresses_and_is_up",
    "test_a_device_gets_the_name_it_has_inside",
    "test_a_name_with_a_number_takes_the_first_that_is_free",
    "test_a_device_goes_into_a_user_namespace_too",
    "test_with_the_container_a_virtual_device_ends",
    "test_of_several_devices_all_are_back_when_one_cannot_be_moved",
    "test_a_device_that_cannot_be_moved_is_refused",
    "test_without_a_network_namespace_of_its_own_a_device_is_refused",
)

NOT_RUNC: dict[str, str] = {
    f"{_REFUSED}[flag]": _FLAGS,
    f"{_REFUSED}[no-names]": _LOOSE,
    f"{_REFUSED}[errno-of-allow]": _LOOSE,
    f"{_REFUSED}[errno-of-default]": _LOOSE,
    f"{_REFUSED}[metadata]": _LOOSE,
    f"{_REFUSED}[large-errno]": "blames something else",
    "test_a_call_newer_than_the_profile_is_missing_and_an_older_one_forbidden[native]": (
        "answers ENOSYS on architectures that are named only"
    ),
    "test_flags_are_taken": _FLAGS,
    "test_the_least_that_a_program_needs_is_enough": "loads the filter before its own last calls",
    "test_exec_process_file_sets_rlimits_and_capabilities": _GO,
    "test_exec_sends_a_pidfd_of_its_process": _PIDFD,
    "test_the_pidfd_socket_receives_a_pidfd_of_the_process": _PIDFD,
    "test_of_many_starts_exactly_one_wins": _RACE,
    "test_of_many_creates_exactly_one_wins": _RACE,
    "test_a_config_that_is_no_config_is_refused[null]": "panics",
    f"{_UNMEANT}[$.ociVersion-3.0.0]": _VERSION,
    f"{_UNMEANT}[$.ociVersion-nonsense]": _VERSION,
    "test_a_device_that_makes_no_sense_is_refused[device1]": "takes a device without a path",
    "test_a_hook_reads_the_state_on_its_standard_input[poststart-running]": _EARLY,
    "test_a_poststart_hook_that_fails_stops_the_container": _EARLY,
    "test_a_create_into_the_cgroup_of_another_is_refused_and_leaves_it_alone": "only warns",
    "test_all_six_kinds_run_in_the_order_of_the_spec": _EARLY,
    **dict.fromkeys(_OF_PRIORITIES, _PRIORITIES),
    "test_a_32_bit_personality_is_of_all_processes": _PRIORITIES,
    "test_a_personality_that_cannot_be_meant_is_refused": _PRIORITIES,
    **dict.fromkeys(
        (
            "test_an_id_mapped_mount_shows_other_owners",
            "test_mappings_alone_map_the_ids",
            "test_what_is_written_through_a_map_belongs_to_the_other",
            "test_without_mappings_those_of_the_container_hold",
            "test_what_does_not_go_together_is_refused",
            "test_a_file_system_that_cannot_be_mapped_is_named",
        ),
        "has no id-mapped mounts (they came with 1.2)",
    ),
    **dict.fromkeys(
        (
            "test_tmpcopyup_fills_the_tmpfs_with_what_it_covers",
            "test_tmpcopyup_and_read_only_are_both_done",
        ),
        "cannot copy a FIFO up, nor into a tmpfs that is read-only",
    ),
    "test_a_remount_changes_what_is_named_and_nothing_else": "takes the other flags off",
    f"{_WORD}[defaults]": "hands it to the kernel",
    f"{_WORD}[ratime]": _ATIME,
    f"{_WORD}[rnostrictatime]": _ATIME,
    **dict.fromkeys(_OF_DEVICES, "knows no netDevices (they came with 1.4)"),
    "test_a_container_that_cannot_be_made_gives_its_devices_back": "knows no netDevices",
    "test_a_class_of_service_takes_a_mounted_resctrl": "goes on without a class",
    "test_another_user_of_the_range_runs_and_is_entered": "sets no groups without root",
    "test_a_range_that_is_not_the_users_is_refused_and_leaves_nothing": "says `EOF` only",
    "test_what_takes_root_is_refused_by_name": "knows neither field",
    "test_the_clocks_of_a_time_namespace_are_set_off": _TIME,
    "test_clocks_that_cannot_be_set_off_are_named": _TIME,
    "test_limits_of_a_user_namespace_are_set_in_its_own_only": "knows no user.* parameters",
    "test_a_parameter_is_named_with_the_dot_of_a_device": "knows no netDevices",
    "test_the_domainname_is_the_configs": "knows no domainname (it came with 1.1 of the spec)",
}
# What crun does otherwise, by its reason.
_CRUN_BY_REASON: dict[str, tuple[str, ...]] = {
    "is built without CRIU in Debian: no `checkpoint`, no `restore`": (
        "test_checkpoint",
        "test_every_command_has_help_and_ends_well[checkpoint]",
        "test_every_command_has_help_and_ends_well[restore]",
        "test_restore_without_a_value_says_that_the_option_needs_one",
    ),
    "has no `events`": (
        "test_events_stats_carries_the_numbers_of_the_cgroup",
        "test_events_of_a_stopped_container_are_refused",
        "test_events_go_on_until_the_container_ends",
        "test_every_command_has_help_and_ends_well[events]",
        "test_help_is_given_and_names_the_commands",
    ),
    "has no `features` (it came with 1.9)": (
        "test_features_name_every_word_of_the_spec",
        "test_features_name_what_profiles_may_say",
        "test_features_tell_what_the_runtime_can",
    ),
    "has options of its own: no single dash for a long one, and not all of runc's": (
        "test_an_option_may_have_one_or_two_dashes",
        "test_run_takes_the_option_of_the_shim",
        "test_run_keep_leaves_the_stopped_container",
        "test_ps_hands_its_arguments_to_ps",
        "test_exec_additional_gids_are_exactly_those_asked_for",
        "test_exec_in_a_paused_container_is_refused_unless_told_to_wait",
        "test_exec_sends_a_pidfd_of_its_process",
        "test_the_pidfd_socket_receives_a_pidfd_of_the_process",
        "test_a_limit_is_changed_by_its_option[options1-memory.limit_in_bytes-67108864]",
    ),
    "writes tables, states and specs of its own": (
        "test_an_empty_root_lists_nothing",
        "test_the_table_keeps_its_columns_under_each_other",
        "test_the_whole_walk_through",
        "test_ps_shows_the_processes_of_the_container_only",
        "test_control_c_reaches_the_container_and_not_the_runtime",
        "test_state_has_the_fields_engines_read",
        "test_spec_rootless_has_a_user_namespace_with_maps",
        "test_root_of_a_user_namespace_is_a_user_without_privileges[False]",
    ),
    "says it in words and with an exit status of its own": (
        "test_exec_of_a_program_that_cannot_run_says_why",
        "test_exec_in_a_container_that_does_not_run_is_refused",
        "test_a_program_that_cannot_run_is_named_and_nothing_is_left",
        "test_delete_is_refused_while_the_container_runs",
        "test_kill_of_a_stopped_container_says_that_it_is_not_running",
        "test_start_is_refused_for_a_running_container",
        "test_start_is_refused_for_a_stopped_container",
        "test_a_file_system_that_cannot_be_mapped_is_named",
        f"{_TOGETHER}[mount0-user namespace]",
        f"{_TOGETHER}[mount1-together]",
        f"{_TOGETHER}[mount3-uidMappings]",
        f"{_TOGETHER}[mount5-tmpcopyup]",
        f"{_TOGETHER}[mount6-tmpcopyup]",
        "test_an_unknown_file_system_is_named",
        "test_a_remount_of_nothing_is_refused",
        "test_tmpcopyup_into_too_little_room_is_said",
        "test_a_range_that_is_not_the_users_is_refused_and_leaves_nothing",
        "test_what_takes_root_is_refused_by_name",
        f"{_REFUSED}[type]",
        f"{_REFUSED}[architecture]",
        f"{_REFUSED}[operator]",
        f"{_REFUSED}[notify-write]",
        f"{_REFUSED}[large-errno]",
        f"{_REFUSED}[errno-of-default]",
        f"{_REFUSED}[errno-of-allow]",
    ),
    "fails without a word": ('test_exec_refuses_a_broken_process_file[{"cwd": "/"}]',),
    "shows nothing of what a hook said": (
        "test_a_hook_that_fails_before_the_start_undoes_the_create",
    ),
    "warns of nothing": (
        "test_a_relative_destination_is_below_the_root_and_warned_of",
        "test_an_unknown_capability_is_a_warning_and_left_out",
    ),
    "takes a value of a wrong type, or drops it": (
        f"{_WRONG}[$.process.args-sleep]",
        f"{_WRONG}[$.process.user.uid-root]",
        f"{_WRONG}[$.process.terminal-yes]",
        f"{_WRONG}[$.process.capabilities-value13]",
        f"{_WRONG}[$.mounts[0].options-ro]",
        f"{_WRONG}[$.linux.maskedPaths-/proc/kcore]",
        f"{_WRONG}[$.linux.resources.memory-value22]",
        f"{_WRONG}[$.hooks-value24]",
        "test_a_broken_file_of_limits_changes_nothing[[]]",
        'test_a_broken_file_of_limits_changes_nothing[{"memory": {"limit": "much"}}]',
    ),
    "takes a value that cannot be meant": (
        f"{_WRONG}[$.process.cwd-relative]",
        f"{_WRONG}[$.linux.rootfsPropagation-sideways]",
        f"{_UNMEANT}[$.hostname-{'x' * 65}]",
        f"{_UNMEANT}[$.linux.namespaces[1].type-pid]",
        f"{_UNMEANT}[$.mounts[0].destination-with\\x00zero]",
        f"{_UNMEANT}[$.mounts[1].options[0]-nonesuch-option=\\n]",
        f"{_TOGETHER}[mount2-bind mounts]",
        f"{_TOGETHER}[mount4-size=5]",
        "test_a_device_that_makes_no_sense_is_refused[device0]",
        "test_a_hook_that_makes_no_sense_is_refused[hook2]",
        "test_a_console_socket_without_a_terminal_is_refused",
        "test_exec_refuses_a_console_socket_without_a_terminal",
        "test_preserve_fds_of_descriptors_that_are_not_open_is_refused",
        "test_no_pivot_and_a_private_root_are_refused",
        "test_nothing_is_mounted_over_proc[/proc/self]",
        "test_nothing_is_mounted_over_proc[/proc/sys/kernel]",
        "test_a_label_the_kernel_would_not_enforce_is_refused[selinuxLabel]",
        f"{_REFUSED}[flag]",
        f"{_REFUSED}[no-names]",
        f"{_REFUSED}[empty-name]",
        f"{_REFUSED}[metadata]",
        f"{_REFUSED}[nobody]",
        f"{_REFUSED}[notify-all]",
        "test_a_limit_that_cannot_be_set_is_refused_and_nothing_is_left[resources0]",
        "test_a_limit_that_cannot_be_set_is_refused_and_nothing_is_left[resources4]",
        *(
            f"test_an_id_that_could_leave_the_state_root_is_refused[{odd}]"
            for odd in ("/abs", "\\xe9", "semi;colon", "sp ace")
        ),
        *(
            f"test_an_unknown_signal_is_refused_and_nothing_is_sent[{odd}]"
            for odd in ("0x9", "9.0", "FOO", "SIGFOO")
        ),
    ),
    "leaves the cgroup behind whose limits it cannot set": (
        "test_a_limit_that_cannot_be_set_is_refused_and_nothing_is_left[resources2]",
        "test_a_limit_that_cannot_be_set_is_refused_and_nothing_is_left[resources3]",
    ),
    "hands -1 to the kernel as the limit of processes": (
        "test_a_limit_is_what_the_kernel_says[resources4-version_14-version_24]",
    ),
    "kills whoever is in the cgroup when it deletes": (
        "test_a_create_into_the_cgroup_of_another_is_refused_and_leaves_it_alone",
        "test_who_moved_into_the_cgroup_of_a_stopped_container_outlives_its_delete",
    ),
    "has no lock: of several at once all may succeed, and who looks may fail": (
        "test_of_many_creates_exactly_one_wins",
        "test_looking_while_a_container_comes_and_goes_never_fails",
    ),
    "does not thaw what it kills": ("test_a_paused_container_can_be_killed",),
    "takes pause, resume and start out of turn": (
        "test_pause_and_resume_out_of_turn_are_refused",
        "test_start_is_refused_for_a_paused_container",
    ),
    "knows signals in capitals only": (
        "test_kill_takes_names_and_numbers[sigHUP-HUP]",
        "test_kill_takes_names_and_numbers[usr1-USR1]",
    ),
    "tells hooks another status than the specification has": (
        "test_a_hook_reads_the_state_on_its_standard_input[prestart-creating]",
        "test_a_hook_reads_the_state_on_its_standard_input[createRuntime-creating]",
        "test_a_hook_reads_the_state_on_its_standard_input[createContainer-creating]",
        "test_a_hook_reads_the_state_on_its_standard_input[startContainer-created]",
    ),
    "runs the poststart hooks too early, forgives them, and no poststop hooks after a failure": (
        "test_all_six_kinds_run_in_the_order_of_the_spec",
        "test_a_poststart_hook_that_fails_stops_the_container",
        "test_a_failed_create_runs_the_poststop_hooks",
    ),
    "runs hooks with its own signals blocked": ("test_hooks_have_clean_signals",),
    "gives exec a user, directory, environment and flags of its own, not the config's": (
        "test_another_user_of_the_range_runs_and_is_entered",
        "test_exec_takes_the_working_directory_and_environment_of_the_config",
        "test_exec_options_override_directory_and_environment",
        "test_exec_has_the_capabilities_of_the_container",
    ),
    "does not join the groups below": ("test_exec_joins_a_group_below_the_containers",),
    "gives a user without an entry no HOME": ("test_a_user_without_a_passwd_entry_runs",),
    "sets no LISTEN_PID": (
        "test_listen_fds_hands_descriptors_in_and_names_them",
        "test_a_terminal_and_descriptors_of_the_caller_are_there_under_a_filter",
    ),
    "changes the owner of streams that are closed": (
        "test_standard_streams_closed_in_the_caller_do_not_confuse_create",
    ),
    "names no terminal to the console socket, and a size it has only later": (
        "test_the_console_socket_receives_the_master",
        "test_run_in_the_foreground_relays_the_terminal_both_ways",
        "test_the_size_of_the_callers_terminal_is_followed",
    ),
    "maps one mount only, not those below it": (
        "test_an_id_mapped_mount_shows_other_owners",
        "test_without_mappings_those_of_the_container_hold",
    ),
    "gives the tmpfs another mode than what it covers": (
        "test_tmpcopyup_fills_the_tmpfs_with_what_it_covers",
    ),
    "takes the other flags off": ("test_a_remount_changes_what_is_named_and_nothing_else",),
    "does not let the last of two opposite words win": (
        "test_options_of_a_tmpfs[options1-seen1-unseen1]",
        "test_options_of_a_tmpfs[options6-seen6-unseen6]",
    ),
    "hands a word it does not know to the kernel": tuple(
        f"{_WORD}[{word}]"
        for word in (
            *("iversion", "noiversion", "loud", "silent"),
            *("symfollow", "nosymfollow", "rsymfollow", "rnosymfollow"),
        )
    ),
    _ATIME: tuple(
        f"{_WORD}[{word}]"
        for word in (
            *("ratime", "rdiratime", "rnoatime", "rnodiratime"),
            *("rstrictatime", "rnostrictatime"),
        )
    ),
    "has not every recursive word": tuple(
        f"test_a_recursive_attribute_reaches_every_mount_of_the_tree[r{word}-{word}]"
        for word in ("noatime", "nodiratime", "nosymfollow")
    ),
    "makes a time namespace and then loses its init": (
        "test_the_clocks_of_a_time_namespace_are_set_off",
        "test_clocks_that_cannot_be_set_off_are_named",
    ),
    "knows no user.* parameters": ("test_limits_of_a_user_namespace_are_set_in_its_own_only",),
    "answers EPERM to calls newer than a profile": (
        "test_a_call_newer_than_the_profile_is_missing_and_an_older_one_forbidden",
        "test_other_architectures_may_be_named",
    ),
    "loads the filter before its own last calls": (
        "test_the_least_that_a_program_needs_is_enough",
    ),
    "tells the agent no pid of exec": (
        "test_an_agent_is_asked_about_processes_of_exec_by_another_connection",
    ),
    "connects to a listener nobody needs": ("test_a_path_is_passed_over_where_nobody_is_asked",),
    "knows no priorities, policies of memory, or CPUs of exec": (
        *_OF_PRIORITIES,
        "test_a_personality_that_cannot_be_meant_is_refused",
    ),
    "knows no netDevices": (*_OF_DEVICES, "test_a_parameter_is_named_with_the_dot_of_a_device"),
    "knows no class of service": ("test_a_class_of_service_takes_a_mounted_resctrl",),
}
NOT_CRUN = {name: reason for reason, names in _CRUN_BY_REASON.items() for name in names}

LACKING = {"runc": ("runc 1.1.5", NOT_RUNC), "crun": ("crun 1.8.1", NOT_CRUN)}


def reason_against(module: str, name: str, full_name: str) -> str | None:
    """Why the runtime under test is not asked, or None.

    Args:
        module: the test's file, without its suffix.
        name: the test's function.
        full_name: the same with its parameters in brackets.
    """
    who = oracle()
    if who is None:
        return None
    version, lacking = LACKING[who]
    reason = lacking.get(full_name) or lacking.get(name) or lacking.get(module)
    return reason and f"{version}: {reason}"
