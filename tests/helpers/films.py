"""Tiny videos for tests, made with PyAV, and a stand-in for the network whose masks are easy to foretell."""

import dataclasses
import struct
from fractions import Fraction

import av
import numpy as np

from cffm_jax.config import Config, DataConfig, ModelConfig
from cffm_jax.data.evaluation_frames import evaluation_size
from cffm_jax.drawing.palette import palette
from cffm_jax.inference.prediction import Prediction
from cffm_jax.inference.streaming import Footprint

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 160, 30)
NAMES = ("class 0", "class 1", "class 2")


def picture(size=(48, 64), corner=RED, number=0):
    """Blue, brighter to the right, with its upper left quarter in another colour; ``number`` moves a green bar."""
    height, width = size
    result = np.empty((height, width, 3), np.uint8)
    result[:] = BLUE
    result[: (height + 1) // 2, : (width + 1) // 2] = corner
    result[-(height // 4) :, number % width : number % width + 8] = GREEN
    return result


def drifting(count, size=(48, 64)):
    """Pictures that move: every one can be built on the one before, and on no other's bytes."""
    coarse = np.random.default_rng(0).integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8)
    base = coarse.repeat(4, 0).repeat(4, 1)
    return [np.roll(base, 3 * i, 1) for i in range(count)]


def film(
    path,
    count=6,
    *,
    size=(48, 64),
    codec="libx264",
    pixels="yuv420p",
    rate=15,
    times=None,
    pictures=None,
    encoder=None,
    **more,
):
    """Writes a video; ``times`` in 1/600 s where frames come at their own times."""
    with av.open(str(path), "w", **more) as container:
        stream = container.add_stream(codec, rate=rate, options=encoder or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 600)
        for i in range(len(times) if times else count):
            frame = pictures[i] if pictures else picture(size, number=i)
            frame = av.VideoFrame.from_ndarray(frame, {3: "rgb24", 4: "rgba"}[frame.shape[-1]])
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound(path):
    """Writes a file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def spoilt_at(path, number, bytes_=8):
    """A copy of a video beside it, with some bytes of a frame's changed; ``number`` counts as frames are shown."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    packet = sorted(packets, key=lambda packet: packet.pts)[number]
    data, middle = bytearray(path.read_bytes()), packet.pos + packet.size // 2
    data[middle : middle + bytes_] = bytes(byte ^ 0x5A for byte in data[middle : middle + bytes_])
    copy = path.with_name(f"spoilt{path.suffix}")
    copy.write_bytes(data)
    return copy


MATRICES = {
    "right": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
}
"""Display matrices a, b, c, d: where the axes go."""


def turn(path, how):
    """Gives an .mp4 a display matrix, as cameras do that were held another way."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in MATRICES[how])
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def frames_of(path):
    """Pictures and times in seconds, by PyAV alone, and the stream's (codec, pixel format, rate)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            (frame.to_ndarray(format="rgb24"), float(frame.pts * frame.time_base)) for frame in container.decode(0)
        ]
        kind = stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate
    return [pixels for pixels, _ in frames], [time for _, time in frames], kind


@dataclasses.dataclass(frozen=True)
class Network:
    """In the place of ``Weights``: class 2 where red is strongest, 1 where green is, else 0."""

    config: Config = Config(model=ModelConfig("cffm_b0", len(NAMES)), data=DataConfig(root="none", layout="folder"))
    asked: list = dataclasses.field(default_factory=list)
    names: tuple = NAMES
    variables: dict = dataclasses.field(default_factory=dict)
    licence: str = "as nobody knows"
    colours: np.ndarray = dataclasses.field(default_factory=lambda: palette(len(NAMES)))

    def predictions(self, frames, *, scores, logits, ahead, tile_size, overlap, on_footprint):
        self.asked.append(self.config.data.offsets)
        for number, frame in enumerate(frames):
            if not number:
                size = evaluation_size(*frame.shape[:2], self.config.data.frame_size)
                on_footprint(Footprint(size, size, 1, 0, 1))
            values = frame[..., ::-1] / np.float32(64)
            sure = np.exp(values.max(-1)) / np.exp(values).sum(-1)
            yield Prediction(self.mask(frame), sure if scores else None, values[::4, ::4] if logits else None)

    @staticmethod
    def mask(frame):
        return np.array([2, 1, 0], np.uint8)[frame.argmax(-1)]
