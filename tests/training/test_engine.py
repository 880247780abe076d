"""The engine's rules, and what it does to a function."""

import json

import pytest
import torch

from bellgrad.core.errors import UsageError
from bellgrad.training import engine as engine_module
from bellgrad.training.engine import (
    COMPILE_FROM_UPDATES,
    EAGER_PART,
    LONG_RUN_UPDATES,
    LONG_RUN_UPDATES_PER_CALL,
    MOST_EAGER_UPDATES,
    THREADS_FROM_WORK,
    UPDATES_PER_CALL,
    Engine,
    choose_engine,
    compiler_available,
)

CPU = torch.device("cpu")


def choose(requested="auto", **changes):
    sizes = {"planned_updates": 1, "planned_steps": 100_000, "batch_size": 64, "parameters": 5_000}
    sizes |= {"busy_processes": 0, "device": CPU}
    return choose_engine(requested, **(sizes | changes))


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(engine_module, "compiler_available", lambda: True)


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(engine_module, "processors", lambda: 8)


def test_auto_compiles_from_a_fixed_number_of_updates_and_says_so(compiler):
    below, at = choose(planned_updates=COMPILE_FROM_UPDATES - 1), choose(planned_updates=COMPILE_FROM_UPDATES)
    assert (below.mode, at.mode) == ("eager", "compiled")
    assert (
        below.reason
        == f"eager: {COMPILE_FROM_UPDATES - 1:,} updates planned, fewer than {COMPILE_FROM_UPDATES:,}"
    )
    assert (
        at.reason == f"compiled: {COMPILE_FROM_UPDATES:,} updates planned, at least {COMPILE_FROM_UPDATES:,}"
    )


def test_only_a_long_run_pays_for_a_bigger_graph(compiler):
    below, at = choose(planned_updates=LONG_RUN_UPDATES - 1), choose(planned_updates=LONG_RUN_UPDATES)
    assert (below.updates_per_call, at.updates_per_call) == (UPDATES_PER_CALL, LONG_RUN_UPDATES_PER_CALL)


@pytest.mark.parametrize("requested", ["eager", "compiled"])
@pytest.mark.parametrize("updates", [1, 10**9])
def test_what_is_asked_for_is_given(compiler, requested, updates):
    chosen = choose(requested, planned_updates=updates)
    assert (chosen.mode, chosen.reason) == (requested, f"{requested}, as asked")


def test_without_a_compiler_auto_is_eager_and_says_so_in_one_line(no_compiler):
    assert not compiler_available()
    chosen = choose(planned_updates=10**9)
    assert chosen.mode == "eager"
    assert "no C++ compiler was found" in chosen.reason and "\n" not in chosen.reason


def test_without_a_compiler_compiled_is_refused_and_eager_is_not(no_compiler):
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler.*--engine eager"):
        choose("compiled")
    assert choose("eager").mode == "eager"


def test_the_compiler_named_by_cxx_counts(no_compiler, monkeypatch, tmp_path):
    own = tmp_path / "my-compiler"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", str(own))
    assert compiler_available()


def test_trap_thread_storms_small_work_has_one_thread_and_workers_are_counted(eight_cores):
    def threads(work, busy=0):
        return choose("eager", batch_size=1, parameters=work, busy_processes=busy).threads

    assert threads(THREADS_FROM_WORK - 1) == 1
    assert threads(THREADS_FROM_WORK) == 8
    assert threads(THREADS_FROM_WORK, busy=3) == 5
    assert threads(THREADS_FROM_WORK, busy=8) == threads(THREADS_FROM_WORK, busy=100) == 1
    assert choose("eager", batch_size=THREADS_FROM_WORK, parameters=1).threads == 8  # the product counts


def test_an_engine_is_written_and_read_as_json():
    engine = Engine("compiled", 2, 4, "as asked")
    assert Engine(**json.loads(json.dumps(engine.to_json()))) == engine


def test_starting_an_engine_sets_the_threads():
    before = torch.get_num_threads()
    try:
        Engine("eager", 2, 4, "").start()
        assert torch.get_num_threads() == 2
        Engine("eager", 1, 4, "").start()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_eager_functions_record_no_graph():
    weight = torch.ones(2, requires_grad=True)
    assert not Engine("eager", 1, 1, "").compile(lambda x: x * weight)(torch.ones(2)).requires_grad


def scaled(factor):
    return lambda x: x * factor


class Owner:
    def __init__(self, factor):
        self.factor = factor

    def scale(self, x):
        return x * self.factor


@pytest.mark.compiled
@pytest.mark.parametrize("make", [scaled, lambda factor: Owner(factor).scale], ids=["closure", "method"])
def test_compiled_functions_of_one_source_keep_their_own_constants(make):
    # Guards are skipped and Dynamo caches by code object: without code of its own the second function would
    # answer as the first.
    twice, thrice = (Engine("compiled", 1, 1, "").compile(make(factor)) for factor in (2.0, 3.0))
    x = torch.ones(2)
    for _ in range(2):
        assert twice(x).tolist() == [2.0, 2.0] and thrice(x).tolist() == [3.0, 3.0]
    assert not twice(torch.ones(2, requires_grad=True)).requires_grad


def test_a_run_is_eager_first_for_a_part_that_its_plan_decides(compiler):
    short = choose(planned_updates=50_000, planned_steps=60_000, begins=10_000)
    assert short.compiled_from == 10_000 + 50_000 // EAGER_PART
    long = choose(planned_updates=10**7, planned_steps=4 * 10**7)
    assert long.compiled_from == 4 * MOST_EAGER_UPDATES
    assert choose("compiled").compiled_from == choose("eager").compiled_from == choose().compiled_from == 0
    for engine, steps, native in (
        (short, 10_999, False),
        (short, 11_000, True),
        (choose("compiled"), 0, True),
    ):
        engine.reached(steps)
        assert engine.compilation.native == native
