"""A solved MDP on a terminal."""

import numpy as np

from bellgrad.report.finite.text import solution_text


def test_the_corridor_is_a_table_of_values_and_advantages(corridor):
    lines = solution_text(*corridor).splitlines()
    assert lines[0] == "policy_iteration, total: converged after 2 iterations"
    assert "value -13 at the start, -13 to 0 over 5 states with 2 actions" in lines
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["state", "V", "Q(L)", "Q(R)", "A(L)", "A(R)", "policy"]
    # The lecture's table: V* is -13 -12 -11 -1 0, Q*(L) -14 -14 -13 -12 0, Q*(R) is V*, A*(L) -1 -2 -2 -11 0.
    assert rows[2:] == [
        ["1", "-13", "-14", "-13", "-1", "0", "R"],
        ["2", "-12", "-14", "-12", "-2", "0", "R"],
        ["3", "-11", "-13", "-11", "-2", "0", "R"],
        ["4", "-1", "-12", "-1", "-11", "0", "R"],
        ["5", "0", "0", "0", "0", "0", "L, R"],
    ]


def test_a_grid_is_drawn_with_the_arrows_of_every_best_action(maze):
    lines = solution_text(*maze).splitlines()
    assert [line.split() for line in lines[-2:]] == [["S", "-2", "↓→", "-1", "↓"], ["-1", "→", "G"]]


def test_walls_ends_and_what_is_never_reached_have_no_value(grid, solved):
    mdp = grid("S#.", "..G")  # the last cell of the first row can be reached from the goal only
    lines = solution_text(mdp, solved(mdp)).splitlines()
    assert [line.split() for line in lines[-2:]] == [["S", "-3", "↓", "█", "-"], ["-2", "→", "-1", "→", "G"]]


def test_a_large_mdp_is_its_first_rows_and_the_number_of_the_others(random_mdp, solved):
    mdp = random_mdp(50, 9)
    text = solution_text(mdp, solved(mdp, gamma=0.9))
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 20
    assert text.endswith("and 30 more states")
    assert "Q(5)" in text and "Q(6)" not in text


def test_an_illegal_action_is_a_dash_and_never_the_policy(random_mdp, solved):
    mdp = random_mdp(3, 2, illegal=[(1, 0)])
    row = solution_text(mdp, solved(mdp, gamma=0.9)).splitlines()[-2].split("|")
    assert row[3].strip() == "-" and row[5].strip() == "-" and row[7].strip() == "1"


def test_a_solution_that_did_not_converge_says_so(maze, changed):
    mdp, solution = maze
    text = solution_text(mdp, changed(solution, converged=False, error_bound=np.inf, note="auto chose this"))
    assert "NOT converged" in text and "error at most inf" in text and "auto chose this" in text


def test_the_first_step_of_a_horizon_is_shown(maze, changed):
    mdp, solution = maze
    later = changed(
        solution,
        horizon=2,
        value=np.stack([solution.value, solution.value * 0, solution.value * 0]),
        q=np.stack([solution.q] * 2),
        policy=np.stack([solution.policy] * 2),
    )
    assert "the first of 2 steps" in solution_text(mdp, later)
    assert solution_text(mdp, later).splitlines()[-2:] == solution_text(mdp, solution).splitlines()[-2:]


def test_an_average_has_its_gain_and_relative_values(maze, changed):
    mdp, solution = maze
    text = solution_text(
        mdp,
        changed(solution, criterion="average", gain=-0.5, bias=solution.value + 7, value=solution.value * 0),
    )
    assert "average reward" in text and "gain -0.5 per step" in text and "value 5 at the start" in text
