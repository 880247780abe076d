"""A discount as the probability of surviving each step."""

from dataclasses import replace

import numpy as np

from bellgrad.mdp.build import index_type
from bellgrad.mdp.checks import check_gamma
from bellgrad.mdp.model import FiniteMDP, check_mdp


def discount_as_survival(mdp: FiniteMDP, gamma: float) -> FiniteMDP:
    """The MDP that ends with probability `1 - gamma` at every step instead of discounting: its undiscounted
    values are the same.

        V(s) = max_a sum p(s', r | s, a) (r + gamma V(s'))

    Each outcome that does not end the episode becomes two, next to each other, with the same reward and next
    state: with probability `gamma p` the episode continues, with `(1 - gamma) p` it ends.

    Args:
        mdp: any MDP.
        gamma: discount per step, in [0, 1].

    Raises:
        UsageError: gamma is out of range.

    Source: Sutton and Barto 2018, section 9.10 (discounting as a form of soft termination); Puterman 1994,
    section 5.3.
    """
    mdp, gamma = check_mdp(mdp), check_gamma(gamma)
    copies = np.where(mdp.terminated, 1, 2)
    begins = np.concatenate([[0], np.cumsum(copies)])
    goes_on = begins[:-1][copies == 2]
    ends = goes_on + 1
    probability, terminated = np.repeat(mdp.probability, copies), np.repeat(mdp.terminated, copies)
    probability[goes_on] *= gamma
    probability[ends] *= 1 - gamma
    terminated[ends] = True
    index = index_type(begins[-1], len(mdp.offset))
    return replace(
        mdp,
        offset=begins[mdp.offset].astype(index),
        probability=probability,
        next_state=np.repeat(mdp.next_state, copies).astype(index),
        reward=np.repeat(mdp.reward, copies),
        terminated=terminated,
    )
