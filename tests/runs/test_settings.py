"""Settings and algorithms as JSON and back; what is refused on the way, and when they are made."""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import nn

from bellgrad.algos.a2c import A2C
from bellgrad.algos.cma_es import CMAES
from bellgrad.algos.dqn import DQN
from bellgrad.algos.ppo import PPO
from bellgrad.algos.reinforce import REINFORCE
from bellgrad.algos.sac import SAC
from bellgrad.core.errors import BellgradError, CheckpointError, UsageError
from bellgrad.core.registry import ALGORITHMS, OPTIMIZERS
from bellgrad.envs.images import FrameStack, ImageLayout
from bellgrad.envs.transforms import ClipReward, NormalizeObs, NormalizeReward, Transform
from bellgrad.nets.specs import CNN, GRU, MLP
from bellgrad.ops.optim import SGD, Adam, AdamW, RMSprop
from bellgrad.presets import presets
from bellgrad.runs.settings import (
    Settings,
    algorithm_from_json,
    algorithm_name,
    algorithm_to_json,
    expanded,
    find_transforms,
    rewritten_record,
    settings_that_matter,
    shown_settings,
)
from bellgrad.tabular.q_learning import QLearning
from bellgrad.tabular.td import TD0


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
    *(ALGORITHMS.make(name) for name in ALGORITHMS.own),
    *(preset.algorithm for name in ALGORITHMS.own for preset in presets(name).values()),
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
    assert {OPTIMIZERS.name_of(type(optimizer)) for optimizer in ODD_OPTIMIZERS} == set(OPTIMIZERS.own)


def test_names_are_those_of_the_command_line():
    for name in ALGORITHMS.own:
        assert algorithm_name(ALGORITHMS.make(name)) == name


@dataclass(frozen=True)
class Own:
    """An algorithm of a user's own."""

    rate: float = 0.5

    def build(self, spec, steps=None):
        raise NotImplementedError


class OwnDQN(DQN):
    """Another learner with the same hyper-parameters."""


@dataclass
class Melting:
    def build(self, spec, steps=None):
        raise NotImplementedError


@dataclass(frozen=True)
class Idle:
    rate: float = 0.5


@pytest.mark.parametrize("algorithm", [Own(2.0), OwnDQN(gamma=0.5)], ids=repr)
def test_a_users_own_algorithm_is_recorded_by_its_module_and_class(algorithm):
    record = through_json(algorithm_to_json(algorithm))
    assert record["name"] == f"{__name__}:{type(algorithm).__name__}"
    back = algorithm_from_json(record)
    assert back == algorithm and type(back) is type(algorithm)


def test_an_algorithm_or_a_part_of_it_that_nobody_imported_is_refused_without_trust():
    record = through_json(algorithm_to_json(DQN()))
    for data in (
        {"name": "unheard_of_module:MyAlgorithm", "fields": {}},
        {"name": "dqn", "fields": {"network": {"kind": "module", "name": "unheard_of_module:Net"}}},
        {"name": "dqn", "fields": record["fields"] | {"network": "unheard_of_module:Net"}},
        {"name": "dqn", "fields": {"optimizer": {"kind": "unheard_of_module:Lion"}}},
    ):
        with pytest.raises(UsageError, match="trust_imports"):
            algorithm_from_json(data)
    assert "unheard_of_module" not in sys.modules


def test_a_record_cannot_make_an_algorithm_of_any_class_with_fields():
    for name in (f"{__name__}:Idle", "bellgrad.nets.specs:MLP", "os:system", f"{__name__}:Net"):
        with pytest.raises(CheckpointError):
            algorithm_from_json({"name": name, "fields": {}})


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
    "an optimizer of a wrong type": lambda a: a["fields"].update(optimizer="adma"),
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
    with pytest.raises(CheckpointError) as error:
        algorithm_from_json(record)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("record", [None, 3, "dqn", [], {}])
def test_what_is_no_algorithm_at_all_is_refused(record):
    with pytest.raises(CheckpointError, match="not the record of an algorithm"):
        algorithm_from_json(record)


def test_a_value_out_of_range_in_a_record_is_refused_as_it_is_anywhere():
    record = algorithm_to_json(DQN())
    record["fields"]["gamma"] = 7
    with pytest.raises(CheckpointError, match=r"DQN\.gamma = 7 is out of range"):
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
    transforms=(NormalizeObs(), FrameStack(3), ClipReward(-2.0, 2.0), NormalizeReward()),
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


@pytest.mark.parametrize("key", ["algorithm", "env", "steps"])
def test_a_record_without_what_every_run_needs_is_damaged(key):
    record = FULL.to_json("LunarLander-v3")
    del record[key]
    with pytest.raises(CheckpointError, match=f"damaged: it lacks {key}"):
        Settings.from_json(record)


def test_a_setting_that_a_record_lacks_is_at_its_default():
    record = {key: FULL.to_json("x")[key] for key in ("algorithm", "env", "steps")}
    assert Settings.from_json(through_json(record)) == Settings(FULL.algorithm, "x", FULL.steps)


@pytest.mark.parametrize("value", ["x", None, [], {}, 1.5, -1, True, math.nan], ids=repr)
@pytest.mark.parametrize("key", sorted(FULL.to_json("x")))
def test_no_value_in_a_record_gives_anything_but_settings_or_one_clear_line(key, value):
    record = FULL.to_json("LunarLander-v3") | {key: value}
    try:
        Settings.from_json(record)
    except BellgradError as error:
        assert str(error) and "\n" not in str(error)


def test_each_algorithm_has_its_usual_number_of_environments():
    usual = {name: Settings(ALGORITHMS.make(name), "CartPole-v1", 100).num_envs for name in ALGORITHMS.own}
    assert {name: usual[name] for name in ("dqn", "sac", "ppo", "reinforce", "sarsa")} == {
        "dqn": 1,
        "sac": 1,
        "ppo": 8,
        "reinforce": 8,
        "sarsa": 1,
    }
    assert usual["openai_es"] == ALGORITHMS.make("openai_es").population  # each candidate plays one episode
    assert Settings(Own(), "CartPole-v1", 100).num_envs == 1
    assert Settings(PPO(), "CartPole-v1", 100, num_envs=3).num_envs == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "Settings.steps = 0 is out of range"),
        ({"steps": -5}, "Settings.steps"),
        ({"seed": -1}, "Settings.seed"),
        ({"seed": 2**63}, "Settings.seed"),
        ({"num_envs": 0}, "Settings.num_envs"),
        ({"transforms": [FrameStack(2)]}, "Settings.transforms"),
        ({"transforms": ("frame_stack",)}, "'frame_stack' is not a transform"),
        ({"transforms": (FrameStack,)}, "FrameStack is a class; give an instance"),
        ({"checkpoints": 0}, "Settings.checkpoints"),
        ({"eval_episodes": -1}, "Settings.eval_episodes"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"target_return": math.nan}, "target_return"),
        ({"target_return": 1.0, "eval_episodes": 0}, "a target return needs evaluations"),
        ({"engine": "compile"}, r"unknown .*engine 'compile'; did you mean compiled"),
        ({"backend": "gym"}, r"unknown .*backend 'gym'; did you mean gymnasium"),
        ({"device": "gpu"}, r"unknown .*device 'gpu'"),
        ({"algorithm": "dqn"}, "'dqn' is not an algorithm"),
        ({"algorithm": DQN}, r"DQN is a class; give an instance: DQN\(\.\.\.\)"),
        ({"algorithm": Melting()}, r"Melting must be a frozen dataclass: write @dataclass\(frozen=True\)"),
        ({"algorithm": Idle()}, "Idle.* is not an algorithm: .* a frozen dataclass with build"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(change, words):
    with pytest.raises(UsageError, match=words):
        Settings(**({"algorithm": DQN(), "env": "CartPole-v1", "steps": 100} | change))


# ------------------------------------------------------------------------------------------------- transforms
@dataclass(frozen=True)
class Shift(Transform):
    """A transform of a user's own."""

    by: float = 1.0
    gamma: float | None = None


STACK = [NormalizeObs(), FrameStack(4), NormalizeReward()]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (STACK, tuple(STACK)),
        (["normalize_obs", "frame_stack:4", "normalize_reward"], tuple(STACK)),
        (("clip_reward:-2:0.5",), (ClipReward(-2, 0.5),)),
        (["image_layout:first"], (ImageLayout("first"),)),
        ([f"{__name__}:Shift"], (Shift(),)),
        ([f"{__name__}:Shift:3"], (Shift(3),)),
        ([], ()),
    ],
    ids=str,
)
def test_transforms_are_found_by_name_or_are_the_objects_themselves(given, made):
    assert find_transforms(given) == made


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["frame_stak:4"], "unknown transform 'frame_stak'; did you mean frame_stack"),
        (["frame_stack:four"], "after the name of a transform come numbers"),
        (["image_layout:middle"], "unknown ImageLayout.channels 'middle'; known: first, last"),
        (["rescale_reward:first"], "after the name of a transform come numbers"),
        (["frame_stack:0"], r"FrameStack\.n = 0 is out of range"),
        (["frame_stack:1:2:3"], "'frame_stack' could not be made"),
        (["json:JSONDecoder"], "is not a frozen dataclass with"),
        ("normalize_obs", "must be a list of transforms"),
        (3, "must be a list of transforms"),
        ([FrameStack], "is a class; give an instance"),
        ([1.5], "is not a transform"),
    ],
    ids=str,
)
def test_what_is_no_transform_is_refused_in_one_line(given, words):
    with pytest.raises(UsageError, match=words) as error:
        find_transforms(given)
    assert "\n" not in str(error.value)


def test_the_shorthand_stands_for_transforms_in_a_fixed_order():
    assert expanded({"normalize_reward": True, "frame_stack": 4, "normalize_obs": True, "seed": 1}) == {
        "seed": 1,
        "transforms": tuple(STACK),
    }
    assert expanded({"normalize_obs": False, "frame_stack": 1}) == {}
    assert expanded({"transforms": ["gray"][:0], "normalize_obs": True}) == {"transforms": (NormalizeObs(),)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transforms": [FrameStack(2)], "normalize_obs": True}, "not both"),
        ({"frame_stack": 0}, r"frame_stack = 0 is out of range \[1, 1000\]"),
        ({"frame_stack": True}, "frame_stack = True is out of range"),
        ({"frame_stack": 2.0}, "frame_stack = 2.0 is out of range"),
        ({"normalize_obs": "no"}, "normalize_obs = 'no' must be True or False"),
    ],
    ids=str,
)
def test_shorthand_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        expanded(options)


def test_a_transform_without_a_discount_takes_that_of_the_algorithm():
    given = (NormalizeReward(), Shift(), NormalizeReward(0.5))
    settings = Settings(DQN(gamma=0.9), "CartPole-v1", 100, transforms=given)
    assert [transform.gamma for transform in settings.filled_transforms()] == [0.9, 0.9, 0.5]
    assert settings.transforms == given
    with pytest.raises(UsageError, match=r"normalize_reward scales by .*Own has no discount"):
        Settings(Own(), "CartPole-v1", 100, transforms=(NormalizeReward(),))


def test_hostile_transforms_in_a_record_are_refused():
    record = FULL.to_json("x")
    for value in (["stranger:T"], [{"kind": "stranger:T"}]):
        with pytest.raises(UsageError, match="--trust-imports"):
            Settings.from_json(record | {"transforms": value})
    for value in (["gray"], 3, [{"kind": "adam"}], [{"kind": "frame_stack", "m": 3}], {"kind": "mlp"}):
        with pytest.raises(BellgradError):
            Settings.from_json(record | {"transforms": value})
    assert "stranger" not in sys.modules


# --------------------------------------------------------------------------------------------- older versions
# Written by the commit "The speed page says which engine its figures are of", in another spelling.
OLDER = json.loads((Path(__file__).parent / "older_records.json").read_text())


@pytest.mark.parametrize("name", OLDER["algorithms"])
def test_an_algorithm_of_an_older_version_is_read_as_it_was(name):
    record = OLDER["algorithms"][name]
    assert algorithm_from_json(record) == ALGORITHMS.make(name)
    assert rewritten_record({"algorithm": record})["algorithm"] == through_json(
        algorithm_to_json(ALGORITHMS.make(name))
    )


PLAIN = "CartPole-v1"
AS_TODAY = {
    "ppo": Settings(
        PPO(normalize_advantages=False, network=MLP((8,), initialization="torch")),
        PLAIN,
        100,
        transforms=(NormalizeObs(), FrameStack(3), NormalizeReward()),
    ),
    "a2c": Settings(A2C(network=GRU(8)), PLAIN, 100, transforms=(NormalizeReward(),)),
    "reinforce": Settings(REINFORCE(normalize_advantages=False), PLAIN, 100, transforms=(FrameStack(2),)),
    "dqn": Settings(DQN(network=CNN(initialization="torch"), optimizer=RMSprop(centered=True)), PLAIN, 100),
    "cma_es": Settings(CMAES(), PLAIN, 100, transforms=(NormalizeObs(),)),
    "q_learning": Settings(QLearning(), PLAIN, 100, bins=(6, 6, 12, 12)),
    "td_0": Settings(TD0(policy=((0.5, 0.5),)), "FrozenLake-v1", 100),
}


@pytest.mark.parametrize("name", OLDER["settings"])
def test_settings_of_an_older_version_are_read_as_they_were(name):
    old, today = OLDER["settings"][name], AS_TODAY[name]
    assert Settings.from_json(old) == today
    new = through_json(today.to_json(today.env))
    assert settings_that_matter(old) == settings_that_matter(new)
    assert shown_settings(old) == shown_settings(new)


def test_what_matters_is_all_but_how_and_how_often_a_run_is_looked_at():
    record = through_json(FULL.to_json("LunarLander-v3")) | {"status": "finished"}
    assert record.keys() - settings_that_matter(record).keys() == {
        "seed",
        "engine",
        "device",
        "checkpoints",
        "eval_episodes",
        "worker_timeout",
        "status",
    }
    other = replace(FULL, seed=8, engine="auto", device="auto", checkpoints=1, eval_episodes=1)
    assert settings_that_matter(through_json(other.to_json("LunarLander-v3"))) == settings_that_matter(record)
    turned = FULL.transforms[::-1]
    for change in ({"bins": (3,)}, {"backend": "auto"}, {"tilings": 2}, {"transforms": turned}):
        changed = through_json(replace(FULL, **change).to_json("LunarLander-v3"))
        assert settings_that_matter(changed) != settings_that_matter(record)


def test_what_a_record_lacks_matters_at_its_default():
    record = through_json(Settings(DQN(), "CartPole-v1", 100).to_json("CartPole-v1"))
    short = {key: record[key] for key in ("algorithm", "env", "steps", "num_envs")}
    assert settings_that_matter(short) == settings_that_matter(record)


def test_what_is_shown_of_a_run():
    record = through_json(FULL.to_json("LunarLander-v3"))
    record |= {"engine_used": {"mode": "compiled"}, "device_used": "cpu"}
    assert shown_settings(record) == [
        ("environment", "LunarLander-v3"),
        ("planned steps", 12_345),
        ("seed", 7),
        ("parallel environments", 4),
        ("gravity", -5.0),
        ("continuous", True),
        ("backend", "subprocess"),
        ("time limit in steps", 300),
        ("transforms", record["transforms"]),
        ("engine", "compiled"),
        ("device", "cpu"),
        ("target return", 200.5),
    ]
    short = Settings(DQN(), "CartPole-v1", 100).to_json("CartPole-v1")
    assert [label for label, _ in shown_settings(short)] == [
        "environment",
        "planned steps",
        "seed",
        "parallel environments",
        "engine",
        "device",
    ]


def test_an_experiment_of_code_that_is_not_here_can_still_be_compared():
    record = through_json(Settings(DQN(), "CartPole-v1", 100).to_json("CartPole-v1"))
    record["algorithm"] = {"name": "elsewhere:Algorithm", "fields": {"rate": 1}}
    record["transforms"] = [{"kind": "elsewhere:T", "by": 2}]
    assert settings_that_matter(record)["algorithm"] == record["algorithm"]
    assert ("transforms", record["transforms"]) in shown_settings(record)


def test_every_field_is_declared_with_what_it_is():
    for name, f in Settings.__dataclass_fields__.items():
        assert f.metadata["about"] and not f.metadata["about"].endswith("."), name
        assert isinstance(f.metadata["matters"], bool)


# ----------------------------------------------------------------------------------------------- wrong values
WRONG_TYPES = [
    (Settings, {"steps": "many"}),
    (Settings, {"steps": 10.5}),
    (Settings, {"seed": 1.5}),
    (Settings, {"num_envs": 2.5}),
    (Settings, {"env_kwargs": 3}),
    (Settings, {"max_episode_steps": "x"}),
    (Settings, {"target_return": "x"}),
    (DQN, {"learning_rate": "x"}),
    (DQN, {"learning_rate": None}),
    (DQN, {"learning_rate": [1e-3]}),
    (DQN, {"batch_size": 3.5}),
    (DQN, {"double": "no"}),
    (DQN, {"max_grad_norm": "x"}),
    (DQN, {"optimizer": "adma"}),
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


def test_a_run_that_was_extended_is_an_experiment_of_its_own():
    record = Settings(DQN(), "CartPole-v1", 200).to_json("CartPole-v1")
    whole = settings_that_matter(record | {"horizon": 200})
    assert whole == settings_that_matter(record)
    assert settings_that_matter(record | {"horizon": 100}) == whole | {"horizon": 100}
