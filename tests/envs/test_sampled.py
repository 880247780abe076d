"""A finite MDP as native dynamics: the right frequencies, what is seen, and the vacuum world."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2

from bellgrad.core.errors import UsageError
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.sampled import SampledMDP
from bellgrad.envs.vacuum import picture, vacuum_dynamics
from bellgrad.mdp.examples import VACUUM_OBSERVATIONS, garnet, random_walk, vacuum_world
from bellgrad.mdp.model import FiniteMDP
from bellgrad.mdp.observed import memoryless_return

FALSE_ALARM = 1e-4  # of each statistical test, were its seed chosen anew


def test_outcomes_come_as_often_as_their_probabilities_say():
    mdp, count = garnet(4, 2, 3, seed=0), 20_000
    dynamics, rng = SampledMDP(mdp), torch.Generator().manual_seed(0)
    for state in range(4):
        for action in range(2):
            physics = torch.full((count, 1), state)
            after, reward, terminated = dynamics.advance(
                physics, torch.full((count,), action), torch.rand(count, 1, generator=rng)
            )
            outcomes = slice(*mdp.offset[2 * state + action :][:2])
            expected = mdp.probability[outcomes] * count
            counted = [(after == successor).sum().item() for successor in mdp.next_state[outcomes]]
            assert sum((np.array(counted) - expected) ** 2 / expected) < chi2.ppf(
                1 - FALSE_ALARM / 8, len(expected) - 1
            )
            of_successor = dict(zip(mdp.next_state[outcomes].tolist(), mdp.reward[outcomes], strict=True))
            np.testing.assert_allclose(reward, [of_successor[s] for s in after[:, 0].tolist()], rtol=1e-6)
            assert not terminated.any()


def test_no_noise_leads_to_what_is_impossible():
    """At the very end of the unit interval rounding must lead neither beyond the outcomes nor to one of
    probability 0."""
    mdp = FiniteMDP.from_function(
        3,
        1,
        lambda s, a: [(0.1, 0, 0.0, False)] * 7 + [(0.3, 1, 0.0, True), (0.0, 2, 0.0, False)][: 1 + s],
        initial=[0, 1, 0],
    )
    dynamics, most = SampledMDP(mdp), torch.tensor([[1 - 2**-24]])
    assert dynamics.initial(most).tolist() == [[1]] and dynamics.initial(torch.zeros(1, 1)).tolist() == [[1]]
    for state in range(3):
        after, _, terminated = dynamics.advance(torch.tensor([[state]]), torch.tensor([0]), most)
        assert after.tolist() == [[1]] and terminated.tolist() == [True]


def test_episodes_end_where_the_mdps_do():
    env = NativeEnv(SampledMDP(random_walk(5)), 2000)
    env.reset(seed=0)
    first = torch.full((2000,), torch.nan)
    for _ in range(200):
        step = env.step(torch.zeros(2000, dtype=torch.int64))
        first = torch.where(first.isnan() & step.terminated, step.reward, first)
    assert not first.isnan().any()
    assert binomtest(int(first.sum()), 2000, 0.5).pvalue > FALSE_ALARM


@pytest.mark.parametrize("east", [0.5, 0.8])
def test_the_vacuum_worlds_successes_are_as_many_as_its_mdp_says(east):
    dynamics, episodes = vacuum_dynamics(), 20_000
    env = NativeEnv(dynamics, episodes)
    # at the right end it may blunder
    policy = np.array([[0, 1, 0, 0], [0, east, 0, 1 - east], [0, 0, 1, 0], [0.1, 0, 0.1, 0.8]])
    expected = memoryless_return(vacuum_world(hamster=0.0), VACUUM_OBSERVATIONS, policy, 20)

    generator, obs = torch.Generator().manual_seed(0), env.reset(seed=0)
    first = torch.full((episodes,), torch.nan)
    for _ in range(20):
        action = torch.multinomial(torch.from_numpy(policy)[obs], 1, generator=generator).squeeze(-1)
        step = env.step(action)
        first = torch.where(first.isnan() & (step.terminated | step.truncated), step.episode.return_, first)
        obs = step.obs
    assert set(first.tolist()) == {-1, 0, 1} or east == 0.5
    assert binomtest(int((first == 1).sum()), episodes, float(expected)).pvalue > FALSE_ALARM


def test_the_robot_sees_walls_and_not_cells():
    dynamics = vacuum_dynamics()
    obs = dynamics.observe(torch.arange(5).unsqueeze(-1))
    assert obs.dtype == torch.int64 and obs.tolist() == VACUUM_OBSERVATIONS.tolist()
    assert dynamics.observation_space.n == 4 and dynamics.max_episode_steps == 20
    assert SampledMDP(vacuum_world()).observation_space.n == 5


def test_the_robot_is_drawn_in_its_cell():
    for cell in range(5):
        blue = (picture(np.array([cell])) == (50, 100, 200)).all(-1)
        assert np.argwhere(blue).mean(0).round() == pytest.approx([96, 64 * (cell + 1.5)], abs=1)


def test_an_illegal_action_is_refused_when_the_environment_is_made():
    mdp = FiniteMDP.from_function(2, 2, lambda s, a: [] if (s, a) == (1, 0) else [(1.0, s, 0.0, True)])
    with pytest.raises(UsageError, match="state 1, action 0 is illegal"):
        SampledMDP(mdp)
