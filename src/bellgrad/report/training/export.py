"""A policy as one ONNX file that runs without Bellgrad and without torch."""

import contextlib
import io
import itertools
import logging
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bellgrad.core.errors import UsageError, missing_extra
from bellgrad.core.tree import Tree, leaves, map_tree
from bellgrad.report.files import replacing

OUTPUT = "action"
_LARGEST = 2**31 - 1  # bytes: a protobuf's limit, and weights are kept inside the file


class _Flat(nn.Module):
    """A policy whose observation comes in leaf by leaf, since the exporter names only tensors."""

    def __init__(self, policy: nn.Module, example_obs: Tree):
        super().__init__()
        self.policy, self._structure = policy, map_tree(lambda _: 0, example_obs)

    def forward(self, *parts: Tensor) -> Tensor:
        remaining = iter(parts)
        action: Tensor = self.policy(map_tree(lambda _: next(remaining), self._structure))
        return action


def input_names(obs: Tree) -> list[str]:
    """What the inputs of an exported policy are called, in the order of the observation's leaves.

    A single array is `obs`. A part of a Dict has its key, and a part within another part the keys on the way,
    joined by `_`. ONNX asks for identifiers: other characters become `_`; a name that is empty, begins with a
    digit or is the output's begins with `obs_`; of equal names the later ones end in `_2`, `_3`, ... Names
    that are fit stay as they are.
    """
    if isinstance(obs, Tensor):
        return ["obs"]
    wanted = ["_".join(path) for path in _paths(obs)]
    fit = [name for name in wanted if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name != OUTPUT]
    names: list[str] = []
    for name in wanted:
        if name not in fit or name in names:
            base = re.sub(r"\W", "_", name, flags=re.ASCII)
            base = base if re.match("[A-Za-z_]", base) and base != OUTPUT else f"obs_{base}"
            numbered = (f"{base}_{k}" if k > 1 else base for k in itertools.count(1))
            name = next(free for free in numbered if free not in names and free not in fit)
        names.append(name)
    return names


def _paths(obs: Tree) -> list[tuple[str, ...]]:
    if isinstance(obs, Tensor):
        return [()]
    parts = obs.items() if isinstance(obs, dict) else enumerate(obs)
    return [(str(key), *path) for key, part in parts for path in _paths(part)]


def export_onnx(policy: nn.Module, example_obs: Tree, out: Path) -> Path:
    """Write `policy` with all its parts (normalizer, network, action scaling) to one file.

    The graph has the input `obs [B, *O]`, or one input for each array of an observation that has several,
    named by `input_names`, and the output `action`, all with a batch axis of any length. Before it is called
    done, the file is opened and acts once, if ONNX Runtime is installed; otherwise it is only checked.
    Modules are exported in evaluation mode; afterwards they are in their former mode. Nothing is printed.

    Args:
        policy: maps raw observations to the environment's own actions.
        example_obs: `[B, *O]`, or a tree of such tensors, of the dtype of later inputs (float32, int64, or
            uint8 for images); the values do not matter.
        out: a path that ends in `.onnx`.

    Returns:
        `out`.

    Raises:
        UsageError: `out` is not an ONNX file, the policy is too large for one or cannot be traced, what was
            written does not act as the policy, or onnx or onnxscript is missing.
    """
    out = Path(out)
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"a policy is exported as .onnx, not {out.name!r}")
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise missing_extra(package, "onnx") from error
    tensors = [*policy.parameters(), *policy.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > _LARGEST:
        raise UsageError("the policy is larger than 2 GB, which is more than one ONNX file can hold")
    # A batch of one would become a constant of the graph.
    example_obs = map_tree(lambda x: torch.cat([x, x]) if len(x) < 2 else x, example_obs)
    parts, names = tuple(leaves(example_obs)), input_names(example_obs)
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        with replacing(out) as temporary, _quiet(), torch.no_grad():
            torch.onnx.export(
                _Flat(policy, example_obs),
                parts,
                temporary,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=[OUTPUT],
                dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in parts),),
                external_data=False,
            )
            _check_file(temporary, dict(zip(names, parts, strict=True)), policy(example_obs))
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise UsageError(f"{type(policy).__name__} cannot be exported: {cause}") from error
    finally:
        for module, training in modes:
            module.training = training
    return out


def _check_file(path: Path, inputs: dict[str, Tensor], wanted: Tensor) -> None:
    """Open a file once and let it act on `inputs`.

    Raises:
        UsageError: it cannot be opened, or acts otherwise than `wanted`.
    """
    try:
        import onnxruntime
    except ImportError:
        onnxruntime = None
    try:
        if onnxruntime is None:
            import onnx

            onnx.checker.check_model(str(path), full_check=True)
            return
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (action,) = session.run([OUTPUT], {name: part.numpy(force=True) for name, part in inputs.items()})
    except Exception as error:  # whatever the two packages raise
        cause = str(error).strip().split("\n")[0]
        raise UsageError(f"the policy was exported, but the file cannot be opened: {cause}") from error
    expected = wanted.numpy(force=True)
    same = action.shape == expected.shape and action.dtype == expected.dtype
    if same and expected.dtype.kind == "f":
        largest = max(1.0, float(np.abs(expected).max()))  # of float32, whose products round otherwise there
        same = np.allclose(action, expected, rtol=1e-2, atol=1e-2 * largest, equal_nan=True)
    elif same:
        same = bool(
            (action == expected).any()
        )  # of nearly equal actions either may be the best after rounding
    if not same:
        raise UsageError(
            f"the policy was exported, but the file gives the actions {action.tolist()} in place of"
            f" {expected.tolist()}"
        )


@contextlib.contextmanager
def _quiet():
    """Keep the exporter's progress, warnings and logs away from the user's terminal; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
