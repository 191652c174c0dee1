"""What the settings of a config must be together; the bounds of one alone stand beside its
field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cffm_jax.config import POOLINGS, SECTIONS, SETTINGS, Config, ModelConfig
from cffm_jax.errors import InputError
from cffm_jax.rules import option_name, require_value, require_values

_MOST_TOKENS = 64
"""Of a source, a side of what a window reads of it; the papers have 7 at most."""


def check_settings(config: Config, sections: Iterable[str] = SECTIONS) -> None:
    """InputError for the first setting of these sections that breaks its rule, or for those that do
    not fit together.

    What depends on the machine, the dataset or the weights is checked where these are at hand.
    """
    for section in sections:
        require_values(getattr(config, section), f"{section}.")
    _require_contexts(config.model)
    require_frame_size("--data.frame-size", config.data.frame_size, own="train" not in sections)
    require_tiles(config.eval.tile_size, config.eval.overlap, "eval.")
    require_offsets(config.data.offsets, len(config.model.receptive))
    _ = config.data.frame_channels  # Raises what does not fit.
    rate, least = config.optim.rate, config.optim.least_rate
    if least > rate:
        raise InputError("--optim.least-rate", f"{least:g} is above --optim.rate", f"give at most {rate:g}")
    given, classes = config.loss.class_weights, config.model.num_classes
    if given and classes and len(given) != classes:
        raise InputError("--loss.class-weights", f"has {len(given)} numbers", f"give {classes}, one for each class")
    if given and not any(given):
        raise InputError("--loss.class-weights", "has no weight above 0", "give one class at least a weight")
    if not config.loss.cross_entropy and not config.loss.focal and not config.loss.dice:
        raise InputError("--loss.cross-entropy", "no loss has a weight above 0", "give one of the three a weight")


def require_offsets(offsets: Sequence[int], references: int, option: str = "--data.offsets") -> None:
    """InputError unless these can be how many frames before the target that many references lie."""
    if offsets and not references:
        raise InputError(option, "is given, and the method reads no references", "leave it out")
    if len(offsets) != references or min(offsets, default=0) < 1 or list(offsets) != sorted(offsets)[::-1]:
        remedy = f"give {references} numbers of at least 1, the largest first"
        remedy += "; as many as --model.receptive" if option.startswith("--data.") else ""
        raise InputError(option, f"is {' '.join(map(str, offsets))}", remedy)


def require_crop(crop: tuple[int, int], multiple: int) -> None:
    """InputError unless a model whose frames have sides of such multiples takes these."""
    if any(side % multiple for side in crop):
        remedy = f"give multiples of {multiple}, at least 32"
        raise InputError("--data.crop", f"is {' '.join(map(str, crop))}", remedy)


def check_model(settings: ModelConfig) -> None:
    """InputError for the first setting of a model that breaks its rule, or for those that do not
    fit together."""
    require_values(settings, "model.")
    _require_contexts(settings)


def require_frame_size(option: str, size: tuple[int, ...], *, own: bool = True) -> None:
    """InputError unless these are two sides that frames can be resized to fit, or, where that is
    allowed, 0 0 for their ``own``."""
    if len(size) != 2 or (min(size) < 1 and not (own and size == (0, 0))):
        or_own = ", or 0 0 for the frames' own size" if own else ""
        remedy = f"give a height and a width of at least 1{or_own}"
        raise InputError(option, f"is {' '.join(map(str, size))}", remedy)


def require_tiles(tile_size: tuple[int, ...], overlap: int, prefix: str = "") -> None:
    """InputError if these cannot be a tile's height and width, and the pixels that tiles share;
    ``prefix``: of the settings' section, "eval."."""
    require_value(f"{prefix}tile_size", tile_size, SETTINGS["eval.tile_size"])
    if overlap == -1:
        return
    if not tile_size:
        size = option_name(f"{prefix}tile_size")
        raise InputError(f"--{prefix}overlap", f"has no use without {size}", f"give {size} too")
    if overlap not in range(0, min(tile_size), 32):
        remedy = f"give a multiple of 32 below {min(tile_size)}, the tile's shorter side, or -1 for a quarter of it"
        raise InputError(f"--{prefix}overlap", f"is {overlap}", remedy)


def _require_contexts(settings: ModelConfig) -> None:
    receptive, pooling, problem = settings.receptive, settings.pooling, ""
    if not receptive or len(receptive) != len(pooling):
        problem = f"r has {len(receptive)} numbers and p has {len(pooling)}: one of each for a reference"
    elif settings.pooling_rule == "paper":
        problem = "r and p must be at least 1" if min(*receptive, *pooling) < 1 else ""
    elif not set(pooling) <= set(POOLINGS) or min(receptive) < 1:
        problem = f"r must be at least 1 and p one of {list(POOLINGS)}, not {receptive} and {pooling}"
    if not problem and max(r / p for r, p in zip(receptive, pooling)) > _MOST_TOKENS:
        problem = f"a window would read more than {_MOST_TOKENS} tokens a side (r / p)"
    if problem:
        raise InputError("--model.receptive, --model.pooling", problem, "see Tables 6 and 7 of the papers")
    if settings.target_receptive / settings.target_pooling > _MOST_TOKENS:
        problem = f"{settings.target_receptive}: a window would read more than {_MOST_TOKENS} tokens a side (r' / p')"
        raise InputError("--model.target-receptive", problem, "give less; the release has 35")
    released, paper = settings.pooling_rule == "release", "or --model.pooling-rule paper"
    if released and settings.window != 7:
        raise InputError("--model.window", f"{settings.window}: the release has windows of 7 alone", f"give 7, {paper}")
    if 2 * settings.halo > settings.window:
        half = settings.window // 2
        raise InputError("--model.halo", f"{settings.halo} is more than half a window", f"give at most {half}")
    if released and settings.target_pooling not in POOLINGS:
        remedy = f"give one of these, {paper}"
        raise InputError("--model.target-pooling", f"{settings.target_pooling} is none of {list(POOLINGS)}", remedy)
