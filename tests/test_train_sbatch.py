"""docs/train.sbatch, with commands of SLURM that note how they were called; tests/test_docs.py reads its options."""

import os
import re
import subprocess

import pytest

from cffm_jax.settings import load_config

from helpers.runs import ROOT

JOB = ROOT / "docs" / "train.sbatch"


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (2, False)])
def test_the_job_goes_on_where_its_time_was_over(status, requeued, tmp_path):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, exits in (("srun", status), ("scontrol", 0)):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} $* cpus=$SRUN_CPUS_PER_TASK" >> called\nexit {exits}\n')
        (commands / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "8"}
    assert subprocess.run(["bash", "-u", JOB], cwd=tmp_path, env=environment).returncode == status
    trained, *more = (tmp_path / "called").read_text().splitlines()
    assert re.fullmatch(r"srun --kill-on-bad-exit=0 python train\.py --config b1_vspw .* cpus=8", trained)
    assert [line.partition(" cpus")[0] for line in more] == ["scontrol requeue 17"] * requeued


def test_the_job_asks_for_a_gpu_a_process_that_share_the_batch():
    head = re.match(r"#!/bin/bash\n((?:#.*\n)+)", JOB.read_text())[1]  # sbatch reads no further.
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", head, re.M))
    assert JOB.read_text().count("#SBATCH") == len(asked)
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] and asked["signal"].startswith("TERM@")
    assert "requeue" in asked and asked["open-mode"] == "append"
    batch = load_config("b1_vspw").train.batch_size
    assert batch % (int(asked["nodes"]) * int(asked["gpus-per-node"])) == 0
