"""Every command of the papers' tables, from settings and files to the figures; networks are traced, not compiled."""

import pytest

from helpers import documented, tiny_world
from helpers.tiny_world import traced

pytestmark = pytest.mark.long

COMMANDS = documented.commands_of(documented.TEXTS["tables.md"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with tiny_world.world(tmp_path_factory.mktemp("tables"), "tables.md") as world:
        yield world


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_runs(words, world, monkeypatch):
    monkeypatch.chdir(world.folder)
    with traced():
        assert not world.run(words, lambda words: documented.run(words, monkeypatch.setattr))
