"""What the reference runtime is not asked to do, each by name and with its reason.

Lives here: the one list of tests that `RUNTIME=runc` skips. The reference is
runc 1.1.5 of Debian 12. Nothing else in tests/oci may skip a test.
"""

from __future__ import annotations

# Test name (without parameters, or with one parameter set in brackets) -> reason.
_EARLY = "runs the poststart hooks in create"
_VERSION = "does not look at ociVersion"
_PIDFD = "has no --pidfd-socket (it came with 1.2)"
_GO = "at times puts Go's own limit of open files back"
_RACE = "has no lock: of several at once all may fail, or hang"
_FLAGS = "has no flags of seccomp (they came with 1.1.6)"
_REFUSED = "test_a_profile_that_cannot_be_meant_is_refused_and_leaves_nothing"
_LOOSE = "takes it, though the specification says that it must not"
_ATIME = "clears one value of the access time field, which the kernel refuses"
_TIME = "has no time namespaces (they came with 1.2)"
_PRIORITIES = "knows no priorities, policies or personality (they came with 1.2)"
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
    "test_a_value_that_cannot_be_meant_is_refused[$.ociVersion-3.0.0]": _VERSION,
    "test_a_value_that_cannot_be_meant_is_refused[$.ociVersion-nonsense]": _VERSION,
    "test_a_device_that_makes_no_sense_is_refused[device1]": "takes a device without a path",
    "test_a_hook_reads_the_state_on_its_standard_input[poststart-running]": _EARLY,
    "test_a_poststart_hook_that_fails_stops_the_container": _EARLY,
    "test_a_create_into_the_cgroup_of_another_is_refused_and_leaves_it_alone": "only warns",
    "test_all_six_kinds_run_in_the_order_of_the_spec": _EARLY,
    **dict.fromkeys(
        (
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
            "test_a_32_bit_personality_is_of_all_processes",
            "test_a_personality_that_cannot_be_meant_is_refused",
        ),
        _PRIORITIES,
    ),
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
    "test_every_word_of_the_spec_is_carried_out_or_known[defaults]": "hands it to the kernel",
    "test_every_word_of_the_spec_is_carried_out_or_known[ratime]": _ATIME,
    "test_every_word_of_the_spec_is_carried_out_or_known[rnostrictatime]": _ATIME,
    **dict.fromkeys(
        (
            "test_a_device_is_moved_with_its_addresses_and_is_up",
            "test_a_device_gets_the_name_it_has_inside",
            "test_a_name_with_a_number_takes_the_first_that_is_free",
            "test_a_device_goes_into_a_user_namespace_too",
            "test_with_the_container_a_virtual_device_ends",
            "test_a_container_that_cannot_be_made_gives_its_devices_back",
            "test_of_several_devices_all_are_back_when_one_cannot_be_moved",
            "test_a_device_that_cannot_be_moved_is_refused",
            "test_without_a_network_namespace_of_its_own_a_device_is_refused",
        ),
        "knows no netDevices (they came with 1.4)",
    ),
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
