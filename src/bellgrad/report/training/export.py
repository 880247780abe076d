"""A policy as one ONNX file that runs without Bellgrad and without torch."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from bellgrad.core.errors import UsageError, missing_extra
from bellgrad.core.tree import map_tree
from bellgrad.report.files import replacing

_LARGEST = 2**31 - 1  # bytes: a protobuf's limit, and weights are kept inside the file


def export_onnx(policy: nn.Module, example_obs: Tensor | dict[str, Tensor], out: Path) -> Path:
    """Write `policy` with all its parts (normalizer, network, action scaling) to one file.

    The graph has the input `obs [B, *O]`, or one input for each key of a dictionary, and the output `action`,
    all with a batch axis of any length. Modules are exported in evaluation mode; afterwards they are in their
    former mode. Nothing is printed.

    Args:
        policy: maps raw observations to the environment's own actions.
        example_obs: `[B, *O]`, or a dictionary of such tensors, of the dtype of later inputs (float32, int64,
            or uint8 for images); the values do not matter.
        out: a path that ends in `.onnx`.

    Returns:
        `out`.

    Raises:
        UsageError: `out` is not an ONNX file, the policy is too large for one or cannot be traced, or onnx or
            onnxscript is missing.
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
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        with replacing(out) as temporary, _quiet(), torch.no_grad():
            torch.onnx.export(
                policy,
                (example_obs, {}),  # a dictionary as the last argument would be read as keyword arguments
                temporary,
                dynamo=True,
                verbose=False,
                input_names=list(example_obs) if isinstance(example_obs, dict) else ["obs"],
                output_names=["action"],
                dynamic_shapes=(map_tree(lambda _: {0: torch.export.Dim("batch")}, example_obs),),
                external_data=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise UsageError(f"{type(policy).__name__} cannot be exported: {cause}") from error
    finally:
        for module, training in modes:
            module.training = training
    return out


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
