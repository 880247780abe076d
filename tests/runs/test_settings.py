"""Settings and algorithms as JSON and back; what is refused on the way, and when they are made."""

import json
import math
import sys

import pytest
from torch import nn

from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import BellgradError, CheckpointError, UsageError
from bellgrad.nets.specs import CNN, MLP
from bellgrad.ops.optim import SGD, Adam, AdamW, RMSprop
from bellgrad.presets import presets
from bellgrad.runs.settings import (
    ALGORITHMS,
    DEFAULT_NUM_ENVS,
    OPTIMIZERS,
    Settings,
    algorithm_from_json,
    algorithm_name,
    algorithm_to_json,
    find_algorithm,
)


class Net(nn.Module):
    """A user's network."""

    class Inner(nn.Module):
        """One inside another class."""


def through_json(data):
    return json.loads(json.dumps(data, allow_nan=False))


ODD_OPTIMIZERS = [
    Adam(beta1=0.7, beta2=0.9, epsilon=1e-3, weight_decay=0.1, amsgrad=True),
    AdamW(weight_decay=0.3),
    SGD(momentum=0.5, nesterov=True),
    RMSprop(decay=0.5, momentum=0.25, centered=True),
]
ROUND_TRIPS = [
    *(cls() for cls in ALGORITHMS.values()),
    *(preset.algorithm for name in ALGORITHMS for preset in presets(name).values()),
    *(DQN(optimizer=optimizer) for optimizer in ODD_OPTIMIZERS),
    DQN(network=CNN((4, 5), (3, 3), (2, 1), (7,), "silu", "torch"), max_grad_norm=None, max_grad_value=1.5),
    PPO(network=MLP((), "gelu"), value_clip=0.2, target_kl=0.01),
    SAC(target_entropy=-1.5, network=Net),
    DQN(network=Net.Inner),
]


@pytest.mark.parametrize("algorithm", ROUND_TRIPS, ids=lambda a: type(a).__name__)
def test_an_algorithm_comes_back_equal_from_json(algorithm):
    back = algorithm_from_json(through_json(algorithm_to_json(algorithm)))
    assert back == algorithm and type(back) is type(algorithm)
    for name in ("optimizer", "network"):  # tables have neither
        assert type(getattr(back, name, None)) is type(getattr(algorithm, name, None))
    assert hash(back) == hash(algorithm)


def test_every_kind_of_optimizer_is_tried():
    assert {type(optimizer) for optimizer in ODD_OPTIMIZERS} == set(OPTIMIZERS.values())


def test_names_are_those_of_the_command_line():
    for name, cls in ALGORITHMS.items():
        assert algorithm_name(cls()) == name and find_algorithm(name) is cls
    with pytest.raises(UsageError, match="unknown algorithm 'dqm'; did you mean dqn"):
        find_algorithm("dqm")


def test_a_network_of_code_that_nobody_imported_is_refused_without_trust():
    record = through_json(algorithm_to_json(DQN(network="unheard_of_module:Net")))
    with pytest.raises(UsageError, match="trust_imports"):
        algorithm_from_json(record)
    assert "unheard_of_module" not in sys.modules


def test_a_network_of_a_module_that_is_imported_is_found_by_its_name():
    record = algorithm_to_json(DQN(network=Net))
    assert record["fields"]["network"] == {"kind": "module", "name": f"{__name__}:Net"}


FOREIGN = {
    "no algorithm": lambda a: a.update(name="alphago"),
    "name of a wrong type": lambda a: a.update(name=["dqn"]),
    "no name": lambda a: a.pop("name"),
    "no fields": lambda a: a.pop("fields"),
    "fields of a wrong type": lambda a: a.update(fields=3),
    "a field of another algorithm": lambda a: a["fields"].update(clip_epsilon=0.2),
    "a field that is code": lambda a: a["fields"].update(__class__="os.system"),
    "no kind of optimizer": lambda a: a["fields"]["optimizer"].pop("kind"),
    "a foreign kind of optimizer": lambda a: a["fields"]["optimizer"].update(kind="os.system"),
    "a foreign field of an optimizer": lambda a: a["fields"]["optimizer"].update(rho=1),
    "an optimizer of a wrong type": lambda a: a["fields"].update(optimizer="adam"),
    "a foreign kind of network": lambda a: a["fields"]["network"].update(kind="pickle"),
    "a foreign field of a network": lambda a: a["fields"]["network"].update(rho=1),
    "a network of a wrong type": lambda a: a["fields"].update(network=[1, 2]),
    "a number of a wrong type": lambda a: a["fields"].update(gamma="high"),
    "a missing number": lambda a: a["fields"].update(gamma=None),
}


@pytest.mark.parametrize("damage", FOREIGN)
def test_a_foreign_or_damaged_algorithm_is_refused(damage):
    record = through_json(algorithm_to_json(DQN()))
    FOREIGN[damage](record)
    with pytest.raises((CheckpointError, UsageError)) as error:
        algorithm_from_json(record)
    assert "\n" not in str(error.value)
    if damage not in (
        "a number of a wrong type",
        "a missing number",
    ):  # those may be found where the field is checked
        assert error.type is CheckpointError


@pytest.mark.parametrize("record", [None, 3, "dqn", [], {}])
def test_what_is_no_algorithm_at_all_is_refused(record):
    with pytest.raises(CheckpointError, match="damaged or foreign"):
        algorithm_from_json(record)


def test_a_value_out_of_range_in_a_record_is_refused_as_it_is_anywhere():
    record = algorithm_to_json(DQN())
    record["fields"]["gamma"] = 7
    with pytest.raises(UsageError, match=r"DQN\.gamma = 7 is out of range"):
        algorithm_from_json(record)


# --------------------------------------------------------------------------------------------------- settings
FULL = Settings(
    PPO(epochs=3),
    "LunarLander-v3",
    steps=12_345,
    seed=7,
    num_envs=4,
    env_kwargs={"gravity": -5.0, "continuous": True},
    backend="subprocess",
    max_episode_steps=300,
    normalize_obs=True,
    normalize_reward=True,
    frame_stack=3,
    engine="eager",
    device="cpu",
    checkpoints=5,
    eval_episodes=20,
    target_return=200.5,
)


@pytest.mark.parametrize(
    "settings", [FULL, Settings(DQN(), "CartPole-v1", 100)], ids=["every field", "defaults"]
)
def test_settings_come_back_equal_from_json(settings):
    assert Settings.from_json(through_json(settings.to_json(settings.env))) == settings


def test_other_keys_of_a_run_are_left_alone_and_its_environment_is_named():
    record = Settings(DQN(), Net, 100).to_json("mine:Env") | {"format": 1, "status": "finished"}
    assert Settings.from_json(through_json(record)).env == "mine:Env"


@pytest.mark.parametrize("key", sorted(FULL.to_json("x")))
def test_a_record_without_one_of_its_keys_is_damaged(key):
    record = FULL.to_json("LunarLander-v3")
    del record[key]
    with pytest.raises(CheckpointError, match="damaged"):
        Settings.from_json(record)


@pytest.mark.parametrize("value", ["x", None, [], {}, 1.5, -1, True, math.nan], ids=repr)
@pytest.mark.parametrize("key", sorted(FULL.to_json("x")))
def test_no_value_in_a_record_gives_anything_but_settings_or_one_clear_line(key, value):
    record = FULL.to_json("LunarLander-v3") | {key: value}
    try:
        Settings.from_json(record)
    except BellgradError as error:
        assert str(error) and "\n" not in str(error)


def test_each_algorithm_has_its_usual_number_of_environments():
    for name, cls in ALGORITHMS.items():
        assert Settings(cls(), "CartPole-v1", 100).num_envs == DEFAULT_NUM_ENVS.get(
            name, getattr(cls(), "default_num_envs", 1)
        )
    assert Settings(PPO(), "CartPole-v1", 100, num_envs=3).num_envs == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "Settings.steps = 0 is out of range"),
        ({"steps": -5}, "Settings.steps"),
        ({"seed": -1}, "Settings.seed"),
        ({"seed": 2**63}, "Settings.seed"),
        ({"num_envs": 0}, "Settings.num_envs"),
        ({"frame_stack": 0}, "Settings.frame_stack"),
        ({"checkpoints": 0}, "Settings.checkpoints"),
        ({"eval_episodes": -1}, "Settings.eval_episodes"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"target_return": math.nan}, "target_return"),
        ({"target_return": 1.0, "eval_episodes": 0}, "a target return needs evaluations"),
        ({"engine": "compile"}, r"unknown .*engine 'compile'; did you mean compiled"),
        ({"backend": "gym"}, r"unknown .*backend 'gym'; did you mean gymnasium"),
        ({"device": "gpu"}, r"unknown .*device 'gpu'"),
        ({"algorithm": "dqn"}, "'dqn' is no algorithm"),
        ({"algorithm": DQN}, "is no algorithm"),
        ({"algorithm": "dqn", "num_envs": 2}, "'dqn' is no algorithm"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(change, words):
    with pytest.raises(UsageError, match=words):
        Settings(**({"algorithm": DQN(), "env": "CartPole-v1", "steps": 100} | change))


WRONG_TYPES = [
    (Settings, {"steps": "many"}),
    (Settings, {"steps": 10.5}),
    (Settings, {"seed": 1.5}),
    (Settings, {"num_envs": 2.5}),
    (Settings, {"normalize_obs": "no"}),
    (Settings, {"env_kwargs": 3}),
    (Settings, {"max_episode_steps": "x"}),
    (Settings, {"target_return": "x"}),
    (DQN, {"learning_rate": "x"}),
    (DQN, {"learning_rate": None}),
    (DQN, {"learning_rate": [1e-3]}),
    (DQN, {"batch_size": 3.5}),
    (DQN, {"double": "no"}),
    (DQN, {"max_grad_norm": "x"}),
    (DQN, {"optimizer": "adam"}),
    (DQN, {"optimizer": Adam}),
    (DQN, {"network": 3}),
    (PPO, {"rollout_steps": 3.5}),
    (PPO, {"minibatches": "4"}),
    (PPO, {"initial_log_std": "x"}),
    (SAC, {"batch_size": "64"}),
    (SAC, {"target_entropy": "auto"}),
    (SAC, {"learn_temperature": 3}),
    (Adam, {"beta1": "x"}),
]


def make(cls, change):
    required = {"algorithm": DQN(), "env": "CartPole-v1", "steps": 100} if cls is Settings else {}
    return cls(**(required | change))


@pytest.mark.parametrize(("cls", "change"), WRONG_TYPES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_value_of_a_wrong_type_is_the_users_mistake(cls, change):
    ((name, _),) = change.items()
    with pytest.raises(UsageError, match=name):
        make(cls, change)


@pytest.mark.parametrize(
    ("cls", "change"),
    [
        (DQN, {"loss": "absolute"}),
        (DQN, {"epsilon_decay": "cosine"}),
        (PPO, {"learning_rate_decay": "cosine"}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_word_that_is_no_choice_is_refused_and_does_not_stand_for_another(cls, change):
    ((name, _),) = change.items()
    with pytest.raises(UsageError, match=name):
        make(cls, change)


@pytest.mark.parametrize(
    ("cls", "change"),
    [
        (DQN, {"max_grad_norm": -1.0}),  # would turn every gradient round
        (DQN, {"max_grad_value": -1.0}),
        (PPO, {"max_grad_norm": -1.0}),
        (PPO, {"value_clip": -0.2}),
        (PPO, {"target_kl": -0.1}),
        (PPO, {"target_kl": math.nan}),
        (PPO, {"initial_log_std": math.nan}),
        (SAC, {"target_entropy": math.nan}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_optional_numbers_have_ranges_too(cls, change):
    ((name, _),) = change.items()
    with pytest.raises(UsageError, match=name):
        make(cls, change)


def test_whole_numbers_do_for_floats():
    assert DQN(learning_rate=1, gamma=0, max_grad_norm=5).gamma == 0
