"""Capturing: which operations a function is, and that numbers of a configuration are its inputs."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import bellgrad as bg
from bellgrad.core.registry import DRIVERS
from bellgrad.core.rng import draw
from bellgrad.core.tree import leaves, map_tree
from bellgrad.graphs.capture import capture
from bellgrad.graphs.structure import builder, flattener
from bellgrad.runs.settings import Settings
from bellgrad.training.assembly import make_run_env
from bellgrad.training.engine import Engine

CPU = torch.device("cpu")
NETWORK = bg.MLP((8,))


def run_text(graph, args):
    """What the captured text makes of arguments."""
    names = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(graph.text, names)
    with torch.no_grad():
        return graph.build(names["forward"](None, *graph.flatten(args), *graph.further))


@dataclass(frozen=True)
class Inner:
    rate: float = 0.25
    count: int = 3


@dataclass(frozen=True)
class Config:
    scale: float = 0.5
    limit: float | None = None
    inner: Inner = Inner()


class Owner:
    """Has numbers as a learner has them."""

    def __init__(self, config, body):
        self.learner, self.config, self._body = self, config, body
        self.table = torch.arange(3.0)

    def run(self, x):
        return self._body(self, x)


def captured(body, config=Config(), x=None):
    owner, args = Owner(config, body), (torch.tensor([1.0, 2.0, -3.0]) if x is None else x,)
    return capture(owner.run, args), owner.run(*args), args


def equal(graph, expected, args):
    found = run_text(graph, args)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    return torch.allclose(found, expected, rtol=1e-6, atol=0)


BODIES = {
    "product": lambda o, x: x * o.config.scale,
    "difference": lambda o, x: (1 - o.config.scale) * x - o.config.inner.rate,
    "power": lambda o, x: x.abs() ** o.config.scale,
    "lerp": lambda o, x: torch.lerp(x, o.table, o.config.scale),
    "clamp": lambda o, x: x.clamp(1 - o.config.inner.rate, 1 + o.config.scale),
    "where": lambda o, x: torch.where(x > 0, x, o.config.scale),
    "flags": lambda o, x: o.config.scale * (x > 0),
    "whole numbers": lambda o, x: x.long() * o.config.scale,
    "double": lambda o, x: x.double() * o.config.scale,
    "no axes": lambda o, x: x.sum() * o.config.scale,
    "numbers only": lambda o, x: x / (1 - o.config.scale**o.config.inner.count),
    "gradient": lambda o, x: torch.func.grad(lambda y: (y * y * o.config.scale).sum())(x),
    "rows": lambda o, x: torch.func.vmap(lambda y: y * o.config.scale + o.config.inner.rate)(x),
    "in a list": lambda o, x: torch.stack([x.sum(), x.sum() * o.config.inner.rate]),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_numbers_are_inputs_and_count_as_python_floats(body):
    graph, expected, args = captured(body)
    assert equal(graph, expected, args)
    other, expected, args = captured(body, Config(0.125, None, Inner(0.75)))
    assert equal(other, expected, args)
    assert other.text == graph.text and other.key() == graph.key()


PARTS_OF_THE_GRAPH = {
    "a comparison": lambda o, x: x * 2 if o.config.scale > 0.3 else x,
    "equality": lambda o, x: x if o.config.scale == 0.5 else x * o.config.scale,
    "a logarithm of Python's": lambda o, x: x * math.log(o.config.scale),
    "a fill": lambda o, x: torch.full_like(x, o.config.scale),
    "a text": lambda o, x: x * float(f"{float(o.config.scale):.3f}"),
}


@pytest.mark.parametrize("body", PARTS_OF_THE_GRAPH.values(), ids=PARTS_OF_THE_GRAPH)
def test_a_value_that_python_needs_is_a_part_of_the_graph(body):
    graph, expected, args = captured(body)
    assert equal(graph, expected, args)
    other, expected, args = captured(body, Config(0.125))
    assert equal(other, expected, args)
    assert other.key() != graph.key()


def test_none_and_counts_are_a_part_of_the_graph():
    def body(owner, x):
        c = owner.config
        return x * c.inner.count if c.limit is None else x.clamp(max=c.limit)

    keys = {captured(body, c)[0].key() for c in (Config(), Config(limit=1.0), Config(inner=Inner(count=4)))}
    assert len(keys) == 3
    assert captured(body, Config(limit=1.0))[0].key() == captured(body, Config(limit=2.0))[0].key()


def test_the_configuration_is_as_before():
    config = Config()
    captured(BODIES["difference"], config)
    assert config == Config() and type(config.scale) is float and type(config.inner.rate) is float


def test_what_an_object_holds_is_an_input():
    graph, expected, args = captured(lambda o, x: x + o.table * o.table.sum())
    assert equal(graph, expected, args)
    assert [tensor.tolist() for tensor in graph.further] == [[0.0, 1.0, 2.0]]


def test_arguments_are_changed_in_place_and_not_while_capturing():
    def add(total, x):
        total.add_(x)
        return total * 2

    args = (torch.zeros(2), torch.ones(2))
    graph = capture(add, args)
    assert args[0].tolist() == [0.0, 0.0]
    assert run_text(graph, args).tolist() == [2.0, 2.0]
    assert args[0].tolist() == [1.0, 1.0]


def test_a_tensor_that_is_given_twice_is_two_inputs():
    def subtract(a, b):
        return a - b

    same = torch.ones(2)
    graph = capture(subtract, (same, same))
    assert run_text(graph, (torch.tensor([5.0, 5.0]), torch.tensor([2.0, 2.0]))).tolist() == [3.0, 3.0]


def test_a_function_that_looks_into_a_tensor_cannot_be_captured():
    for body in (lambda x: x * 2 if x.sum() > 0 else x, lambda x: x * x.sum().item()):
        with pytest.raises(Exception, match=r"."):
            capture(body, (torch.ones(2),))


class Pair(NamedTuple):
    left: Tensor
    right: dict


def test_structure_is_kept():
    tree = (Pair(torch.ones(1), {"a/b": torch.ones(2), 'it\'s "x"': None}), [torch.ones(3)], (), None, {})
    tensors = flattener(tree)(tree)
    assert [len(tensor) for tensor in tensors] == [1, 2, 3]
    rebuilt = builder(tree)(tensors)
    assert repr(rebuilt) == repr(tree) and type(rebuilt[0]) is Pair
    assert all(a is b for a, b in zip(leaves(rebuilt), leaves(tree), strict=True))


def driver_of(algorithm, env):
    settings = Settings(algorithm, env, steps=4_000, num_envs=2)
    made = make_run_env(settings, CPU)
    learner = algorithm.build(made.spec, steps=4_000)
    engine = Engine("eager", 1, 2, "")
    return DRIVERS.find(learner.driver)(learner, made, engine, 0, CPU, total=4_000)


def cycles(driver):
    """The call of an off-policy driver, and its arguments."""
    while driver._warming_up:
        driver.advance()
    noise = {
        "actor": driver.actor.draw(driver._cycles, driver._iterations),
        "updates": driver._draw_updates(driver._cycles, driver._chunk),
    }
    return driver.run_cycles, (driver.state, driver.actor.state, driver.kept, noise)


def updates(driver):
    """The updates of an on-policy driver, and their arguments."""
    with torch.no_grad():
        state, _, part, _ = driver.collect(
            driver.state, driver.actor.state, driver.actor.draw(driver.learner.config.rollout_steps)
        )
        state, whole, _ = driver.prepare(state, part, driver._draw_prepare())
    index = torch.arange(driver._rows).view(1, -1)
    return driver.run_updates, (state, whole, index, draw(driver.learner.update_noise(), None, 1))


OFF_POLICY = {"learning_starts": 8, "batch_size": 4, "buffer_size": 64, "network": NETWORK}
SWEEPS = {
    "dqn": (
        bg.DQN(**OFF_POLICY, tau=0.5, max_grad_norm=1.0),
        "CartPole-v1",
        cycles,
        {
            "learning_rate": (1e-3, 4e-4, 1.0),
            "gamma": (0.5, 0.9, 0.99),
            "tau": (0.1, 0.9),
            "max_grad_norm": (0.5, 10.0),
            "epsilon_final": (0.1, 0.2),
            "optimizer": (bg.Adam(beta2=0.9), bg.Adam(epsilon=1e-5)),
        },
    ),
    "sac": (
        bg.SAC(**OFF_POLICY),
        "Pendulum-v1",
        cycles,
        {"learning_rate": (1e-3, 4e-4, 5e-5), "gamma": (0.5, 0.9), "tau": (0.1, 0.2, 0.9)},
    ),
    "ppo": (
        bg.PPO(network=NETWORK, rollout_steps=8, minibatches=1, epochs=1),
        "CartPole-v1",
        updates,
        {
            "learning_rate": (1e-3, 4e-4),
            "gamma": (0.5, 0.9),
            "clip_epsilon": (0.1, 0.3),
            "entropy_coef": (0.01, 0.02),
            "lambda_": (0.5, 0.9),
        },
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_runs_that_differ_in_numbers_share_one_graph(name):
    algorithm, env, call, grid = SWEEPS[name]
    if name == "ppo":
        algorithm = replace(algorithm, entropy_coef=0.05)
    variants = [algorithm] + [
        replace(algorithm, **{field: value}) for field, values in grid.items() for value in values
    ]
    graphs = {capture(*call(driver_of(variant, env))).key() for variant in variants}
    assert len(variants) > 7 and len(graphs) == 1


def test_the_graph_of_a_driver_gives_what_the_driver_gives():
    fn, args = cycles(driver_of(SWEEPS["dqn"][0], "CartPole-v1"))
    twin = map_tree(torch.clone, args)
    found = run_text(capture(fn, args), args)
    with torch.no_grad():
        expected = fn(*twin)
    for a, b in zip(leaves((found, args[2])), leaves((expected, twin[2])), strict=True):
        rows = int(args[2].size) if a.shape[:1] == args[2].reward.shape else None  # what was written
        torch.testing.assert_close(a[:rows] if rows else a, b[:rows] if rows else b)
