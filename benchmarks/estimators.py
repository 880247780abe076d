"""Estimators of the policy gradient and the exact gradient: means, variances, bias.

    python benchmarks/estimators.py

The corridor's five states, under a softmax policy that goes right three times in four. An estimator's mean
over many episodes, with its standard error, stands next to the mean that the known probabilities give; then
GAE with a critic that errs, lambda by lambda; then two ways to differentiate the mean of a quadratic. A
minute; prints the table of the estimators.
"""

import math
import sys

import numpy as np
import torch
from common import RESULTS, provenance, write_results
from tables import estimators_table

from bellgrad.mdp.estimators import Estimator, episode_gradients, expected_gradient
from bellgrad.mdp.evaluation import evaluate_policy
from bellgrad.mdp.examples import corridor
from bellgrad.mdp.gradient import softmax_gradient, softmax_policy
from bellgrad.mdp.trajectories import Trajectories, sample_trajectories
from bellgrad.ops.distributions import DiagonalGaussian
from bellgrad.ops.policy_gradient import pathwise, score_function

GAMMA = 0.9
EPISODES = 50_000
HORIZON = 1_000  # steps, more than any episode needs
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
CRITIC_ERROR = 1.0  # standard deviation of the wrong critic's errors, in units of the return
DRAWS = 100_000
SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6)
DIMENSIONS = (1, 2, 4, 8, 16, 32)


def estimators(value: np.ndarray, q: np.ndarray, wrong: np.ndarray) -> dict[str, Estimator]:
    """By their names in tables and figures."""
    true = {"state_weight": "discount", "value": value, "q": q}
    return {
        "R, whole return": Estimator("return", GAMMA),
        "G, reward to go": Estimator("reward_to_go", GAMMA, "discount"),
        "G - V": Estimator("baseline", GAMMA, **true),
        "Q": Estimator("q", GAMMA, **true),
        "A": Estimator("advantage", GAMMA, **true),
        "TD residual": Estimator("td_residual", GAMMA, **true),
        "GAE(0.9)": Estimator("gae", GAMMA, **true, lambda_=0.9),
        "all actions, Q": Estimator("all_actions", GAMMA, **true),
        "A, steps kept by chance": Estimator("advantage", GAMMA, **true | {"state_weight": "geometric"}),
        "A without the weight": Estimator("advantage", GAMMA, **true | {"state_weight": "none"}),
        "TD residual, wrong V": Estimator("td_residual", GAMMA, "discount", wrong),
        "GAE(0.9), wrong V": Estimator("gae", GAMMA, "discount", wrong, lambda_=0.9),
    }


def quadratic(m: float, sigma: float, dimensions: int) -> dict[str, dict[str, float]]:
    """The variance of an estimate of d/dmean E|x|^2, x normal with mean m in each dimension: measured, and by
    the formula."""
    noise = torch.randn(DRAWS, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s2 = sigma**2
    others = (dimensions - 1) * (m**2 + s2)
    spread = (dimensions - 1) * (4 * m**2 * s2 + 2 * s2**2)
    expected = dimensions * (m**2 + s2)
    ways = {
        "pathwise": (pathwise, 4 * s2),
        "score function": (
            score_function,
            m**4 / s2 + 14 * m**2 + 15 * s2 + (2 * others * (m**2 + 3 * s2) + others**2 + spread) / s2,
        ),
        "score function with a baseline": (
            lambda f, x, noise: score_function(f, x, noise, baseline=expected),
            8 * m**2 + 10 * s2 + spread / s2,
        ),
    }
    found = {}
    for name, (way, formula) in ways.items():
        mean = torch.full_like(noise, m, requires_grad=True)
        x = DiagonalGaussian(mean, torch.full((dimensions,), math.log(sigma), dtype=torch.float64))
        (gradient,) = torch.autograd.grad(way(lambda x: x.square().sum(-1), x, noise).sum(), mean)
        found[name] = {"variance": gradient.var(0).mean().item(), "formula": formula}
    return found


def main() -> None:
    made = provenance()
    mdp = corridor()
    theta = np.tile([0.0, math.log(3)], (mdp.num_states, 1))
    policy = softmax_policy(mdp, theta)
    solution = evaluate_policy(mdp, policy, GAMMA)
    wrong = solution.value + CRITIC_ERROR * np.random.default_rng(0).normal(size=mdp.num_states)
    exact = softmax_gradient(mdp, theta, GAMMA)

    def sample(seed: int) -> Trajectories:
        episodes = sample_trajectories(mdp, policy, HORIZON, episodes=EPISODES, seed=seed)
        if episodes.truncated.any():
            sys.exit(f"an episode was cut after {HORIZON} steps")
        return episodes

    def look(estimator: Estimator, seed: int) -> dict:
        gradients = episode_gradients(mdp, theta, sample(seed), estimator, seed=seed)
        return {
            "mean": gradients.mean(axis=0).tolist(),
            "standard_error": (gradients.std(axis=0, ddof=1) / math.sqrt(EPISODES)).tolist(),
            "expected": expected_gradient(mdp, theta, estimator, HORIZON).tolist(),
            "variance": float(gradients.var(axis=0, ddof=1).sum()),
        }

    def bias(lambda_: float) -> dict:
        """Measured against lambda 1 in the same episodes, which has none; most of the noise cancels."""
        episodes = sample(seed=0)
        estimator, unbiased = (Estimator("gae", GAMMA, "discount", wrong, lambda_=x) for x in (lambda_, 1.0))
        gradients = episode_gradients(mdp, theta, episodes, estimator)
        apart = gradients - episode_gradients(mdp, theta, episodes, unbiased)
        return {
            "bias_squared": float(((expected_gradient(mdp, theta, estimator, HORIZON) - exact) ** 2).sum()),
            "measured_bias_squared": float(
                (apart.mean(axis=0) ** 2).sum() - apart.var(axis=0, ddof=1).sum() / EPISODES
            ),
            "variance": float(gradients.var(axis=0, ddof=1).sum()),
        }

    results = {
        "corridor": {
            "gamma": GAMMA,
            "episodes": EPISODES,
            "critic_error": CRITIC_ERROR,
            "exact": exact.tolist(),
            "estimators": {
                name: look(one, seed)
                for seed, (name, one) in enumerate(estimators(solution.value, solution.q, wrong).items())
            },
            "lambdas": {str(x): bias(x) for x in LAMBDAS},
        },
        "quadratic": {
            "draws": DRAWS,
            "sigmas": {str(sigma): quadratic(1.0, sigma, 1) for sigma in SIGMAS},
            "dimensions": {str(d): quadratic(1.0, 0.5, d) for d in DIMENSIONS},
        },
        "provenance": made,
    }
    write_results(RESULTS / "estimators.json", results)
    print(estimators_table(results))


if __name__ == "__main__":
    main()
