"""``predict.py``: masks of any video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from cffm_jax.runtime.command_line import leave, parse_command, run_command
from cffm_jax.runtime.devices import warn_of_missing_platforms
from cffm_jax.runtime.memory import share_freed_memory, use_huge_pages
from cffm_jax.runtime.xla import cache_compilations


def predict_command(argv: Sequence[str]) -> int:
    """``predict.py``: masks of any video; returns 1 if some of several failed."""
    description = "Segment a video, images or a camera: masks, an overlay video and the classes' shares."
    from cffm_jax.media.many import several_videos
    from cffm_jax.predict.job import predict
    from cffm_jax.predict.many import predict_many
    from cffm_jax.predict.request import Request

    request = parse_command(Request, argv, lambda _: Request(), description)
    share_freed_memory()
    cache_compilations()
    warn_of_missing_platforms()
    request.require_sound()
    videos = several_videos(request.inputs)
    said, failed = predict_many(request, videos) if videos else (predict(request), 0)
    print(said)
    return int(failed > 0)


def main() -> NoReturn:
    """``predict.py`` and ``cffm-predict``."""
    use_huge_pages()
    leave(run_command(predict_command))
