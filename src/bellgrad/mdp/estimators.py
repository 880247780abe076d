"""An estimator of the policy gradient on a known MDP: its estimate for each sampled episode, and its exact
mean.

    per episode:  sum_t w_t Phi_t dlog pi(a_t | s_t)
    on average:   sum_t w_t sum_s P(s_t = s) sum_a dpi(a | s) E[Phi_t | s_t = s, a_t = a]

with w_t = gamma^t or 1. The first uses the functions that algorithms learn with (`ops.policy_gradient`,
`ops.returns`). The second uses the known probabilities and the critic's values, exact or not. So the two can
be compared.

The policy is the softmax of `theta [O, A]`, with a row for each observation; states with the same observation
share a row. Axes: `O` observations, `S` states, `A` actions, `T` time, `B` episodes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bellgrad.core.errors import UsageError, check_range, check_types
from bellgrad.mdp.checks import array, count
from bellgrad.mdp.gradient import softmax_policy
from bellgrad.mdp.model import FiniteMDP, Floats, Ints, check_mdp
from bellgrad.mdp.policies import advantage, induced_chain, q_from_value, value_from_q
from bellgrad.mdp.trajectories import Trajectories
from bellgrad.ops.policy_gradient import (
    all_actions_loss,
    discount_weight,
    geometric_mask,
    score_function_loss,
    total_return,
)
from bellgrad.ops.returns import discounted_returns, gae, td_residual

Phi = Literal["return", "reward_to_go", "baseline", "q", "advantage", "td_residual", "gae", "all_actions"]
CRITIC_NEEDED_BY = {
    "value": ("baseline", "advantage", "td_residual", "gae"),
    "q": ("q", "advantage", "all_actions"),
}


@dataclass(frozen=True, eq=False)
class Estimator:
    """An estimator of the policy gradient.

    Attributes:
        phi: the factor of the score: `return`, that of the whole episode; `reward_to_go`; `baseline`, the
            reward to go minus the value; `q`; `advantage`; `td_residual`; `gae`; or `all_actions`, the sum
            over actions with `q`.
        gamma: discount per step, in [0, 1].
        state_weight: weight of step t. `none`: 1. `discount`: gamma^t. `geometric`: the step is kept with
            probability gamma^t. `return` is already discounted from the start of the episode and needs
            `none`.
        value: `[S]` the critic's state values, exact or not.
        q: `[S, A]` the critic's action values.
        lambda_: of `gae`, in [0, 1].

    Raises:
        UsageError: a name is unknown, a number is out of range or not finite, `return` has a state weight, or
            the critic that `phi` needs is missing.
    """

    phi: Phi
    gamma: float
    state_weight: Literal["none", "discount", "geometric"] = "none"
    value: Floats | None = None
    q: Floats | None = None
    lambda_: float = 0.95

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, gamma=(0, 1), lambda_=(0, 1))
        for name in ("value", "q"):
            if getattr(self, name) is not None:
                array(name, getattr(self, name), minus_inf=name == "q")
        for critic, phis in CRITIC_NEEDED_BY.items():
            if self.phi in phis and getattr(self, critic) is None:
                raise UsageError(f"phi={self.phi!r} needs a critic: give {critic}")
        if self.phi == "return" and self.state_weight != "none":
            raise UsageError(
                "phi='return' is discounted from the episode's start already: leave state_weight at 'none'"
            )


def episode_gradients(
    mdp: FiniteMDP,
    theta: Floats,
    episodes: Trajectories,
    estimator: Estimator,
    *,
    observation: Ints | None = None,
    seed: int = 0,
) -> Floats:
    """The estimate from each episode, by differentiating the losses of `ops.policy_gradient`: `[B, O, A]`.

    Args:
        mdp: the problem.
        theta: `[O, A]` parameters of the softmax policy.
        episodes: sampled with that policy.
        estimator: the estimator.
        observation: `[S]` the observation of each state, integers below O; None if every state is its own
            observation.
        seed: of the random numbers of the state weight `geometric`.
    """
    theta = array("theta", theta)
    state, action = torch.from_numpy(episodes.state), torch.from_numpy(episodes.action)
    mask = torch.from_numpy(episodes.mask)
    steps, columns = mask.shape
    # one copy per episode
    parameters = torch.tensor(theta, dtype=torch.float64).repeat(columns, 1, 1).requires_grad_()
    logits = parameters if observation is None else parameters[:, torch.from_numpy(observation)]
    logprobs = logits.masked_fill(~torch.from_numpy(mdp.legal), -torch.inf).log_softmax(-1)  # [B, S, A]

    age = torch.arange(steps, dtype=torch.float64)[:, None].expand(steps, columns)
    weight = None
    if estimator.state_weight == "geometric":
        # not the stream of `sample_trajectories` with the same seed
        (rng,) = np.random.default_rng(seed).spawn(1)
        noise = torch.from_numpy(rng.random(mask.shape))
        mask = mask & geometric_mask(age, estimator.gamma, noise)
    elif estimator.state_weight == "discount":
        weight = discount_weight(age, estimator.gamma)
    if estimator.phi == "all_actions":
        index = state.T[..., None].expand(columns, steps, mdp.num_actions)
        prob = logprobs.exp().gather(1, index).transpose(0, 1)
        loss = all_actions_loss(prob, torch.from_numpy(estimator.q)[state], weight, mask, episodes=1)
    else:
        logprob = logprobs[torch.arange(columns), state, action]
        loss = score_function_loss(logprob, _phi(estimator, episodes), weight, mask, episodes=1)
    return -torch.autograd.grad(loss, parameters)[0].numpy()


def _phi(estimator: Estimator, episodes: Trajectories) -> Tensor:
    """`[T, B]`."""
    state, action, reward, next_state, terminated, truncated, mask = (
        torch.from_numpy(column) for column in episodes
    )
    gamma = estimator.gamma
    value = None if estimator.value is None else torch.from_numpy(estimator.value)
    match estimator.phi:
        case "return":
            return total_return(reward, gamma, mask)
        case "reward_to_go":
            return discounted_returns(reward, gamma, mask)
        case "baseline":
            return discounted_returns(reward, gamma, mask) - value[state]
        case "q":
            return torch.from_numpy(estimator.q)[state, action]
        case "advantage":
            return torch.from_numpy(estimator.q)[state, action] - value[state]
        case "td_residual":
            return td_residual(reward, terminated, value[state], value[next_state], gamma)
        case _:
            return gae(
                reward, terminated, truncated, value[state], value[next_state], gamma, estimator.lambda_
            )


def expected_gradient(
    mdp: FiniteMDP, theta: Floats, estimator: Estimator, horizon: int, *, observation: Ints | None = None
) -> Floats:
    """The exact mean of `episode_gradients` over all episodes of at most `horizon` steps: `[O, A]`.

    If no episode is longer than the horizon, this is the mean over whole episodes. In a truncated episode,
    `td_residual` and `gae` use the critic's value of the last state, and returns end there. With an estimated
    value v, GAE(lambda) uses `(1 - lambda) v + lambda v'` instead of V(s'), where v' is the expected lambda
    return. This is its bias; with lambda 1 there is none.

    Args:
        mdp: the problem.
        theta: `[O, A]` parameters of the softmax policy.
        estimator: the estimator.
        horizon: steps `H`, 1 or more.
        observation: `[S]` the observation of each state, integers below O; None if every state is its own
            observation.
    """
    mdp, theta, horizon = check_mdp(mdp), array("theta", theta), count("horizon", horizon)
    observation = np.arange(mdp.num_states) if observation is None else observation
    policy = softmax_policy(mdp, theta[observation])
    chain, _ = induced_chain(mdp, policy)
    discounted = estimator.state_weight != "none" or estimator.phi == "return"
    distribution, by_state = mdp.initial, np.zeros(policy.shape)
    for t, phi in enumerate(_expected_phi(mdp, policy, estimator, horizon)):
        weight = estimator.gamma**t if discounted else 1.0
        by_state += weight * distribution[:, None] * policy * np.where(mdp.legal, advantage(phi, policy), 0.0)
        distribution = distribution @ chain
    gradient = np.zeros(theta.shape)
    np.add.at(gradient, observation, by_state)
    return gradient


def _expected_phi(mdp: FiniteMDP, policy: Floats, estimator: Estimator, horizon: int) -> Floats:
    """`E[Phi_t | s_t, a_t]` without terms that depend only on the state, which do not change the gradient:
    `[H, S, A]`."""
    if estimator.phi in CRITIC_NEEDED_BY["q"]:
        return np.broadcast_to(estimator.q, (horizon, *policy.shape))
    nothing = np.zeros(mdp.num_states)
    value, lambda_ = {
        "td_residual": (estimator.value, 0.0),
        "gae": (estimator.value, estimator.lambda_),
    }.get(estimator.phi, (nothing, 1.0))
    phi = np.empty((horizon, *policy.shape))
    next_value = value
    for t in reversed(range(horizon)):
        phi[t] = q_from_value(mdp, next_value, estimator.gamma)
        next_value = (1 - lambda_) * value + lambda_ * value_from_q(phi[t], policy)
    return phi
