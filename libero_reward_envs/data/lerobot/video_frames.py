"""Frames of MP4 files: each found by its time, and written so that finding one is cheap.

Files are read through PyAV, whose wheels bring FFmpeg along. A file may come from anywhere: it is
opened as MP4 and nothing else (other formats can name files and addresses to be opened), decoded by
a few known codecs, and memory is taken only for frames that its own sample table holds.
"""

import contextlib
import errno
import importlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from libero_reward_envs.data.closing import ClosedAtExit

DECODED_CODECS = ("av1", "ffv1", "h264", "hevc", "mjpeg", "mpeg4", "vp9")
MAX_PIXELS = 2**26  # of one frame: 8192 x 8192
# A key frame every second frame, as LeRobotDataset has them, so that one frame costs at most two.
# Without B-frames packets stand in the order of their times, which joins files without gaps. The
# two quality levels give errors of the same size, 2.3 to 2.6 of 255 on average on LIBERO frames.
_ENCODERS = {
    "h264": ("libx264", {"g": "2", "crf": "18", "bf": "0", "preset": "veryfast"}),
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
}
WRITTEN_CODECS = tuple(_ENCODERS)
_SEEK_GAP_S = 2.0  # a frame further ahead than this is sought, not decoded up to
_SEEK_BACK_S = (0.0, 1.0, 10.0, np.inf)  # of files whose seeking ends behind the frame sought
_UNKNOWN_CODEC = "a codec unknown to FFmpeg"


class VideoFrames(ClosedAtExit):
    """The frames of one MP4 file, which stays open until `close`.

    Args:
        path: The file.

    Attributes:
        path: The file.
        frame_shape: (H, W, 3).
        n_frames: How many the sample table lists.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged, cut short, no video, or of a codec that is not decoded.
        ImportError: If PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        size = self.path.stat().st_size
        with self._naming_errors():
            self._container = import_av().open(
                str(self.path.absolute()), format="mp4", metadata_errors="replace"
            )
            try:
                self._stream = _check_stream(self._container, size)
            except BaseException:
                self._container.close()
                raise
        context = self._stream.codec_context
        self.frame_shape = (context.height, context.width, 3)
        self.n_frames = len(self._stream.index_entries)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, times_s: Sequence[float] | np.ndarray, tolerance_s: float) -> np.ndarray:
        """Return the frames at some times, exactly as decoding the file from its start gives them.

        Args:
            times_s: Shape (n,), in seconds, in any order.
            tolerance_s: How far from it the frame of a time may lie; less than half a frame.

        Returns:
            Shape (n, H, W, 3), uint8.

        Raises:
            ValueError: If there is no frame at one of the times, or the file is damaged.
        """
        times = np.asarray(times_s, np.float64)
        if not np.isfinite(times).all():
            raise ValueError(f"Cannot read {str(self.path)!r}: times must be finite numbers.")
        wanted = np.unique(times)
        if len(wanted) > self.n_frames:
            raise ValueError(
                f"Cannot read {str(self.path)!r}: {len(wanted)} frames are asked for, it has "
                f"{self.n_frames}."
            )
        frames = np.empty((len(wanted), *self.frame_shape), np.uint8)
        with self._naming_errors():
            for found, frame in enumerate(self._find(wanted, tolerance_s)):
                frames[found] = frame
        if len(times) == len(wanted) and (times == wanted).all():
            return frames
        return frames[np.searchsorted(wanted, times)]

    def _find(self, times: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
        """Yield the frame of each of some increasing times."""
        decoded: Iterator[Any] = iter(())
        frame = None
        for time in times:
            last, frame = frame, None
            if last is not None and time - last.time <= _SEEK_GAP_S:
                with contextlib.suppress(import_av().error.FFmpegError):
                    frame = _decode_up_to(decoded, last, time, tolerance_s)
            if frame is None:
                decoded, frame = self._seek(time, tolerance_s)
            if frame.is_corrupt or (frame.height, frame.width, 3) != self.frame_shape:
                raise ValueError(f"the frame at {time:.3f} s is damaged")
            yield frame.to_ndarray(format="rgb24")

    def _seek(self, time: float, tolerance_s: float) -> tuple[Iterator[Any], Any]:
        """Return the frame at a time, and an iterator over those behind it.

        Decoding starts at the key frame before it; if that fails, as it does at key frames that are
        surrounded by references to frames before them, from further back.
        """
        for back_s in _SEEK_BACK_S:
            start = max(0.0, time + tolerance_s - back_s)
            offset = int(start / self._stream.time_base)
            try:
                self._container.seek(offset, stream=self._stream, backward=True)
                # Frames without a time are what a decoder makes of packets that it cannot place.
                decoded = (f for f in self._container.decode(self._stream) if f.time is not None)
                first = next(decoded, None)
                if first is not None and (first.time <= time + tolerance_s or start == 0):
                    return decoded, _decode_up_to(decoded, first, time, tolerance_s)
            except import_av().error.FFmpegError:
                if start == 0:
                    raise
        raise ValueError(f"no frame can be decoded at {time:.3f} s")

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        av = import_av()
        try:
            yield
        except FileNotFoundError:
            raise
        except (av.error.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
            reason = str(error).rstrip(".")
            raise ValueError(f"Cannot read {str(self.path)!r}: {reason}.") from error


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int, codec: str) -> None:
    """Write an MP4 file of yuv420p frames, with a key frame every second frame.

    Args:
        path: The file, overwritten.
        frames: Each (H, W, 3) uint8, H and W even and of one size.
        fps: Frames a second.
        codec: One of `WRITTEN_CODECS`.

    Raises:
        ValueError: If the codec is unknown, there is no frame, or their size cannot be encoded.
        OSError: If it cannot be written.
    """
    av = import_av()
    if codec not in _ENCODERS:
        raise ValueError(f"Unknown codec {codec!r}. Choose one of: {', '.join(_ENCODERS)}.")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("Expected at least one frame.")
    height, width = first.shape[:2]
    if first.shape != (height, width, 3) or first.dtype != np.uint8 or height % 2 or width % 2:
        raise ValueError(
            f"Expected frames (H, W, 3) of uint8 with even H and W, got {first.shape} of "
            f"{first.dtype}. Store them without video, or pad them."
        )
    encoder, options = _ENCODERS[codec]
    with _naming_output(path), av.open(str(Path(path).absolute()), "w", format="mp4") as output:
        stream = output.add_stream(encoder, fps, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for array in itertools.chain([first], frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))


def join_videos(path: str | Path, parts: Sequence[str | Path], fps: int) -> list[float]:
    """Write the frames of several files of `write_video` one after the other, without encoding.

    Args:
        path: The file, overwritten.
        parts: Files of one size, rate and codec.
        fps: Their frames a second.

    Returns:
        The time of each part's first frame, in seconds.

    Raises:
        ValueError: If a part is damaged.
        OSError: If it cannot be written.
    """
    av = import_av()
    starts = []
    n_frames = 0
    with _naming_output(path), av.open(str(Path(path).absolute()), "w", format="mp4") as output:
        stream = None
        for part in parts:
            with VideoFrames(part) as video:
                stream = stream or output.add_stream_from_template(video._stream, opaque=True)
                starts.append(n_frames / fps)
                offset = Fraction(n_frames, fps) / video._stream.time_base
                for packet in video._container.demux(video._stream):
                    if packet.dts is None:  # the demuxer's last, empty one
                        continue
                    packet.pts, packet.dts = packet.pts + int(offset), packet.dts + int(offset)
                    packet.stream = stream
                    output.mux(packet)
                n_frames += video.n_frames
    return starts


def import_av() -> Any:
    """Return PyAV.

    Raises:
        ImportError: If it is not installed; says how it is.
    """
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise ImportError(
            "Videos need PyAV. Install it: pip install 'libero-reward-envs[datasets]'."
        ) from error
    av.logging.set_level(av.logging.PANIC)  # damage is raised, not printed besides
    return av


def _check_stream(container: Any, size: int) -> Any:
    if not container.streams.video:
        raise ValueError("it holds no video")
    stream = container.streams.video[0]
    context: Any = stream.codec_context  # None if FFmpeg does not know it
    codec = getattr(getattr(context, "codec", None), "canonical_name", _UNKNOWN_CODEC)
    if codec not in DECODED_CODECS:
        raise ValueError(f"it holds {codec}, known are: {', '.join(DECODED_CODECS)}")
    if not 0 < context.height * context.width <= MAX_PIXELS:
        raise ValueError(f"frames of {context.height} x {context.width} pixels are refused")
    entries = stream.index_entries
    # A file that was cut short is found without decoding: its last sample lies behind its end.
    last = entries[len(entries) - 1] if 0 < len(entries) <= size else None
    if last is None or last.pos + last.size > size:
        raise ValueError(f"its sample table does not fit its {size} bytes: it is cut short")
    # Errors are raised rather than covered up with pixels of frames before.
    context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    return stream


def _decode_up_to(decoded: Iterator[Any], frame: Any, time: float, tolerance_s: float) -> Any:
    """Return the frame at a time, `frame` or one behind it."""
    while frame.time < time - tolerance_s:
        following = next(decoded, None)
        if following is None:
            raise ValueError(f"it ends at {frame.time:.3f} s, before the frame at {time:.3f} s")
        frame = following
    if frame.time > time + tolerance_s:
        raise ValueError(f"no frame at {time:.3f} s, the next one is at {frame.time:.3f} s")
    return frame


@contextlib.contextmanager
def _naming_output(path: str | Path) -> Iterator[None]:
    av = import_av()
    try:
        yield
    except (av.error.ArgumentError, av.error.ExternalError) as error:
        raise ValueError(f"The encoder refused the frames of {str(path)!r}: {error}.") from error
    except av.error.FFmpegError as error:
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, f"Could not write the video: {error}", str(path)) from error
