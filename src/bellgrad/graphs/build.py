"""A process of its own that compiles captured functions: `python build.py`.

It reads orders on its standard input, a line each: the path of a JSON file. It answers each with a line of
JSON on its standard output. So the compiler's memory is not the run's, and the run goes on meanwhile. It
imports nothing of Bellgrad, so that it starts quickly, and it ends, with every compiler that it started, when
its input ends or its parent does.

An order: `key`; `text` and `inputs` of a `Graph`; `threads`; `compiler`, or null for torch's own; `folder`,
for the files between; `into`, the folder of the library `KEY-DIGEST.so`, with the first 16 digits of its own
SHA-256. The answer: `key`; `seconds` and `cpu_seconds`; `error`, null or what went wrong.
"""

import contextlib
import hashlib
import json
import math
import os
import resource
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

WATCH = 0.3  # seconds between looks at the parent


def main() -> None:
    """Answer orders until there are no more."""
    orders, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the compilers say does not belong between the answers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for line in orders:
        order = json.loads(Path(line.rstrip("\n")).read_text())
        began, cpu, error = time.perf_counter(), _cpu_seconds(), None
        try:
            _build(order)
        except Exception as failure:  # whatever a compiler, a disk or a path can do
            error = {"line": first_line(failure), "whole": "".join(traceback.format_exception(failure))}
        seconds = time.perf_counter() - began
        answer = {
            "key": order["key"], "seconds": seconds, "cpu_seconds": _cpu_seconds() - cpu, "error": error
        }  # fmt: skip
        print(json.dumps(answer), file=answers, flush=True)


def _end_with(parent: int) -> None:
    """End this process and its children when the parent has ended."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _build(order: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(dir=order["folder"]) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        made = compile_graph(order["text"], order["inputs"], order["threads"], order["compiler"])
        code = Path(made).read_bytes()
        library = Path(order["into"]) / library_name(order["key"], code)
        temporary = library.with_name(f".tmp-{library.name}-{os.getpid()}")
        try:
            temporary.write_bytes(code)
            os.replace(temporary, library)
        finally:
            temporary.unlink(missing_ok=True)


def library_name(key: str, code: bytes) -> str:
    """What a library is called; a damaged one has another name."""
    return f"{key}-{hashlib.sha256(code).hexdigest()[:16]}.so"


def compile_graph(text: str, inputs: list[Any], threads: int, compiler: str | None) -> str:
    """Compile the text of a `Graph`; returns the path of a library, in torch's cache folder."""
    import torch
    from torch import fx, nn
    from torch._inductor import aot_compile, config, cpu_vec_isa
    from torch._inductor.exc import CppCompileError
    from torch._subclasses import FakeTensorMode

    _quote_library_folders()
    _leave_out_checks()
    torch.set_num_threads(threads)  # compiled code has the count built in
    names = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(text, names)
    module = fx.symbolic_trace(type("Captured", (nn.Module,), {"forward": names["forward"]})())
    with FakeTensorMode(allow_non_fake_inputs=True):
        given = tuple(
            torch.empty_strided(shape, stride, dtype=getattr(torch, dtype)) for shape, stride, dtype in inputs
        )
    options: dict[str, Any] = {
        "size_asserts": False,
        "aot_inductor.precompile_headers": False,
        "aot_inductor.enable_line_tables": False,
    }
    if compiler is not None:
        options["cpp.cxx"] = (None, compiler)
    with torch.no_grad():
        try:
            # torch knows what this processor can do; whether the compiler can, too, shows when it compiles
            with config.patch({"cpp.vec_isa_ok": True}):
                return str(aot_compile(module, given, options=options))
        except CppCompileError:
            cpu_vec_isa.valid_vec_isa_list.cache_clear()  # now each is tried with the compiler
            return str(aot_compile(module, given, options=options))


def first_line(error: BaseException) -> str:
    """The line of an error that says most: the first error of the compiler, if it came to that."""
    error = getattr(error, "inner_exception", error)  # torch's wrapping says nothing
    _, _, output = str(error).partition("Output:\n")
    lines = [line.strip() for line in (output or str(error)).splitlines() if line.strip()] or [""]
    said = next((line for line in lines if any(word in line for word in ERROR_WORDS)), lines[0])
    return said if output else f"{type(error).__name__}: {said}"


ERROR_WORDS = ("error", "cannot", "No space")


def _quote_library_folders() -> None:
    """torch splits its commands at spaces and quotes the folders of headers, but not those of libraries."""
    import torch
    from torch._inductor import cpp_builder

    where = str(Path(torch.__file__).parent)
    if shlex.quote(where) == where and shlex.quote(sys.base_prefix) == sys.base_prefix:
        return
    plain = cpp_builder.BuildOptionsBase.get_libraries_dirs
    if getattr(plain, "quotes", False):
        return

    def quoted(self: Any) -> list[str]:
        return [shlex.quote(folder) for folder in plain(self)]

    quoted.quotes = True  # type: ignore[attr-defined]
    cpp_builder.BuildOptionsBase.get_libraries_dirs = quoted  # type: ignore[method-assign]


def _leave_out_checks() -> None:
    """torch writes a function for each input that looks at its shape, if a variable is set: half of the C++
    for a small network."""
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    def nothing(self: Any) -> None:
        self.prefix.splice_aot(
            "static void __check_inputs_outputs(AtenTensorHandle* inputs, AtenTensorHandle* outputs) {}\n"
        )

    CppWrapperCpu.generate_input_output_runtime_checks = nothing  # type: ignore[method-assign]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
