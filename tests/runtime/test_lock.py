"""Locks: one process writes a place, and what a killed one left behind holds nobody up."""

import dataclasses
import errno
import json
import os
import signal
import threading
import time

import pytest

from cffm_jax.commands.train import train_command
from cffm_jax.data.prepare import command as prepare
from cffm_jax.data.synthetic import generate
from cffm_jax.errors import InputError
from cffm_jax.runtime import atomic, lock
from cffm_jax.runtime.lock import Lock
from cffm_jax.training.run_lock import RunLock

from helpers.runs import address, ended, started, train_argv

HOLD = """
import sys, time
from pathlib import Path
from cffm_jax.runtime.lock import Lock
with Lock(Path(sys.argv[1]), "there"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / ".a.lock"


def fault(file):
    with pytest.raises(InputError) as caught:
        Lock(file, "a").acquire()
    return str(caught.value)


def left_behind(file, silent=0.0, **changes):
    """Writes the file of another process, which gave its last sign so many seconds ago."""
    record = {"host": "other", "space": "x", "process": 7, "started": "1", "since": "2026-01-01 10:00:00+00:00"}
    file.write_text(json.dumps({**record, **changes}))
    os.utime(file, (time.time() - silent,) * 2)


def test_it_is_held_by_one_and_free_afterwards(file):
    with Lock(file, "a"):
        said = fault(file)
        assert said.startswith(f"a: is in use by process {os.getpid()} on {lock._this_host()['host']} since 20")
        assert "wait until it has ended, or name another place" in said and "remove" not in said
    assert not file.exists()
    with Lock(file, "a"):
        pass


def test_a_process_that_was_killed_holds_nobody_up(file):
    process = started("-c", HOLD, file)
    try:
        assert process.stdout.readline() == "held\n"
        assert f"process {process.pid} on " in fault(file)
        record = file.read_bytes()
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with Lock(file, "a"):  # Its parent has not asked for its end yet.
            pass
        process.wait()
        file.write_bytes(record)
        with Lock(file, "a"):
            pass
    finally:
        process.kill()
        process.communicate()


LOCKING = """
import itertools, sys
from pathlib import Path
from cffm_jax.runtime.lock import Lock
print("begun", flush=True)
for number in itertools.count():
    with Lock(Path(sys.argv[1]) / f"{number % 50}.lock", "there"):
        pass
"""


@pytest.mark.long
def test_one_that_is_killed_as_it_makes_the_file_holds_nobody_up(tmp_path):
    """At some moment of twenty."""
    for i in range(20):
        process = started("-c", LOCKING, tmp_path)
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.005 * i)
        process.kill()
        process.communicate()
        assert all(file.stat().st_size for file in tmp_path.glob("*.lock"))


def test_file_systems_without_nameless_files(file, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "link", refuse)
    with Lock(file, "a"):
        assert "a: is in use by process" in fault(file)
    assert not file.exists()


def test_another_process_with_the_number_of_one_that_is_gone_is_told_from_it(file):
    left_behind(file, **lock._this_host(), process=os.getpid(), started="1")
    with Lock(file, "a"):
        pass


@pytest.mark.parametrize("changes", [{}, {**lock._this_host(), "space": "before this host was started anew"}])
def test_another_host_is_waited_for_until_it_gives_no_sign_any_more(file, changes, capfd):
    left_behind(file, 200, **changes)
    said = fault(file)
    assert "process 7 on " in said and "since 2026-01-01 10:00:00" in said and "came 200 s ago" in said
    assert f"after 5 minutes, or remove {file}" in said
    left_behind(file, 400, **changes)
    with Lock(file, "a"):
        assert "a: was in use by process 7 on " in capfd.readouterr().err


def test_the_other_hosts_clock_does_not_matter(file, monkeypatch):
    """The file system's tells how long ago a sign came."""
    left_behind(file, 10)
    monkeypatch.setattr(lock.time, "time", lambda: 2e9)
    assert "came 10 s ago" in fault(file)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": "x"}', '{"process": 1e99}'])
def test_a_file_that_was_never_finished_is_old_some_day(file, text):
    file.write_text(text)
    assert "a process that does not tell its name" in fault(file)
    os.utime(file, (time.time() - 400,) * 2)
    with Lock(file, "a"):
        pass


def test_signs_are_given_and_end_with_it(file, monkeypatch):
    monkeypatch.setattr(lock, "_SIGN", 0.01)
    with Lock(file, "a"):
        os.utime(file, (0, 0))
        until = time.monotonic() + 10
        while not file.stat().st_mtime and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0
    assert "lock" not in {thread.name for thread in threading.enumerate()}


def test_what_another_has_taken_over_is_left_to_it(file):
    with Lock(file, "a"):
        left_behind(file)
    assert json.loads(file.read_text())["host"] == "other"


def test_one_alone_takes_over(file):
    """However many find it left behind at the same time."""
    for _ in range(20):
        left_behind(file, **lock._this_host(), process=os.getpid(), started="1")
        locks, together = [Lock(file, "a") for _ in range(4)], threading.Barrier(4)

        def take(one, together=together):
            together.wait()
            try:
                one.acquire()
            except InputError:
                pass

        threads = [threading.Thread(target=take, args=(one,)) for one in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(one.held for one in locks) == 1
        for one in locks:
            one.release()
        assert list(file.parent.iterdir()) == []


def test_one_that_waits_gets_it_when_it_is_free(file):
    with Lock(file, "a") as first:
        second = Lock(file, "a", patience=30)
        thread = threading.Thread(target=second.acquire)
        thread.start()
        assert not second.held
        first.release()
        thread.join()
    assert second.held
    second.release()


# --- what is locked


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_process_leaves_a_folder_in_the_making_alone(tmp_path, overwrite):
    with atomic.WholeFolder(tmp_path / "new" / "a", overwrite=overwrite) as made:
        (made.partial / "mine").touch()
        with pytest.raises(InputError, match="is in use by process"):
            atomic.WholeFolder(tmp_path / "new" / "a", overwrite=overwrite).__enter__()
        assert (made.partial / "mine").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_folder_that_was_made_meanwhile_is_told_before_the_work(tmp_path):
    made = atomic.WholeFolder(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "theirs").touch()
    with pytest.raises(InputError, match="exists and is not empty"), made:
        pytest.fail("the work has begun")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_second_process_leaves_a_file_in_the_making_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_PATIENCE", 0.0)
    with atomic.whole_file(tmp_path / "a") as partial:
        partial.write_text("first")
        with pytest.raises(InputError, match="is in use by process"):
            atomic.write_text(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_second_run_in_one_folder_is_refused_at_once(data, refused, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "log.jsonl").write_text("kept\n")
    with RunLock(workdir):
        refused(train_command, train_argv(data, workdir), f"{workdir}: is in use by process {os.getpid()}")
    assert [path.name for path in workdir.iterdir()] == ["log.jsonl"]


def test_a_run_that_was_overtaken_does_not_set_the_others_steps_aside(tmp_path):
    with RunLock(tmp_path / "run") as overtaken:
        (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
        with pytest.raises(InputError, match="another run began there meanwhile"):
            overtaken.take()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_two_processes_make_no_dataset_together(tmp_path, refused, data, monkeypatch):
    config = dataclasses.replace(generate.SyntheticConfig(), videos_train=1, videos_val=1, frames=2)
    with atomic.lock_on(tmp_path / "made"):
        with pytest.raises(InputError, match="made: is in use by process"):
            generate.generate(tmp_path / "made", config)
    folder = tmp_path / "records" / "vspw" / "1.0.0"
    folder.parent.mkdir(parents=True)
    with atomic.lock_on(folder):
        said = f"{folder}: is in use by process {os.getpid()}"
        refused(prepare.main, [data, tmp_path / "records", "--splits", "val"], said, progress=True)


# Two processes of one run lock its folder.
SHARE = """
import sys
from pathlib import Path
from cffm_jax.config import ClusterConfig
from cffm_jax.runtime.cluster import connected, gathered
from cffm_jax.runtime.command_line import run_command
from cffm_jax.training.run_lock import RunLock

def main(argv):
    with connected(ClusterConfig(argv[0], 2, int(argv[1]), connect_seconds=60, heartbeat_seconds=10)):
        with RunLock(Path(argv[2])) as lock:
            lock.take()
            print((Path(argv[2]) / ".lock").exists(), gathered(lock._lock.held))

if __name__ == "__main__":
    sys.exit(run_command(main))
"""


@pytest.mark.long
def test_the_processes_of_one_run_share_its_lock(tmp_path):
    def both():
        where = address()
        return ended([started("-c", SHARE, where, process, tmp_path) for process in range(2)])

    # Gloo says before it that it is connected.
    assert [(status, out.splitlines()[-1]) for status, out, _ in both()] == [(0, "True [True, False]")] * 2
    assert list(tmp_path.iterdir()) == []
    with RunLock(tmp_path):
        said = both()
    assert [status for status, *_ in said] == [2, 2]
    assert "is in use by process" in said[0][2] and "is in use" not in said[1][2]
