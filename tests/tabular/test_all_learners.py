"""What holds for every tabular learner: compiled and plain functions give the same bits, and so does a
resumed run."""

import shutil

import pytest
import torch

import bellgrad as bg
from bellgrad.core.registry import ALGORITHMS
from bellgrad.core.tree import leaves

LEARNERS = [name for name, target in ALGORITHMS.own.items() if target.startswith("bellgrad.tabular.")]


def train(folder, name, steps=1_500, **options):
    return bg.train(
        ALGORITHMS.find(name)(),
        "FrozenLake-v1",
        steps,
        out=folder,
        progress="off",
        eval_episodes=0,
        **options,
    )


def tables(run):
    return list(leaves(bg.load(run).state))


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", LEARNERS)
def test_compiled_and_plain_learners_give_the_same_finite_tables(name, tmp_path):
    compiled, plain = (
        tables(train(tmp_path / engine, name, engine=engine)) for engine in ("compiled", "eager")
    )
    assert same(compiled, plain)
    assert all(
        table.dtype in (torch.float64, torch.int64, torch.bool) and table.isfinite().all()
        for table in compiled
    )
    first = tables(train(tmp_path / "first", name, 1))
    # it learned something
    assert sum(not torch.equal(a, b) for a, b in zip(first, compiled, strict=True)) >= 2


@pytest.mark.parametrize("name", LEARNERS)
def test_a_run_that_is_resumed_within_an_episode_gives_the_same_bits(name, tmp_path):
    whole = train(tmp_path / "whole", name)
    part = train(tmp_path / "part", name)
    for step in part.folder.glob("checkpoints/step-*"):
        if int(step.name.removeprefix("step-")) > 1_200:
            shutil.rmtree(step)
    part.save_record(status="interrupted")
    assert same(tables(whole), tables(bg.resume(part, progress="off")))


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_can_be_evaluated(name, tmp_path):
    result = bg.evaluate(train(tmp_path / "run", name), episodes=3)
    assert result.episodes == 3 and 0 <= result.return_mean <= 1
