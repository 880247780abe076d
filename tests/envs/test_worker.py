import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch
from misbehaving import Counter, Frames, Several, Strict

from bellgrad.core.errors import EnvironmentFault, UsageError
from bellgrad.core.tree import leaves
from bellgrad.envs.gym import GymEnv
from bellgrad.envs.names import make_single
from bellgrad.envs.worker import SubprocessEnv

HERE = str(Path(__file__).parent)


@pytest.fixture
def workers():
    """Makes environments in worker processes, closes them, and sees that no process stays."""
    made = []

    def make(env, num_envs=2, **kwargs):
        made.append(SubprocessEnv(env, num_envs, **kwargs))
        return made[-1]

    yield make
    pids = [worker.process.pid for env in made for worker in env._workers]
    for env in made:
        env.close()
        env.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def gone(pid, seconds=10.0):
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", ["LunarLander-v3", "Blackjack-v1"])
def test_workers_give_the_same_bits_as_one_process_and_restore_each_others_snapshots(workers, name):
    inside, outside = GymEnv(lambda: make_single(name), 3), workers(name, 3, workers=2)
    actions = torch.randint(2, (300, 3), generator=torch.Generator().manual_seed(0))
    assert same(inside.reset(4), outside.reset(4))
    for action in actions[:200]:
        assert same(inside.step(action), outside.step(action))
    saved = outside.snapshot()
    assert same(saved, inside.snapshot())
    ahead = [inside.step(action) for action in actions[200:]]
    outside.reset(0)
    inside.restore(saved)
    outside.restore(saved)
    for action, step in zip(actions[200:], ahead, strict=True):
        assert same(inside.step(action), step)
        assert same(outside.step(action), step)
    assert any(step.terminated.any() for step in ahead)


def test_several_choices_and_their_masks_pass_through_workers_bit_for_bit(workers):
    inside, outside = GymEnv(Several, 3), workers(Several, 3, workers=2)
    obs = inside.reset(4)
    assert same(obs, outside.reset(4))
    for _ in range(7):
        action = torch.stack([part.argmax(-1) for part in obs["action_mask"].split([3, 2], -1)], -1)
        step = inside.step(action)
        assert same(step, outside.step(action))
        obs = step.obs
    saved = outside.snapshot()
    assert same(saved, inside.snapshot()) and saved["action"].shape == (6, 1, 2)
    assert same(outside.restore(saved), obs)


def test_a_mask_that_allows_nothing_arrives_from_a_worker_in_words(workers):
    env = workers(Strict, 2, env_kwargs={"stuck": 0})
    with pytest.raises(EnvironmentFault, match="environment 0 allows no action"):
        env.reset(0)


def test_frames_come_through_shared_memory_as_private_copies(workers):
    env = workers(Frames, 2)
    first = env.reset(0)
    steps = [env.step(torch.ones(2, 4)) for _ in range(3)]
    assert first.dtype == torch.uint8 and first.max() == 0
    assert [step.next_obs.unique().tolist() for step in steps] == [[1], [2], [3]]
    assert steps[0].reward.tolist() == [4.0, 4.0]


def test_trap_a_dead_worker_is_named_with_its_environments_and_signal(workers):
    env = workers(Counter, 3, workers=2)
    env.reset(0)
    env.step(torch.zeros(3, dtype=torch.int64))
    os.kill(env._workers[0].process.pid, signal.SIGKILL)
    others = [worker.process.pid for worker in env._workers]
    with pytest.raises(EnvironmentFault, match="worker process of environments 0 to 1 was killed by SIGKILL"):
        for _ in range(3):
            env.step(torch.zeros(3, dtype=torch.int64))
    assert all(gone(pid) for pid in others)  # nobody is left to wait for
    with pytest.raises(EnvironmentFault, match="make it again"):
        env.reset(0)


def test_trap_a_dead_worker_is_named_with_its_exit_code(workers):
    env = workers("misbehaving:Counter", 1, env_kwargs={"fault": "exits", "at": 1})
    env.reset(0)
    with pytest.raises(EnvironmentFault, match="environment 0 ended with exit code 7"):
        env.step(torch.zeros(1, dtype=torch.int64))


def test_trap_a_hung_worker_does_not_hang_the_run(workers):
    env = workers(Counter, 2, timeout=2.0, env_kwargs={"fault": "hangs", "at": 2})
    env.reset(0)
    env.step(torch.zeros(2, dtype=torch.int64))
    pids = [worker.process.pid for worker in env._workers]
    started = time.monotonic()
    with pytest.raises(EnvironmentFault, match="environment 0 hung: no step was finished in 2 seconds"):
        env.step(torch.zeros(2, dtype=torch.int64))
    assert time.monotonic() - started < 10.0
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exits", "the worker process of environment 2 ended with exit code 7 in its step"),
        ("leaves", r"environment 2 ended the process in step\(1\): sys.exit\(\) \(.*misbehaving.py"),
        ("interrupts", r"environment 2 raised KeyboardInterrupt .* in step"),
    ],
)
def test_what_ends_a_worker_is_told_with_the_environment_and_the_call(workers, fault, words):
    env = workers(Counter, 3, workers=2, env_kwargs={"fault": fault, "at": 1})
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=words):
        env.step(torch.zeros(3, dtype=torch.int64), torch.tensor([False, False, True]))


def test_a_reset_may_take_ten_times_as_long_as_a_step(workers):
    env = workers("misbehaving:Slow", 1, timeout=0.3, env_kwargs={"seconds": 1.5})
    assert env.reset(0).shape == (1, 2)


def test_a_reset_that_hangs_is_told_with_the_setting(workers):
    env = workers("misbehaving:Slow", 1, timeout=0.1, env_kwargs={"seconds": 3600.0})
    words = r"environment 0 hung: no reset was finished in 1 seconds.*--worker-timeout \(now 0.1 for a step"
    with pytest.raises(EnvironmentFault, match=words):
        env.reset(0)


@pytest.mark.parametrize("closing", ["raises", "leaves"])
def test_a_fault_while_workers_close_is_told_and_no_process_stays(workers, closing):
    env = workers("misbehaving:Slow", 2, env_kwargs={"closing": closing})
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=r"environment 0 .* in close\(\)"):
        env.close()


def test_workers_whose_environments_have_other_spaces_are_refused():
    with pytest.raises(EnvironmentFault, match="must have the same spaces"):
        SubprocessEnv("misbehaving:Different", 2)


@pytest.mark.parametrize(
    ("fault", "words"), [("raises", "raised RuntimeError: the door is stuck"), ("nan", "the value nan")]
)
def test_an_environments_fault_arrives_in_words_and_the_workers_can_be_reset(workers, fault, words):
    env = workers(Counter, 2, env_kwargs={"fault": fault, "at": 2})
    env.reset(0)
    env.step(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        EnvironmentFault, match=rf"^environment 0 .*{words}.* at step 2 \(step 2 of episode 0\)$"
    ):
        env.step(torch.zeros(2, dtype=torch.int64))
    env.reset(0)
    assert env.step(torch.zeros(2, dtype=torch.int64)).next_obs[:, 0].tolist() == [1, 1]


def test_an_impossible_exact_resume_leaves_the_workers_usable(workers):
    env = workers(Counter, 2, env_kwargs={"fault": "unseeded"})
    env.reset(0)
    with pytest.raises(EnvironmentFault, match="exact resume is impossible"):
        env.restore(env.snapshot())
    assert env.reset(1).shape == (2, 2)


def test_what_a_worker_cannot_import_is_refused(workers):
    with pytest.raises(UsageError, match=r"cannot import .*lambda.* at the top of a module"):
        SubprocessEnv(lambda: Counter(), 1)
    with pytest.raises(UsageError, match="plain JSON"):
        SubprocessEnv(Counter, 1, env_kwargs={"length": (1, 2)})
    with pytest.raises(UsageError, match=r"workers = 3 is out of range"):
        SubprocessEnv(Counter, 2, workers=3)


PARENT = """
import sys, time, torch
sys.path.insert(0, {here!r})
from bellgrad.envs.worker import SubprocessEnv
env = SubprocessEnv("misbehaving:Counter", 2, env_kwargs={kwargs!r})
env.reset(0)
print(*[worker.process.pid for worker in env._workers], flush=True)
{end}
"""


def start_parent(end, **kwargs):
    """A script without `if __name__ == "__main__"` that owns workers; returns it and the workers' process
    ids."""
    code = textwrap.dedent(PARENT).format(here=HERE, end=end, kwargs=kwargs)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def test_no_orphans_after_the_parent_is_killed_even_while_an_environment_hangs():
    end = "env.step(torch.zeros(2, dtype=torch.int64))"
    parent, pids = start_parent(end, fault="hangs", at=1)
    assert len(pids) == 2
    time.sleep(0.5)  # let the step begin
    parent.kill()
    parent.wait()
    assert all(gone(pid) for pid in pids)


def test_no_orphans_after_the_parent_ends_without_closing():
    parent, pids = start_parent("")
    assert parent.wait(20) == 0
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
