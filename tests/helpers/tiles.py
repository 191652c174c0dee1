"""Pictures stored as 2 x 2 tiles, as phones write them: a HEIF file is built by hand around tiles that PyAV encodes.

Source: ISO/IEC 23008-12 (items, grid) and 14496-12 (boxes).
"""

import io
import struct

import av
import numpy as np
from av.codec.context import Flags

SIDE = 64


def box(kind, *parts):
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind.encode()) + payload


def full(kind, version, flags, *parts):
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _encoded(tile, codec, config):
    """(the decoder's configuration box, the coded picture) of one picture, by way of a Matroska file."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        # Where x265 may reorder, the decoding time of a single picture is memory that nobody set.
        options = {"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {}
        stream = container.add_stream(codec, options=options)
        stream.height, stream.width, stream.pix_fmt = *tile.shape[:2], "yuv420p"
        stream.codec_context.flags |= Flags.global_header
        frame = av.VideoFrame.from_ndarray(tile, "rgb24")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        stream = container.streams.video[0]
        packet = next(packet for packet in container.demux(stream) if packet.size)
        return box(config, stream.codec_context.extradata), bytes(packet)


def tiled(path, picture, rows=2, columns=2):
    """Writes a picture u8[64 * rows, 64 * columns, 3] as .heic or .avif."""
    avif = path.suffix == ".avif"
    codec, config, kind = ("libsvtav1", "av1C", b"av01") if avif else ("libx265", "hvcC", b"hvc1")
    brand = b"avif" if avif else b"heic"
    parts = [np.ascontiguousarray(part) for row in np.split(picture, rows) for part in np.split(row, columns, 1)]
    coded = [_encoded(part, codec, config) for part in parts]
    count, (height, width) = len(parts), picture.shape[:2]
    stored = [struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, width, height), *(data for _, data in coded)]
    items = [(1, b"grid", 0), *((2 + i, kind, 1) for i in range(count))]
    infos = [full("infe", 2, hidden, struct.pack(">HH4sB", item, 0, what, 0)) for item, what, hidden in items]
    properties = [full("ispe", 0, 0, struct.pack(">II", width, height))]
    properties += [full("ispe", 0, 0, struct.pack(">II", SIDE, SIDE)), *(about for about, _ in coded)]
    owners = [struct.pack(">HBB", 1, 1, 1), *(struct.pack(">HBBB", 2 + i, 2, 2, 0x80 | (3 + i)) for i in range(count))]

    def meta(start):
        places = b""
        for (item, _, _), data in zip(items, stored):
            places += struct.pack(">HHHII", item, 0, 1, start, len(data))
            start += len(data)
        return full(
            "meta", 0, 0,
            full("hdlr", 0, 0, struct.pack(">I4s12sB", 0, b"pict", b"", 0)),
            full("pitm", 0, 0, struct.pack(">H", 1)),
            full("iloc", 0, 0, struct.pack(">BBH", 0x44, 0, len(items)), places),
            full("iinf", 0, 0, struct.pack(">H", len(items)), *infos),
            full("iref", 0, 0, box("dimg", struct.pack(f">HH{count}H", 1, count, *range(2, 2 + count)))),
            box("iprp", box("ipco", *properties), full("ipma", 0, 0, struct.pack(">I", len(items)), *owners)),
        )  # fmt: skip

    head = box("ftyp", brand, struct.pack(">I", 0), b"mif1", brand)
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box("mdat", *stored))
    return path
