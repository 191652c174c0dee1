"""The networks of the papers' tables: settings, what they start from, commands that make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from cffm_jax.models.methods.cffm_families import FAMILIES
from cffm_jax.rules import option_name

Value = int | str | tuple[int, ...]
Changes = tuple[tuple[str, Value], ...]
"""Settings by dotted name, as ``("model.blocks", 3)``."""
Dataset = Literal["vspw", "cityscapes"]
Command = tuple[str, ...]
"""Arguments of ``python``."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is trained, by the run in the folder ``run``.

    Attributes:
      family: first part of the model's name, see ``models.create.METHODS``.
      backbone: of ``models.encoders.names()``.
      variant: what tells its run from the family's own; "" for that.
      changes: settings in which it differs from the family's config.
      base: the network it starts from; those with global contexts have one.
      prototypes: the network whose features are clustered; None for its own.
      data: the dataset that it is trained on.
      called: what the papers call it, and if it is another system, which; "" for one of
        ``cffm_families.FAMILIES``.
      files: weights that it starts from, as ("init.encoder", "resnet101.pth"); () for MiT's.
    """

    family: str
    backbone: str
    variant: str = ""
    changes: Changes = ()
    base: Network | None = None
    prototypes: Network | None = None
    data: Dataset = "vspw"
    called: str = ""
    files: Changes = ()

    @property
    def model(self) -> str:
        return f"{self.family}_{self.backbone}"

    @property
    def title(self) -> str:
        """What the papers call it, with their settings."""
        return self.called or f"{FAMILIES[self.family].title}, {self.backbone.upper()}"

    @property
    def run(self) -> str:
        return f"runs/{self.model}_{self.data}" + (f"_{self.variant}" if self.variant else "")

    def needs(self) -> tuple[Network, ...]:
        """The networks that are trained before it and it itself, in order, each once."""
        before = [network for other in (self.base, self.prototypes) if other for network in other.needs()]
        return tuple(dict.fromkeys([*before, self]))

    def on(self, backbone: str) -> Network:
        """The same on another backbone, its base too; its prototypes' network keeps its own."""
        base = self.base.on(backbone) if self.base else None
        return dataclasses.replace(self, backbone=backbone, base=base)


def segformer(backbone: str = "b1") -> Network:
    return Network("segformer", backbone)


def cffm(backbone: str = "b1", variant: str = "", changes: Mapping[str, Value] | None = None) -> Network:
    return Network("cffm", backbone, variant, tuple((changes or {}).items()))


def with_global(
    base: Network, variant: str = "", changes: Mapping[str, Value] | None = None, prototypes: Network | None = None
) -> Network:
    """CFFM++ on top of a CFFM, CFFM+ on top of a SegFormer: the base's settings hold for it too."""
    name = "_".join(part for part in (base.variant, variant) if part)
    added = base.changes + tuple((changes or {}).items())
    family = "cffmpp" if base.family == "cffm" else "cffmp"
    return Network(family, base.backbone, name, added, base, prototypes, base.data)


def compared(family: str, backbone: str, called: str, files: Mapping[str, Value], data: Dataset = "vspw") -> Network:
    """A system that the papers compare with, which has a config of its own."""
    return Network(family, backbone, data=data, called=called, files=tuple(files.items()))


def on_cityscapes(network: Network) -> Network:
    """The same, and what it starts from, trained on Cityscapes."""
    base = on_cityscapes(network.base) if network.base else None
    return dataclasses.replace(network, base=base, data="cityscapes")


def config_file(network: Network) -> str:
    """The config whose settings the network's changes are relative to."""
    name = network.model if network.called else network.backbone
    return f"configs/{name}_{network.data}{'_pp' if network.base else ''}.py"


def starts(network: Network) -> Changes:
    """The settings that name what the network starts from."""
    if network.base:
        return (("init.model", network.base.run),)
    return network.files or (("init.encoder", f"mit_{network.backbone}.pth"),)


def train_command(network: Network) -> Command:
    """Trains the network, after those that it needs."""
    argv = ["train.py", "--config", config_file(network)]
    if network.family in ("segformer", "cffmp"):  # They share the configs of CFFM and CFFM++.
        argv += ["--model.name", network.model]
    for name, value in network.changes:
        argv += [option_name(name), *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    if network.prototypes:
        argv += ["--prototypes.checkpoint", network.prototypes.run]
    for name, value in starts(network):
        argv += [option_name(name), str(value)]
    return (*argv, "--workdir", network.run)


def eval_command(network: Network) -> Command:
    """Prints the network's figures on its dataset's validation split; its own are the first row."""
    return ("eval.py", "--checkpoint", network.run)
