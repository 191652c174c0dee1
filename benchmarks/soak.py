"""Training that survives, tried at length: real runs killed at random and during saves, and every file of a checkpoint
spoilt. Prints a Markdown table; exit status 1 if anything was not as it must be.

    python benchmarks/soak.py --folder soak
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro

from cffm_jax.checkpoints.by_path import newest_whole
from cffm_jax.checkpoints.store import Checkpoints
from cffm_jax.rules import setting

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "--config", "configs/synthetic.py", "--data.frame_size", "64", "96", "--data.crop", "32", "32",
    "--optim.warmup_steps", "1", "--train.batch_size", "1", "--train.log_every", "1", "--train.keep", "2",
    "--model.depths", "1", "1", "1", "1", "--model.width", "32",
)  # fmt: skip
ON_CORES = (
    "import os, signal, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(',')));"
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
"""Turns into another program: on these cores, and Ctrl-C works even if this one was started in the background."""
DURING_SAVE = re.compile(r"\d+\.unsealed.*")


@dataclasses.dataclass(frozen=True)
class SoakOptions:
    folder: str = setting("soak", path=True)
    """New folder where everything goes."""
    kills: int = 30
    """SIGKILLs at least; every other one is aimed at a save."""
    terminations: int = 6
    """SIGTERMs and Ctrl-Cs beside them."""
    steps: int = 120
    """Iterations of a run; when one is done before all kills, the next begins."""
    interval: int = 4
    """Iterations between two checkpoints."""
    cores: int = 1
    """Cores of a run: on one, what it computes is the same to the bit."""
    seed: int = 0
    """Of the moments."""


@dataclasses.dataclass
class Told:
    """What came of a signal.

    Attributes:
      saving: whether it came during a save.
      lost: steps that were done and are to be done again.
      seconds, status: until the process ended, and how.
    """

    number: signal.Signals
    saving: bool
    lost: int
    seconds: float
    status: int


class Soak:
    def __init__(self, options: SoakOptions):
        self.options, self.folder = options, Path(options.folder).absolute()
        self.random = random.Random(options.seed)
        self.left_behind: set[str] = set()
        self.told: list[Told] = []
        self.faults: list[str] = []

    def command(self, workdir: Path) -> list[str]:
        options = self.options
        plan = ("--train.steps", options.steps, "--train.checkpoint_every", options.interval)
        where = ("--data.root", self.folder / "videos", "--workdir", workdir)
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: options.cores]))
        return [sys.executable, "-c", ON_CORES, cores, "train.py", *map(str, (*SETTINGS, *plan, *where))]

    def start(self, workdir: Path) -> subprocess.Popen:
        with (self.folder / "said.txt").open("a") as said:
            return subprocess.Popen(self.command(workdir), cwd=ROOT, stdout=said, stderr=said)

    def finish(self, workdir: Path) -> None:
        status = self.start(workdir).wait()
        if status:
            sys.exit(f"train.py ended with {status}, see {self.folder}/said.txt")

    # --- signals

    def disturb(self, workdir: Path, number: signal.Signals, aim_at_save: bool) -> bool:
        """Starts or resumes the run and sends it the signal; False if it was done before."""
        begun, self.left_behind = newest_whole(workdir)[0], set(not_whole(workdir))
        (workdir / "log.jsonl").unlink(missing_ok=True)  # What is in it afterwards is of this process.
        process = self.start(workdir)
        if aim_at_save:
            self.await_save(process, workdir, self.random.randint(1, 3))
            delay = self.random.uniform(0, 0.3)
        else:
            self.await_step(process, workdir, begun)
            delay = self.random.uniform(0, 4)
        until = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < until:
            self.saves_under_way(workdir)
            time.sleep(0.001)
        if process.poll() is not None:
            if process.returncode:
                self.faults.append(f"train.py ended by itself with {process.returncode}")
            return False
        saving = bool(self.saves_under_way(workdir))
        sent = time.monotonic()
        process.send_signal(number)
        status = process.wait()
        done, kept = max(last_logged(workdir), begun), newest_whole(workdir)[0]
        self.told.append(Told(number, saving, done - kept, time.monotonic() - sent, status))
        return True

    def saves_under_way(self, workdir: Path) -> set[str]:
        """Without what an earlier kill left behind, which the process removes when it starts."""
        now = set(not_whole(workdir))
        self.left_behind &= now
        return now - self.left_behind

    def await_save(self, process: subprocess.Popen, workdir: Path, count: int) -> None:
        """Until the count-th save of this process begins."""
        seen: set[str] = set()
        while process.poll() is None and len(seen) < count:
            seen |= {name.split(".")[0] for name in self.saves_under_way(workdir)}
            time.sleep(0.001)

    def await_step(self, process: subprocess.Popen, workdir: Path, begun: int) -> None:
        """Until the first step of this process; one in four signals comes at any moment before."""
        if self.random.random() < 0.25:
            time.sleep(self.random.uniform(0, 8))
            return
        while process.poll() is None and last_logged(workdir) <= begun:
            self.saves_under_way(workdir)
            time.sleep(0.005)

    def survive(self, reference: dict[str, np.ndarray]) -> int:
        """Runs until there were enough kills, every one compared at its end. Returns how many runs."""
        options, rounds = self.options, 0
        others = [signal.SIGTERM, signal.SIGINT] * options.terminations
        del others[options.terminations :]
        while self.count() < options.kills or self.count(saving=True) < options.kills // 2 or others:
            workdir, rounds, alive = self.folder / f"run{rounds}", rounds + 1, True
            while alive and (self.count() < options.kills or self.count(saving=True) < options.kills // 2 or others):
                if others and self.random.random() < 0.2 or self.count() >= options.kills and others:
                    number, aim = others.pop(), False
                else:
                    number, aim = signal.SIGKILL, self.random.random() < 0.6
                alive = self.disturb(workdir, number, aim)
                if not alive and number != signal.SIGKILL:
                    others.append(number)
            self.finish(workdir)
            if not same(arrays(workdir, options.steps), reference):
                self.faults.append(f"{workdir}: other parameters than the unbroken run's")
        return rounds

    def count(self, saving: bool = False) -> int:
        return sum(told.number == signal.SIGKILL and (told.saving or not saving) for told in self.told)

    # --- damage

    def damage(self) -> dict[str, tuple[int, int]]:
        """What was done to each file of a checkpoint -> (how often it was noticed, how many files)."""
        workdir = Path(shutil.copytree(self.folder / "unbroken", self.folder / "spoilt"))
        step = self.options.steps
        paths = [path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file()]
        ways: dict[str, Callable[[bytes], bytes | None]] = {
            "one bit flipped": self.flipped,
            "truncated": lambda content: content[: self.random.randrange(len(content))],
            "deleted": lambda content: None,
        }
        found = {}
        with Checkpoints(workdir) as checkpoints:
            for way, spoil in ways.items():
                noticed = 0
                for path in paths:
                    content = path.read_bytes()
                    other = spoil(content)
                    path.unlink() if other is None else path.write_bytes(other)
                    noticed += bool(checkpoints.damage(step))
                    path.write_bytes(content)
                found[way] = noticed, len(paths)
                if noticed < len(paths):
                    self.faults.append(f"{way}: {len(paths) - noticed} files unnoticed")
        return found

    def flipped(self, content: bytes) -> bytes:
        at = self.random.randrange(8 * len(content))
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    def fall_back(self, reference: dict[str, np.ndarray]) -> None:
        """The real command on a run whose last checkpoint has a flipped bit: it goes on from the one before."""
        workdir, step = self.folder / "spoilt", self.options.steps
        largest = max((workdir / "checkpoints" / str(step)).rglob("d/*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(self.flipped(largest.read_bytes()))
        self.finish(workdir)
        said = f"{workdir}/checkpoints/{step} is damaged" in (self.folder / "said.txt").read_text()
        if not said or not same(arrays(workdir, step), reference):
            self.faults.append("damaged last checkpoint: not said, or other parameters at the end")


def not_whole(workdir: Path) -> list[str]:
    try:
        return [name for name in os.listdir(workdir / "checkpoints") if DURING_SAVE.fullmatch(name)]
    except FileNotFoundError:
        return []


def last_logged(workdir: Path) -> int:
    """The last step that the log has a whole line of."""
    try:
        text = (workdir / "log.jsonl").read_text()
    except FileNotFoundError:
        return 0
    return max((int(step) for step in re.findall(r'^\{"step": (\d+), .*\}$', text, re.MULTILINE)), default=0)


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Everything that a checkpoint holds but the config."""
    names = ("variables", "optimizer", "counters")
    args = ocp.args.Composite(**{name: ocp.args.StandardRestore() for name in names})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore((workdir / "checkpoints" / str(step)).absolute(), args=args)
    leaves = jax.tree_util.tree_leaves_with_path({name: tree[name] for name in names})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


def main() -> int:
    began = time.time()
    options = tyro.cli(SoakOptions, description=__doc__)
    soak = Soak(options)
    soak.folder.mkdir(parents=True)
    videos = ("--videos-train", "4", "--videos-val", "1", "--videos-test", "0", "--frames", "18")
    videos += ("--height", "64", "--width", "96")
    made = [sys.executable, "-m", "cffm_jax.data.synthetic", str(soak.folder / "videos"), *videos]
    subprocess.run(made, cwd=ROOT, check=True)
    soak.finish(soak.folder / "unbroken")
    reference = arrays(soak.folder / "unbroken", options.steps)
    rounds = soak.survive(reference)
    damage = soak.damage()
    soak.fall_back(reference)
    killed = [told for told in soak.told if told.number == signal.SIGKILL]
    stopped = [told for told in soak.told if told.number != signal.SIGKILL]
    lost = [told.lost for told in killed]
    if max(lost) > options.interval + 1:
        soak.faults.append("a kill cost more than the interval and one step")
    for told in stopped:
        # Before the program has begun, the system ends it: shells show the same status.
        if told.status not in (128 + told.number, -told.number) or told.status > 0 and told.lost:
            soak.faults.append(f"{told.number.name}: status {told.status}, {told.lost} steps lost")
    soak.faults += [f"{t.number.name}: took {t.seconds:.0f} s" for t in stopped if t.seconds > 30]
    rows = [
        ("SIGKILLs, of these during a save", f"{len(killed)}, {sum(told.saving for told in killed)}"),
        ("steps lost by a kill, mean and most", f"{np.mean(lost):.1f}, {max(lost)}"),
        ("interval of the checkpoints", f"{options.interval} steps"),
        ("SIGTERMs and Ctrl-Cs, longest until the end", f"{len(stopped)}, {max(t.seconds for t in stopped):.1f} s"),
        ("runs that were done, equal to the unbroken one", f"{rounds}, {len(reference)} arrays each"),
        *((f"checkpoint files {way}, noticed", f"{found} of {of}") for way, (found, of) in damage.items()),
        ("time", f"{(time.time() - began) / 60:.1f} min"),
    ]  # fmt: skip
    print("\n| what | figure |\n|---|---|")
    for what, figure in rows:
        print(f"| {what} | {figure} |")
    for fault in soak.faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    return bool(soak.faults)


if __name__ == "__main__":
    sys.exit(main())
