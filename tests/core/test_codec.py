"""Frozen dataclasses as JSON and back: what survives, what older records look like, and what is refused."""

import json
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import nn

from bellgrad.core.codec import foreign, from_json, rewritten, to_json
from bellgrad.core.errors import BellgradError, CheckpointError, UsageError
from bellgrad.envs.images import FrameStack
from bellgrad.envs.transforms import ClipReward, NormalizeObs, Transform
from bellgrad.nets.specs import CNN, GRU, LSTM, MLP
from bellgrad.ops.optim import SGD, Adam, AdamW, RMSprop


class Net(nn.Module):
    class Inner(nn.Linear):
        pass


@dataclass(frozen=True)
class Leaf:
    size: int = 1


@dataclass(frozen=True)
class Tree:
    """Everything that can be recorded, nested."""

    number: float
    parts: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    leaf: Any = field(default_factory=Leaf)
    bound: Any = field(default=None, compare=False)  # known later; no part of what it is


@dataclass(frozen=True)
class Renamed:
    normalize: bool = field(default=True, metadata={"formerly": "normalise"})
    horizon: int = field(default=5, metadata={"absent": 1})
    added: str = "new"


@dataclass(frozen=True)
class Heir(Renamed):
    normalize: bool = False  # another default


@dataclass(frozen=True)
class OwnOptimizer:
    rate: float = 0.5

    def init(self, params):
        return {}

    def step(self, params, grads, state, learning_rate=None):
        return params, state


@dataclass(frozen=True)
class OwnTransform(Transform):
    shift: float = 0.5


@dataclass(frozen=True)
class OwnReplay:
    alpha: float = 0.6

    def allocate(self, spec, capacity, num_envs, device): ...
    def add(self, kept, transition): ...
    def noise(self, batch_size): ...
    def sample(self, kept, noise, gamma, steps): ...
    def feedback(self, kept, index, priority): ...
    def filled(self, kept): ...
    def restore_into(self, kept, shapes): ...


@dataclass
class Melting:
    size: int = 1


@dataclass(frozen=True)
class Clash:
    kind: str = "x"


@dataclass(frozen=True)
class Picky:
    size: int = 1

    def __post_init__(self):
        if self.size < 1:
            raise ZeroDivisionError("too small")


def through_json(value):
    return json.loads(json.dumps(to_json(value)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -1.5,
        math.inf,
        "a: b",
        (1, (2.0, None), ()),
        {"a": (1,), "b": {}},
        {"kind": "sgd", "x": 1},
        MLP((), "relu", "torch"),
        LSTM(),
        GRU(32, (), 8),
        CNN((8,), (3,), (1,), ()),
        Net,
        Net.Inner,
        Adam(beta1=0.7, amsgrad=True),
        AdamW(weight_decay=0.3),
        SGD(momentum=0.5, nesterov=True),
        RMSprop(centered=True),
        (NormalizeObs(), FrameStack(3), ClipReward(-2.0, 2.0)),
        Tree(1.5, (Leaf(2), Net, "x"), {"kind": Leaf(3)}, Tree(0.0, bound=object())),
        OwnOptimizer(2.0),
        OwnTransform(0.25),
        OwnReplay(0.5),
        Heir(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_equal(value):
    back = from_json(through_json(value))
    assert back == value and type(back) is type(value)


def test_not_a_number_comes_back_as_one():
    assert math.isnan(from_json(through_json((math.nan,)))[0])


def test_a_record_is_readable():
    assert to_json((SGD(), Net, Leaf())) == [
        {"kind": "sgd", "learning_rate": 0.001, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        {"kind": "module", "name": f"{__name__}:Net"},
        {"kind": f"{__name__}:Leaf", "size": 1},
    ]


def local():
    @dataclass(frozen=True)
    class Inside:
        pass

    return Inside()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], "cannot be recorded"),
        (Leaf, "cannot be recorded"),
        (Melting(), "cannot be recorded"),
        ({1: 2}, "cannot be recorded"),
        (local(), "Inside is defined inside a function; move it to the top of its file"),
        (type("L", (nn.Module,), {"__qualname__": "f.<locals>.L"}), "defined inside a function"),
        (Clash(), "a field of Clash may not be called 'kind'"),
    ],
    ids=str,
)
def test_what_could_not_be_read_again_is_not_written(value, words):
    with pytest.raises(UsageError, match=words):
        to_json(value)


# --------------------------------------------------------------------------------------------- older versions
def test_a_field_that_was_renamed_is_read_under_its_old_name_also_where_a_class_inherits_it():
    for cls in (Renamed, Heir):
        kind = f"{__name__}:{cls.__name__}"
        for value in (True, False):
            assert from_json({"kind": kind, "normalise": value, "horizon": 2}).normalize is value
    assert from_json({"kind": "mlp", "initialisation": "torch"}) == MLP(initialization="torch")


def test_a_field_that_a_record_lacks_is_what_it_was_before_there_was_one():
    assert from_json({"kind": f"{__name__}:Renamed"}) == Renamed(horizon=1, added="new")


def test_a_field_of_a_newer_version_is_told():
    with pytest.raises(CheckpointError, match="Leaf has no field 'colour': the record was made by a newer"):
        from_json({"kind": f"{__name__}:Leaf", "colour": 1})


def test_records_of_several_versions_are_rewritten_alike_and_what_cannot_be_read_stays():
    old = {"kind": "mlp", "hidden": [8], "activation": "relu", "initialisation": "torch"}
    assert rewritten([old]) == [to_json(MLP((8,), "relu", "torch"))]
    assert rewritten({"kind": "transformer"}) == {"kind": "transformer"}


# ---------------------------------------------------------------------------------------------- hostile input
@pytest.mark.parametrize(
    "data",
    [
        {"kind": "transformer"},
        {"kind": ["mlp"]},
        {"kind": None},
        {"kind": "mlp", "depth": 3},
        {"kind": "mlp", "hidden": [-1]},
        {"kind": "mlp", "activation": ["tanh"]},
        {"kind": "mlp", "__class__": "os"},
        {"kind": "module"},
        {"kind": "module", "name": "os"},
        {"kind": "module", "name": 3},
        {"kind": "module", "name": "os:system", "extra": 1},
        {"kind": "module", "name": "os:system"},
        {"kind": "module", "name": f"{__name__}:Leaf"},
        {"kind": "module", "name": f"{__name__}:Net.Missing"},
        {"kind": "module", "name": ":"},
        {"kind": "dict"},
        {"kind": "dict", "items": 3},
        {"kind": "os:system"},
        {"kind": "os:path.join"},
        {"kind": f"{__name__}:Melting"},
        {"kind": f"{__name__}:Net"},
        {"kind": f"{__name__}:Picky", "size": 0},
        {"kind": f"{__name__}:Tree"},
        {"kind": "adam", "beta1": {"kind": "mlp"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("trust", [False, True])
def test_a_damaged_record_is_refused_in_one_line(data, trust):
    with pytest.raises(CheckpointError) as error:
        from_json(data, trust)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "module", "name": "stranger:Net"},
        {"kind": "stranger:Leaf"},
        {"kind": "mlp", "hidden": [{"kind": "stranger:Leaf"}]},
        {"kind": "dict", "items": {"kind": {"kind": "stranger:Leaf"}}},
        {"a": "stranger:Net"},  # whoever takes the field may take its name for a class
        ["stranger:Net"],
    ],
    ids=str,
)
def test_code_that_nobody_imported_is_run_only_if_trusted(data, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(
        "from dataclasses import dataclass\nfrom torch import nn\nclass Net(nn.Linear):\n    pass\n"
        "@dataclass(frozen=True)\nclass Leaf:\n    size: int = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="--trust-imports"):
        from_json(data)
    assert "stranger" not in sys.modules
    assert set(foreign(data)) <= {"stranger:Net", "stranger:Leaf"} and any(foreign(data))
    try:
        from_json(data, trust_imports=True)
    except BellgradError as error:
        assert "MLP" in str(error)  # a network of leaves is none, and is found to be none
    finally:
        sys.modules.pop("stranger", None)


def test_looking_a_class_up_runs_no_code_of_a_lazy_module(monkeypatch):
    lazy = type(sys)("lazy_module")
    lazy.__getattr__ = lambda name: pytest.fail("a module's own __getattr__ was called")
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    with pytest.raises(CheckpointError, match="'lazy_module:Anything' is not a class"):
        from_json({"kind": "lazy_module:Anything"})


def test_a_class_of_a_script_is_found_in_that_script_only(monkeypatch):
    data = {"kind": "__main__:Leaf", "size": 3}
    with pytest.raises(UsageError, match="was defined in the script that made the run"):
        from_json(data, trust_imports=True)
    monkeypatch.setattr(sys.modules["__main__"], "Leaf", Leaf, raising=False)
    assert from_json(data) == Leaf(3)
