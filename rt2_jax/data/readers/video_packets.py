"""Videos as packets: where each coded frame lies in its file, and how to decode some of them.

A packet is one coded frame. To decode one takes the packets from its key frame on, in the file's order, and
nothing else of the file: once a video is indexed, a frame is a few spans of bytes, like a picture inside
a TFRecord. Nothing is sought, no container is parsed, and the file may be remote.

Codecs are those that PyAV's FFmpeg decodes (H.264, HEVC, AV1, VP9, ...); the container must keep coded frames
as they are, as MP4 does, and must be whole.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
import json
import threading
from typing import Any

import numpy as np

from rt2_jax.data import files
from rt2_jax.data.data_errors import CorruptFrame, lfs_remedy
from rt2_jax.data.readers import tfrecord
from rt2_jax.errors import MissingPackage

# Decoders that a thread keeps open. The videos of one camera have one set of parameters, as a rule.
_DECODERS = 16
_open_decoders = threading.local()


@dataclasses.dataclass(frozen=True)
class VideoPackets:
    """The packets of a video, P of them, in the order in which they are decoded.

    Attributes:
        codec: what opens a decoder, as JSON.
        times: float64 [P], seconds at which each one's frame is shown, from the start of the video.
        offsets: int64 [P], first byte of each in the file.
        lengths: int32 [P], bytes of each.
        checksums: uint32 [P], CRC-32C of each.
        backs: int32 [P], how many packets before it decoding must begin.
    """

    codec: str
    times: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    backs: np.ndarray


def read(path: str, time: float) -> VideoPackets:
    """Reads all packets of a video.

    Args:
        path: the file, of this machine or remote.
        time: of the frame for which it is opened, seconds; an error names it.

    Raises:
        CorruptFrame: the file is missing, or can't be read as a video.
        MissingPackage: PyAV isn't installed.
    """
    av = _av()
    try:
        with files.open_file(path) as opened:
            if not opened.size:
                raise CorruptFrame(path, time, 'the file is empty')
            if remedy := lfs_remedy(opened.read(0, 64)):
                raise CorruptFrame(path, time, remedy)
            with opened.reader() as file, av.open(file) as container:
                if not container.streams.video:
                    raise CorruptFrame(path, time, 'the file has no video in it')
                stream = container.streams.video[0]
                packets = [packet for packet in container.demux(stream) if packet.size]
                if not packets:
                    raise CorruptFrame(path, time, 'the video has no frames')
                return _columns(path, time, opened, stream, packets)
    except FileNotFoundError as error:
        raise CorruptFrame(path, time, 'there is no such file') from error
    except av.error.FFmpegError as error:
        raise CorruptFrame(path, time, f"the file can't be read as a video: {error}") from error


def framing(path: str) -> bytes:
    """Where the packets of a video lie, and how long they are, without reading them; b'' if unreadable."""
    av = _av()
    try:
        with files.open_file(path) as opened, opened.reader(ahead=False) as file:
            if not opened.size:
                return b''
            with av.open(file) as container:
                entries = container.streams.video[0].index_entries
                places = [(e.pos, e.size, e.timestamp, e.flags) for e in entries]
                return np.array(places, '<i8').tobytes()
    except (FileNotFoundError, IndexError, av.error.FFmpegError):
        return b''


def decode(codec: str, packets: Sequence[bytes], wanted: Sequence[int]) -> dict[int, np.ndarray]:
    """Frames of some packets.

    Args:
        codec: see VideoPackets.
        packets: in order, from where decoding must begin.
        wanted: which packets' frames.

    Returns:
        Number of the packet -> pixels uint8 [H, W, 3], RGB.

    Raises:
        ValueError: a packet can't be decoded.
        MissingPackage: PyAV isn't installed.
    """
    av = _av()
    decoder, converter = _decoder(codec)
    frames: dict[int, np.ndarray] = {}
    try:
        decoder.flush_buffers()
        for number, data in enumerate([*packets, None]):
            packet = None
            if data is not None:
                # Decoders read beyond the end: memory that FFmpeg allots is padded, that of bytes isn't.
                packet = av.Packet(len(data))
                packet.update(data)
                packet.pts = packet.dts = number  # what a frame is known by
            for frame in decoder.decode(packet):
                if frame.pts in wanted and not frame.is_corrupt:
                    # One thread, or FFmpeg wakes one a core, and waits for them where cores are busy.
                    rgb = converter.reformat(frame, format='rgb24', threads=1)
                    frames[frame.pts] = rgb.to_ndarray()
    except av.error.FFmpegError as error:
        raise ValueError(f"the frame can't be decoded: {error}") from error
    if len(frames) < len(set(wanted)):
        raise ValueError("the frame can't be decoded: its bytes are damaged")
    return frames


def _columns(
    path: str, time: float, opened: Any, stream: Any, packets: Sequence[Any]
) -> VideoPackets:
    if not _lie_in_the_file(opened, packets):
        raise CorruptFrame(
            path,
            time,
            'its container changes coded frames or gives them no time, so they cannot be read where they '
            'lie; MP4 is what LeRobot writes (ffmpeg -i FILE -c copy FILE.mp4)',
        )
    shown = np.array([packet.pts for packet in packets], np.float64)
    keys = np.array([packet.is_keyframe for packet in packets])
    if not keys[0]:
        raise CorruptFrame(path, time, 'the video has no key frame at its start')
    return VideoPackets(
        codec=_described(stream.codec_context),
        times=shown * float(stream.time_base),
        offsets=np.array([packet.pos for packet in packets], np.int64),
        lengths=np.array([packet.size for packet in packets], np.int32),
        checksums=np.array([tfrecord.checksum(bytes(packet)) for packet in packets], np.uint32),
        backs=_backs(keys, shown),
    )


def _lie_in_the_file(opened: Any, packets: Sequence[Any]) -> bool:
    """Whether packets are what the file holds at their places, by the first one, and have times."""
    if any(packet.pos is None or packet.pts is None for packet in packets):
        return False
    return opened.read(packets[0].pos, packets[0].size) == bytes(packets[0])


def _backs(keys: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """How many packets before each one decoding must begin, int32 [P].

    Frames that are shown before the key frame that they follow lean on the one before that, too.
    """
    numbers = np.arange(len(keys))
    starts = np.flatnonzero(keys)
    which = np.cumsum(keys) - 1
    leading = (shown < shown[starts[which]]) & (which > 0)
    return (numbers - starts[which - leading]).astype(np.int32)


def _described(context: Any) -> str:
    """What opens a decoder for a stream, as JSON."""
    about = {
        'decoder': context.codec.name,
        'extradata': (context.extradata or b'').hex(),
        'width': context.width,
        'height': context.height,
        **{name: int(getattr(context, name)) for name in _COLOURS},
    }
    return json.dumps(about)


# What a container says of colours, and the coded frames may not.
_COLOURS = ('color_range', 'colorspace', 'color_trc', 'color_primaries')


def _decoder(codec: str) -> tuple[Any, Any]:
    """This thread's decoder for a codec, and its converter to RGB."""
    opened = _open_decoders.__dict__.setdefault('opened', collections.OrderedDict())
    if codec not in opened:
        opened[codec] = _opened(json.loads(codec))
        if len(opened) > _DECODERS:
            opened.popitem(last=False)
    opened.move_to_end(codec)
    return opened[codec]


def _opened(about: dict[str, Any]) -> tuple[Any, Any]:
    av = _av()
    from av.video import reformatter  # pylint: disable=g-import-not-at-top

    decoder = av.CodecContext.create(about['decoder'], 'r')
    decoder.extradata = bytes.fromhex(about['extradata']) or None
    decoder.width, decoder.height = about['width'], about['height']
    for name in _COLOURS:
        setattr(decoder, name, about[name])
    decoder.thread_count = 1  # the pipeline has threads of its own
    return decoder, reformatter.VideoReformatter()


def _av() -> Any:
    try:
        import av  # pylint: disable=g-import-not-at-top
    except ImportError as error:
        raise MissingPackage('a LeRobot data set', 'av', 'lerobot') from error
    return av
