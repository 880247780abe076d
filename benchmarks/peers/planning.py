"""One measurement of another library's planner: seconds to solve, as one line of JSON; the value goes into a
file.

An MDP comes as an `.npz` with `offset`, `probability`, `next_state`, `reward [S, A]`, and the discount. What
ends an episode is there a state that leads to itself for nothing, since these libraries know no other end.
Converting it is not on the clock, nor is compiling.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np


def mdpsolver(
    problem: dict, tolerance: float, algorithm: str, update: str
) -> tuple[np.ndarray, float, float]:
    import mdpsolver as library

    states, actions = problem["reward"].shape
    bounds = problem["offset"].tolist()
    probability, next_state = problem["probability"].tolist(), problem["next_state"].tolist()

    def rows(values: list) -> list:
        return [
            [values[bounds[s * actions + a] : bounds[s * actions + a + 1]] for a in range(actions)]
            for s in range(states)
        ]

    model = library.model()
    model.mdp(discount=problem["gamma"], rewards=problem["reward"].tolist(), tranMatProbs=rows(probability),
              tranMatColumns=rows(next_state))  # fmt: skip
    began = time.perf_counter()
    model.solve(algorithm=algorithm, update=update, tolerance=tolerance)
    seconds = time.perf_counter() - began
    return np.array(model.getValueVector()), seconds, 0.0


def quantecon(problem: dict, tolerance: float, method: str) -> tuple[np.ndarray, float, float]:
    from quantecon.markov import DiscreteDP
    from scipy import sparse

    def solve(offset, probability, next_state, reward) -> tuple[np.ndarray, float]:
        states, actions = reward.shape
        matrix = sparse.csr_matrix((probability, next_state, offset), shape=(states * actions, states))
        state, action = np.divmod(np.arange(states * actions), actions)
        model = DiscreteDP(reward.ravel(), matrix, problem["gamma"], state, action)
        began = time.perf_counter()
        # its value is within half of epsilon
        found = model.solve(method, epsilon=2 * tolerance, max_iter=1_000_000)
        return found.v, time.perf_counter() - began

    _, compiling = solve(np.arange(5), np.ones(4), np.array([0, 1, 1, 0]), np.ones((2, 2)))
    value, seconds = solve(
        problem["offset"], problem["probability"], problem["next_state"], problem["reward"]
    )
    return value, seconds, compiling


def mdptoolbox(problem: dict, tolerance: float) -> tuple[np.ndarray, float, float]:
    from mdptoolbox.mdp import PolicyIterationModified
    from scipy import sparse

    states, actions = problem["reward"].shape
    shape = (states * actions, states)
    matrix = sparse.csr_matrix(
        (problem["probability"], problem["next_state"], problem["offset"]), shape=shape
    )
    model = PolicyIterationModified(
        [matrix[action::actions] for action in range(actions)],
        problem["reward"],
        problem["gamma"],
        epsilon=tolerance,
    )
    began = time.perf_counter()
    model.run()
    return np.array(model.V), time.perf_counter() - began, 0.0


LIBRARIES = {"mdpsolver": ("mdpsolver", mdpsolver), "quantecon": ("quantecon", quantecon),
             "mdptoolbox": ("pymdptoolbox", mdptoolbox)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("problem", type=Path, help=".npz")
    parser.add_argument("value", type=Path, help=".npy to write")
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--method", nargs="*", default=[], help="as the library calls it")
    args = parser.parse_args()
    package, measure = LIBRARIES[args.library]
    with np.load(args.problem) as arrays:
        problem = {name: arrays[name] for name in arrays.files}
    problem["gamma"] = float(problem["gamma"])
    value, seconds, compiling = measure(problem, args.tolerance, *args.method)
    np.save(args.value, value)
    print(json.dumps({"seconds": seconds, "compile_seconds": compiling, "version": version(package)}))


if __name__ == "__main__":
    main()
