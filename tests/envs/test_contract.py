"""What every environment answers, whichever backend it has: steps, pictures, dynamics."""

import gymnasium
import numpy as np
import pytest
import torch
from misbehaving import Counter

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv
from bellgrad.core.records import EnvSpec
from bellgrad.core.rng import draw
from bellgrad.core.tree import leaves
from bellgrad.envs.classic import CartPole
from bellgrad.envs.discrete import DiscreteStates
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.host import HostEnv
from bellgrad.envs.make import make_env
from bellgrad.envs.mdp import FiniteMDPEnv
from bellgrad.envs.names import make_single
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.sampled import SampledMDP
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.transforms import ActionRepeat, ClipReward
from bellgrad.envs.vacuum import vacuum_dynamics
from bellgrad.envs.worker import SubprocessEnv
from bellgrad.mdp.examples import chain, random_walk

MAKE = {
    "native": lambda: NativeEnv(CartPole(), 2),
    "gymnasium": lambda: make_env("CartPole-v1", 2, backend="gymnasium"),
    "subprocess": lambda: make_env("CartPole-v1", 2, backend="subprocess"),
    "transformed": lambda: make_env("CartPole-v1", 2, transforms=[ClipReward()]),
    "transformed gymnasium": lambda: make_env(
        "CartPole-v1", 2, backend="gymnasium", transforms=[ClipReward()]
    ),
    "host": lambda: HostEnv(GymEnv(lambda: gymnasium.make("CartPole-v1"), 2)),
}


@pytest.fixture(params=MAKE)
def env(request):
    made = MAKE[request.param]()
    yield made
    made.close()


def test_every_environment_satisfies_the_contract(env):
    assert isinstance(env, BatchedEnv) and isinstance(env.as_pure(), BatchedEnv)
    assert isinstance(env.spec, EnvSpec) and env.spec.id == "CartPole-v1"
    assert env.spec.observation_space == env.observation_space and env.spec.action_space == env.action_space
    assert env.num_envs == 2 and env.device == torch.device("cpu") and env.render_fps > 0
    assert env.workers == (2 if isinstance(env, SubprocessEnv) else 0)
    assert env.known_dynamics() is None


def test_one_call_steps_every_environment(env):
    pure = env.as_pure()
    assert pure.as_pure() is pure
    env.reset(0)
    state, action = pure.state, torch.tensor([0, 1])
    still = torch.tensor([True, False])
    for active in (None, still):
        state, step = pure.pure_step(state, action, draw(pure.noise, torch.Generator()), active)
    pure.state = state
    assert step.episode.length.tolist() == [2, 1] and step.reward.tolist() == [1.0, 0.0]
    assert env.snapshot_rows([0, 1]) and env.step(action).episode.length.tolist() == [3, 2]


def test_a_host_environment_keeps_its_state_and_says_so():
    inner = GymEnv(Counter, 2)
    env = inner.as_pure()
    assert not env.compilable and env.noise is None and env.state is None
    twin = GymEnv(Counter, 2)
    assert torch.equal(env.reset(3), twin.reset(3))
    action = torch.tensor([0, 1])
    state, step = env.pure_step(None, action, None)
    assert state is None
    assert all(torch.equal(a, b) for a, b in zip(leaves(step), leaves(twin.step(action)), strict=True))
    saved = env.snapshot()
    assert torch.equal(env.restore(saved), inner.restore(saved))


def test_pictures_and_their_pace_are_the_environments_own():
    env = make_env("CartPole-v1", 2, backend="gymnasium", render_mode="rgb_array", transforms=[ClipReward()])
    env.reset(0)
    pictures = env.render()
    assert [(p.dtype, p.ndim, p.shape[2]) for p in pictures] == [(np.uint8, 3, 3)] * 2
    assert env.render_fps == gymnasium.make("CartPole-v1").metadata["render_fps"] == 50
    assert GymEnv(Counter).render_fps == 30
    env.close()


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "host"])
def test_what_draws_no_pictures_says_which_environments_do(kind):
    env = MAKE[kind]()
    env.reset(0)
    with pytest.raises(UsageError, match=r"CartPole-v1 draws no pictures.*backend='gymnasium'"):
        env.render()
    env.close()


def test_dynamics_are_known_of_a_finite_mdp_that_is_seen_in_full():
    mdp = random_walk(5)
    assert NativeEnv(SampledMDP(mdp), 3).known_dynamics() is mdp
    assert GymEnv(lambda: FiniteMDPEnv(mdp), 2).known_dynamics() is mdp
    assert NativeEnv(vacuum_dynamics(), 3).known_dynamics() is None  # places that look alike
    assert GymEnv(lambda: make_single("FrozenLake-v1")).known_dynamics().num_states == 16


@pytest.mark.parametrize(
    ("name", "transforms", "known"),
    [
        ("FrozenLake-v1", [], 16),
        ("FrozenLake-v1", [DiscreteStates()], 16),
        ("Blackjack-v1", [DiscreteStates()], 32 * 11 * 2),
        ("Blackjack-v1", [], None),  # a tuple is observed, and the states are numbers
        ("FrozenLake-v1", [ClipReward()], None),
        ("FrozenLake-v1", [ActionRepeat(2)], None),
        ("CartPole-v1", [DiscreteStates((3,), (-1.0,) * 4, (1.0,) * 4)], None),
    ],
)
def test_dynamics_stay_known_behind_transforms_that_only_number_the_states(name, transforms, known):
    env = TransformedEnv(GymEnv(lambda: make_single(name)), transforms)
    mdp = env.known_dynamics()
    assert (mdp and mdp.num_states) == known
    assert env.mdp is None  # a driver steps, unless it is given what it may sample


def test_what_a_driver_may_sample_and_which_actions_are_legal_are_given_at_the_start():
    mdp = chain(4)
    legal = np.ones((4, 2), bool)
    env = TransformedEnv(GymEnv(lambda: FiniteMDPEnv(mdp)), [DiscreteStates()], mdp, legal)
    assert env.mdp is mdp and env.spec.legal is legal
