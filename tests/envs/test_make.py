import subprocess
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from misbehaving import Counter, Endless, make_counter, not_an_env

from bellgrad.core.errors import UsageError
from bellgrad.core.protocols import BatchedEnv
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.images import FrameStack
from bellgrad.envs.make import make_env
from bellgrad.envs.names import env_name, list_envs, make_single, requires_import
from bellgrad.envs.native import NativeEnv
from bellgrad.envs.transformed import TransformedEnv
from bellgrad.envs.worker import SubprocessEnv


def test_auto_takes_native_where_there_is_one_and_nothing_else_is_asked():
    assert isinstance(make_env("CartPole-v1"), NativeEnv)
    assert isinstance(make_env("CartPole-v1", env_kwargs={"sutton_barto_reward": True}), GymEnv)
    assert isinstance(make_env("CartPole-v1", render_mode="rgb_array"), GymEnv)
    assert isinstance(make_env("FrozenLake-v1"), GymEnv)
    assert isinstance(make_env("CartPole-v1", backend="gymnasium"), GymEnv)


def test_backend_subprocess_makes_workers():
    env = make_env("misbehaving:Counter", 2, backend="subprocess")
    assert isinstance(env, SubprocessEnv) and env.spec.id == "misbehaving:Counter"
    env.close()


@pytest.mark.parametrize("backend", ["native", "gymnasium"])
def test_the_spec_knows_id_spaces_and_limit(backend):
    spec = make_env("CartPole-v1", backend=backend).spec
    assert (spec.id, spec.max_episode_steps, spec.action_space) == ("CartPole-v1", 500, spaces.Discrete(2))
    assert make_env("CartPole-v1", backend=backend, max_episode_steps=7).spec.max_episode_steps == 7


@pytest.mark.parametrize(
    "env", [Endless, "misbehaving:Endless", "misbehaving:Misbehaving-v0", "Misbehaving-v0"]
)
def test_a_time_limit_can_be_given_to_any_environment(env):
    made = make_env(env, max_episode_steps=2)
    made.reset(0)
    flags = [made.step(torch.zeros(1, dtype=torch.int64)).truncated.item() for _ in range(4)]
    assert flags == [False, True, False, True]


@pytest.mark.parametrize(
    "env",
    ["misbehaving:Counter", "misbehaving:make_counter", Counter, make_counter, lambda **k: Counter(**k)],
)
def test_names_classes_and_functions_make_environments_with_arguments(env):
    made = make_env(env, 2, env_kwargs={"length": 1})
    made.reset(0)
    assert isinstance(made, BatchedEnv) and made.step(torch.zeros(2, dtype=torch.int64)).terminated.all()


@pytest.mark.parametrize("backend", ["native", "gymnasium"])
def test_trap_action_scaling_the_learner_acts_in_minus_one_to_one(backend):
    env = make_env("Pendulum-v1", backend=backend)
    assert env.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32) == env.spec.action_space
    seen = []
    inner_step = env.env.step
    env.env.step = lambda action, active: seen.append(action) or inner_step(action, active)
    env.reset(0)
    env.step(torch.tensor([[0.5]]))
    assert seen[0].tolist() == [[1.0]]  # half of Pendulum's 2 N m


def test_trap_action_scaling_infinite_bounds_are_refused():
    class Unbounded(Counter):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    with pytest.raises(UsageError, match="finite action bounds"):
        make_env(Unbounded)


def test_transforms_are_applied_below_the_rescaled_action():
    env = make_env("Pendulum-v1", 2, transforms=[FrameStack(3)])
    assert isinstance(env, TransformedEnv) and env.reset(0).shape == (2, 3, 3)
    assert env.action_space.high == 1.0


def test_unknown_names_get_the_nearest():
    with pytest.raises(UsageError, match="did you mean CartPole-v1"):
        make_env("CartPol-v1")
    with pytest.raises(UsageError, match="LunarLander-v3"):
        make_env("LunarLander-v2")  # Gymnasium says: deprecated
    with pytest.raises(
        UsageError, match="unknown environment in module 'misbehaving' 'Countr'; did you mean Counter"
    ):
        make_env("misbehaving:Countr")
    with pytest.raises(UsageError, match="unknown backend 'natve'; did you mean native"):
        make_env("CartPole-v1", backend="natve")
    with pytest.raises(UsageError, match="unknown native environment 'FrozenLake-v1'"):
        make_env("FrozenLake-v1", backend="native")


def test_an_id_without_version_means_the_latest():
    assert make_env("CartPole").spec.id == "CartPole-v1"


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("LunarLander-v3", "Box2D", "box2d"),
        ("Hopper-v5", "mujoco", "mujoco"),
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
    ],
)
def test_a_missing_extra_is_named_with_its_install_command(monkeypatch, name, missing, extra):
    for module in list(sys.modules):
        if module.split(".")[0] == missing or module.startswith(
            ("gymnasium.envs.box2d", "gymnasium.envs.mujoco")
        ):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    for module in [name for name in gymnasium.registry if name.startswith(("ALE/", "MiniGrid-"))]:
        monkeypatch.delitem(gymnasium.registry, module)
    with pytest.raises(UsageError, match=rf"pip install 'bellgrad\[{extra}\]'"):
        make_env(name)


def test_what_cannot_be_made_is_a_users_mistake_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import nothing_of_the_kind\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for env, kwargs, words in [
        ("no_such_module:Env", {}, "cannot import the module 'no_such_module'"),
        ("broken_module:Env", {}, "nothing_of_the_kind"),
        ("misbehaving:Counter", {"lenght": 3}, "misbehaving:Counter could not be made: TypeError: .*lenght"),
        ("HalfCheetah-v3", {}, "HalfCheetah-v3 could not be made: .*gymnasium-robotics"),
        # Pusher-v4 needs mujoco < 3.
        ("Pusher-v4", {}, r"Pusher-v4 could not be made: .*mujoco|bellgrad\[mujoco\]"),
        (not_an_env, {}, "misbehaving:not_an_env made a int, not a gymnasium.Env"),
        (Counter(), {}, "give the environment's class"),
        (3, {}, "3 is not an environment"),
        ("misbehaving:", {}, "write module:Class"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            make_env(env, env_kwargs=kwargs)
        assert "\n" not in str(caught.value)


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "here_only.py").write_text("from misbehaving import Counter\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    assert make_env("here_only:Counter").spec.id == "here_only:Counter"


def test_env_name_is_what_would_find_it_again():
    assert env_name("CartPole-v1") == "CartPole-v1"
    assert env_name(Counter) == "misbehaving:Counter"
    assert env_name(partial(make_counter, length=3)) == "misbehaving:make_counter"


def test_a_loaded_run_may_not_import_or_call_what_was_not_chosen():
    assert not requires_import("CartPole-v1")
    assert not requires_import("misbehaving:Counter")  # imported by this file
    assert not requires_import("misbehaving:Misbehaving-v0")
    assert requires_import("some_other_module:Env")
    assert requires_import("os:system")  # imported, and no environment
    assert requires_import("misbehaving:make_counter")


def test_trap_resume_bipedal_walker_whose_world_outlives_its_episodes_continues_bit_for_bit():
    # with Gymnasium's own reset this seed diverges after a restore that looks right: the world keeps its warm
    # starts
    env, again = make_env("BipedalWalker-v3", 2), make_env("BipedalWalker-v3", 2)
    actions = torch.rand(430, 2, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    env.reset(3)
    for action in actions[:130]:
        env.step(action)
    again.restore(env.snapshot())
    for action in actions[130:]:
        assert torch.equal(env.step(action).next_obs, again.step(action).next_obs)


def test_list_envs_has_native_ids_and_gymnasiums_by_namespace():
    known = list_envs()
    assert "CartPole-v1" in known["native"]
    assert "LunarLander-v3" in known["gymnasium"] and "HalfCheetah-v3" not in known["gymnasium"]
    assert "bellgrad/CartPole-v1" in known["bellgrad"]


def test_old_version_numbers_are_made_without_advice(recwarn):
    make_single("CartPole-v0")
    assert not recwarn.list


def test_names_are_resolved_without_torch():
    code = "import sys, bellgrad.envs.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
