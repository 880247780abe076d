"""How names are found: Bellgrad's own, those of installed packages, and a user's own classes."""

import ast
import runpy
import subprocess
import sys
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path

import pytest
from torch import nn

import bellgrad
from bellgrad.core.errors import UsageError
from bellgrad.core.registry import (
    ALGORITHMS,
    DRIVERS,
    NETWORKS,
    OPTIMIZERS,
    PARTS,
    TRANSFORMS,
    Registry,
    is_frozen,
    take_names,
)
from bellgrad.nets.specs import GRU
from bellgrad.ops.optim import SGD, Adam
from bellgrad.presets import find_preset, presets

SOURCE = Path(bellgrad.__file__).parent


class Net(nn.Module):
    pass


@dataclass(frozen=True)
class Own:
    rate: float = 0.5

    def init(self, params):
        return {}

    def step(self, params, grads, state, learning_rate=None):
        return params, state


@dataclass
class Melting:
    init, step = Own.init, Own.step


# ----------------------------------------------------------------------------------------------------- names
def test_every_algorithm_declares_itself_in_its_own_file_and_once():
    declared = []
    for room in ("algos", "tabular"):
        for path in sorted((SOURCE / room).glob("*.py")):
            module = import_module(f"bellgrad.{room}.{path.stem}")
            there = getattr(module, "ALGORITHMS", {})
            declared += there
            for name, cls in there.items():
                assert ALGORITHMS.find(name) is getattr(module, cls)
                assert ALGORITHMS.name_of(getattr(module, cls)) == name
            built = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
            built = {cls for cls in built if "build" in vars(getattr(module, cls))}
            assert built <= set(there.values()), f"{path.name}: an algorithm is not declared"
    assert sorted(declared) == sorted(ALGORITHMS.own) and len(declared) == len(set(declared))


def test_names_come_by_room_and_then_by_letter():
    rooms = [target.split(".")[1] for target in ALGORITHMS.own.values()]
    assert rooms == sorted(rooms) and {"dqn", "sarsa_lambda"} <= set(ALGORITHMS.names())
    for room in ("algos", "tabular"):
        there = [name for name, target in ALGORITHMS.own.items() if f".{room}." in target]
        assert there == sorted(there)


def test_an_algorithms_line_in_a_list_is_the_first_of_its_docstring():
    assert ALGORITHMS.about("dqn") == "a deep Q-network, for discrete actions"


@pytest.mark.parametrize("registry", [ALGORITHMS, NETWORKS, OPTIMIZERS, DRIVERS], ids=lambda r: r.kind)
def test_every_name_leads_to_its_class_and_back(registry):
    for name in registry.names():
        cls = registry.find(name)
        assert registry.fits(cls) and registry.name_of(cls) == name and registry.find(cls) is cls


def test_no_two_parts_have_the_same_name():
    names = [name for registry in PARTS for name in registry.own]
    assert len(names) == len(set(names))


def test_looking_at_names_and_correcting_them_imports_nothing_heavy():
    script = (
        "import sys, bellgrad\nfrom bellgrad.cli import main\n"
        "assert main(['train', 'dqm']) == 2 and main(['list', 'algos']) == 0\n"
        "assert not {'torch', 'numpy', 'gymnasium', 'numba'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "error: unknown algorithm 'dqm'; did you mean dqn?\n" and "  sarsa " in done.stdout


@pytest.mark.parametrize(
    ("registry", "name", "words"),
    [
        (ALGORITHMS, "dqm", "unknown algorithm 'dqm'; did you mean dqn"),
        (TRANSFORMS, "gary", "did you mean gray"),
        (OPTIMIZERS, "no_such_module:Adam", "could not be imported: ModuleNotFoundError"),
        (OPTIMIZERS, "bellgrad.ops.optim:Adm", "did you mean Adam"),
        (OPTIMIZERS, "json:JSONDecoder", "not a frozen dataclass with init and step"),
        (NETWORKS, "json:dumps", "not a torch.nn.Module class, or a frozen dataclass with build"),
        (DRIVERS, 3, "driver 3 is not a"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(registry, name, words):
    with pytest.raises(UsageError, match=words) as error:
        registry.find(name)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------- objects
def test_names_in_the_fields_of_an_algorithm_become_objects():
    by_name = bellgrad.PPO(optimizer="sgd", network=f"{__name__}:Net")
    assert by_name == bellgrad.PPO(optimizer=SGD(), network=Net)
    assert bellgrad.A2C(network="gru").network == GRU()
    assert bellgrad.CEM(network=f"{__name__}:Net").network is Net
    assert bellgrad.DQN(optimizer=f"{__name__}:Own").optimizer == Own()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Adam, r"Adam is a class; give an instance: Adam\(\.\.\.\)"),
        (Melting(), r"Melting must be a frozen dataclass: write @dataclass\(frozen=True\)"),
        (object(), r"is not an optimizer: give Adam\(\.\.\.\)"),
        ("adma", "unknown optimizer 'adma'; did you mean adam"),
        (None, "None is not an optimizer"),
    ],
    ids=["class", "not frozen", "object", "misspelled", "none"],
)
def test_what_is_no_optimizer_is_refused_in_one_line(given, words):
    with pytest.raises(UsageError, match=words) as error:
        bellgrad.DQN(optimizer=given)
    assert "\n" not in str(error.value)


def test_a_class_that_fails_when_it_is_made_is_the_users_mistake():
    with pytest.raises(UsageError, match="transform 'frame_stack' could not be made"):
        TRANSFORMS.make("frame_stack", 1, 2, 3)


def test_a_users_own_class_is_called_by_its_module_and_a_local_one_cannot_be_called():
    assert OPTIMIZERS.name_of(Own) == f"{__name__}:Own"
    with pytest.raises(UsageError, match="defined inside a function; move it to the top of its file"):
        OPTIMIZERS.name_of(type("Local", (), {"__qualname__": "f.<locals>.Local"}))


def test_is_frozen_tells_frozen_dataclasses_from_all_else():
    assert is_frozen(Own) and not is_frozen(Melting) and not is_frozen(int) and not is_frozen(None)


def test_take_names_leaves_objects_alone():
    @dataclass(frozen=True)
    class Holder:
        optimizer: object = "adam"
        other: object = "adam"

        def __post_init__(self):
            take_names(self, optimizer=OPTIMIZERS)

    assert [getattr(Holder(), f.name) for f in fields(Holder)] == [Adam(), "adam"]
    assert Holder(optimizer=Own(2.0)).optimizer == Own(2.0)


# ----------------------------------------------------------------------------------------- installed packages
@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution with an optimizer, a wrong claim to `adam`, and a name for something else."""
    (tmp_path / "plugged.py").write_text(
        "from tests_own import Own\nclass Plugged(Own):\n    'Hyper-parameters of a plugged optimizer.'\n"
    )
    (tmp_path / "tests_own.py").write_text(f"import sys\nOwn = sys.modules[{__name__!r}].Own\n")
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bellgrad.optimizers]\nplugged = plugged:Plugged\nadam = plugged:Plugged\nbroken = plugged:Missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("plugged", "tests_own"):
        sys.modules.pop(name, None)


@pytest.fixture
def optimizers(package):
    return Registry(OPTIMIZERS.kind, OPTIMIZERS.group, OPTIMIZERS.own, OPTIMIZERS.methods)


def test_an_installed_package_registers_names_that_are_imported_when_they_are_used(optimizers):
    assert {"adam", "plugged"} <= set(optimizers.names()) and "plugged" not in sys.modules
    cls = optimizers.find("plugged")
    assert cls.__module__ == "plugged" and optimizers.name_of(cls) == "plugged"
    assert optimizers.about("plugged") == "a plugged optimizer"
    with pytest.raises(UsageError, match="did you mean plugged"):
        optimizers.find("pluged")


def test_an_installed_package_cannot_take_over_a_name(optimizers, capsys):
    assert optimizers.find("adam") is Adam
    optimizers.names()
    assert capsys.readouterr().err == (
        "warning: the optimizer 'adam' of plugged:Plugged is ignored: the name is taken\n"
    )


def test_a_registered_name_that_leads_nowhere_is_told_when_it_is_used(optimizers):
    with pytest.raises(UsageError, match="unknown optimizer in module 'plugged' 'Missing'"):
        optimizers.find("broken")
    assert "unknown optimizer in module 'plugged'" in optimizers.about("broken")


# ------------------------------------------------------------------------------------- found through a name
def test_presets_are_found_by_the_algorithms_name(tmp_path, monkeypatch):
    assert "CartPole-v1" in presets("dqn") and presets("sarsa") == {}
    (tmp_path / "tuned.py").write_text(
        "import bellgrad as bg\nfrom bellgrad.presets import Preset\n"
        "class Mine(bg.DQN):\n    pass\n"
        "PRESETS = {'CartPole-v1': Preset(Mine(), num_envs=1, steps=100, source='mine')}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert find_preset("tuned:Mine", "CartPole-v1").source == "mine"
        assert presets(f"{__name__}:Untuned") == {}
        with pytest.raises(UsageError, match="did you mean CartPole-v1"):
            find_preset("tuned:Mine", "CartPole-v0")
    finally:
        sys.modules.pop("tuned", None)


class Untuned(bellgrad.DQN):
    pass


def test_a_new_page_of_an_algorithm_takes_its_place_in_the_navigation(tmp_path):
    path = SOURCE.parents[1] / "docs" / "navigation.py"
    (tmp_path / "algorithms").mkdir()
    for name in ("dqn", "sac", "sarsa", "essay"):
        (tmp_path / "algorithms" / f"{name}.md").write_text(f"# About {name}\n\nText.\n")
    networks, tables = [{"DQN": "algorithms/dqn.md"}], []
    nav = [{"Home": "index.md"}, {"Tabular learning": tables}, {"Algorithms on networks": networks}]
    runpy.run_path(str(path))["on_config"]({"nav": nav, "docs_dir": str(tmp_path)})
    assert tables == [{"About sarsa": "algorithms/sarsa.md"}]
    assert networks[1:] == [{"About essay": "algorithms/essay.md"}, {"About sac": "algorithms/sac.md"}]
