"""Benchmarks in one process: what they start runs in it, and nothing large is computed."""

import contextlib
import io
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from cffm_jax.inference.step import Step
from cffm_jax.models import cfm, variables
from cffm_jax.models.encoders.backbone import STRIDES, Encoder

from helpers import documented
from helpers.runs import ROOT

ABSENT = ("torch", "transformers", "albumentations", "fast_pytorch_kmeans")
"""What benchmarks compare with where it is installed: the tests do the same everywhere."""
PROCESS = subprocess.run
ROWS = {}
"""Plan of a row of ``inference.py`` -> its status, and what it printed."""


def ones(shapes):
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


class Uncompiled:
    """Stands for a compiled program: gives ones of the shapes of its result."""

    def __init__(self, lowered):
        self.out_info = lowered.out_info

    def __call__(self, *arguments):
        return ones(self.out_info)

    def memory_analysis(self):
        """As of a backend that does not tell."""

    cost_analysis = memory_analysis


@contextlib.contextmanager
def hollow(compiled):
    """Networks of right shapes with nothing in them: encoders give ones, mining gives its target. Unless they are to be
    ``compiled``, programs give ones."""

    def unless_drawn(layer, instead):
        whole = layer.__call__
        return lambda self, *given: (whole if self.is_initializing() else instead)(self, *given)

    def maps(self, frames, train=False):
        n, h, w, _ = frames.shape
        sizes = zip(STRIDES, self.size.channels, strict=True)
        return tuple(jnp.ones((n, h // stride, w // stride, count), self.dtype) for stride, count in sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "__call__", unless_drawn(Encoder, maps))
        for block in (cfm.MiningBlock, cfm.GlobalBlock):
            patch.setattr(block, "__call__", unless_drawn(block, lambda self, target, *_: target))
        patch.setattr(variables, "init_variables", lambda model, key: ones(variables.variable_shapes(model)))
        if not compiled:
            patch.setattr(jax.stages.Lowered, "compile", lambda lowered, *_: Uncompiled(lowered))
            patch.setattr(Step, "__call__", lambda step, *given: ones(step.eval_shape(*given)))
        yield


class Absent:
    """Finds none of what is not to be there."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}")


@contextlib.contextmanager
def starting_here():
    """Has ``subprocess.run`` run commands of Python in this process, and what scripts set for theirs be ignored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        patch.setattr(jax.config, "update", lambda *_: None)
        patch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
        # The folder of a script is on its path, not the one that holds it.
        for name in [name for name in sys.modules if name.startswith("benchmarks.")]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "benchmarks", None)
        yield


def run(command, *, cwd=None, capture_output=False, check=False, **others):
    """As ``subprocess.run``; without a time limit, where it is Python that is to run."""
    if command[0] != sys.executable:
        return PROCESS(command, cwd=cwd, capture_output=capture_output, check=check, **others)
    # Python itself may be in a folder of the repository, and keeps its whole name.
    words = tuple(word if word == sys.executable else word.removeprefix(f"{ROOT}/") for word in command[1:])
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if cwd:
            patch.chdir(cwd)
        if capture_output:
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
        status = (told if words[1] == "--row" else executed)(words, patch) or 0
    assert not (check and status)
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def told(words, patch):
    """A row of ``inference.py``; those of networks of other sizes and types are taken for the same."""
    plan = re.sub(r"_b\d|float32|bfloat16", "", words[3])
    if plan not in ROWS:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = executed(words, patch)
        ROWS[plan] = status, said.getvalue()
    print(ROWS[plan][1], end="")
    return ROWS[plan][0]


def executed(words, patch):
    try:
        if words[0] == "-c":
            patch.setattr(sys, "argv", ["-c", *words[2:]])
            return exec(words[1], {"__name__": "__main__"})
        return documented.run(("python", *words), patch.setattr)
    except SystemExit as ended:
        return ended.code
    except ModuleNotFoundError as missing:
        print(f"{type(missing).__name__}: {missing}", file=sys.stderr)
        return 1
