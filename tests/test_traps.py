"""Where each known trap is guarded: an index, so that no guard disappears unnoticed. The tests live where
they belong."""

import ast
from pathlib import Path

import pytest

# The trap in a few words, and how the names of its guards begin.
GUARDS = {
    "truncation treated as termination": ("test_trap_truncation_treated_as_termination",),
    "generalized advantages across an episode's end": ("test_trap_gae_across_an_episode_end",),
    "autoreset": ("test_trap_autoreset",),
    "n steps across an episode's end": ("test_n_step_returns_equal_a_forward_walk",),
    "rows across the ring buffer's write pointer": (
        "test_the_replay_holds_exactly_the_last_transitions_in_order",
    ),
    "successor shared in memory with the next row": (
        "test_trap_successor_shared_in_memory_with_the_next_row",
        "test_the_successor_is_not_shared_in_memory_with_the_next_row",
    ),
    "action scaling": ("test_trap_action_scaling",),
    "squashed Gaussian log-probability": ("test_trap_squashed_gaussian_log_probability",),
    "SAC's target": ("test_trap_sac_target",),
    "target entropy": ("test_trap_target_entropy",),
    "TRPO's line search that fails": (
        "test_trap_trpo_restores_every_bit_where_no_candidate_is_good",
        "test_trap_trpo_restores_the_parameters_where_no_step_is_good",
    ),
    "advantage normalization of a minibatch of one": ("test_trap_advantage_normalization",),
    "running normalizers": (
        "test_running_normalizer_takes_in_what_is_acted_on_and_normalizes_terminal_observations_too",
        "test_trap_running_normalizers_are_frozen_in_evaluation",
        "test_trap_running_normalizers_are_saved_with_the_policy",
        "test_trap_running_normalizers_and_action_scaling_are_exported_with_the_policy",
    ),
    "resume": ("test_trap_resume",),
    "a dead worker": ("test_trap_a_dead_worker", "test_trap_a_hung_worker"),
    "replay memory": ("test_replay_memory",),
    "thread storms": ("test_trap_thread_storms",),
    "target as [B, 1] against [B]": (
        "test_trap_target_as_b1_against_b",
        "test_a_trailing_axis_of_one_is_refused",
        "test_trap_a_loss_per_item",
    ),
    "minibatches from a used-up iterator": ("test_trap_minibatches_are_sampled_afresh",),
    "a loss that returns a stale graph": ("test_trap_stale_graph",),
    "value iteration stops early": ("test_value_iteration_stops_early_by_the_span_but_corrects_the_value",),
    "max_iter reached": ("test_max_iter_reached_is_not_converged_and_a_warning_names_the_residual",),
    "an infinite horizon with gamma 1": ("test_infinite_horizon_solver_with_gamma_1_is_refused",),
}
TESTS = [
    node.name
    for path in Path(__file__).parent.rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.mark.parametrize("trap", GUARDS)
def test_the_trap_is_guarded(trap):
    assert [prefix for prefix in GUARDS[trap] if not any(name.startswith(prefix) for name in TESTS)] == []


def test_every_guard_by_name_is_in_the_index():
    known = tuple(prefix for prefixes in GUARDS.values() for prefix in prefixes)
    assert [name for name in TESTS if name.startswith("test_trap_") and not name.startswith(known)] == []
