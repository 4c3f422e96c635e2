import av
import numpy as np
import pytest

from libero_reward_envs.data.lerobot import video_frames
from libero_reward_envs.data.lerobot.video_frames import (
    WRITTEN_CODECS,
    VideoFrames,
    join_videos,
    write_video,
)

FPS = 20


def make_frames(n_frames=30, seed=0):
    """A bright square that moves over a ramp: no two frames are alike."""
    rows, columns = np.mgrid[:48, :64]
    frames = np.stack([np.stack([rows * 4, columns * 3, rows + columns], -1)] * n_frames)
    for number, frame in enumerate(frames):
        frame[10:30, number : number + 12] = 250 - 20 * seed
    return frames.astype(np.uint8)


def decode_from_the_start(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def encode(path, frames, encoder, options):
    with av.open(str(path), "w", format="mp4") as output:
        stream: av.VideoStream = output.add_stream(encoder, FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "video.mp4"


@pytest.mark.parametrize("codec", WRITTEN_CODECS)
def test_a_frame_is_what_decoding_from_the_start_gives(path, codec):
    frames = make_frames()
    write_video(path, frames, FPS, codec)
    expected = decode_from_the_start(path)
    order = np.random.default_rng(0).permutation(len(frames))
    with VideoFrames(path) as video:
        assert (video.n_frames, video.frame_shape) == (30, (48, 64, 3))
        np.testing.assert_array_equal(video.read(np.arange(30) / FPS, 0.01), expected)
        np.testing.assert_array_equal(video.read(order / FPS, 0.01), expected[order])
        for number in order:
            np.testing.assert_array_equal(video.read([number / FPS], 0.01)[0], expected[number])
        np.testing.assert_array_equal(video.read([0.5, 0.2, 0.5], 0.01), expected[[10, 4, 10]])
    # What compression costs: little on average, more at the edges of the square.
    error = np.abs(expected.astype(int) - frames)
    assert error.mean() < 3
    assert np.percentile(error, 99) < 40


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("libx264", {"g": "250", "bf": "3"}),
        ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
        ("libsvtav1", {"g": "60", "preset": "12"}),
        ("libx265", {"g": "10", "x265-params": "log-level=none"}),
    ],
)
def test_frames_far_from_key_frames_are_found(path, encoder, options):
    encode(path, make_frames(60), encoder, options)
    expected = decode_from_the_start(path)
    with VideoFrames(path) as video:
        for number in np.random.default_rng(1).permutation(60):
            np.testing.assert_array_equal(video.read([number / FPS], 0.01)[0], expected[number])
        spread = np.array([1, 11, 12, 13, 59])
        np.testing.assert_array_equal(video.read(spread / FPS, 0.01), expected[spread])


@pytest.mark.parametrize("codec", WRITTEN_CODECS)
def test_joined_files_hold_the_frames_of_their_parts(path, codec):
    parts = [path.with_name(f"{number}.mp4") for number in range(3)]
    for number, part in enumerate(parts):
        write_video(part, make_frames(3 + 4 * number, number), FPS, codec)
    assert join_videos(path, parts, FPS) == [0.0, 3 / FPS, 10 / FPS]
    expected = np.concatenate([decode_from_the_start(part) for part in parts])
    with VideoFrames(path) as video:
        assert video.n_frames == 21
        np.testing.assert_array_equal(video.read(np.arange(21) / FPS, 0.01), expected)
        np.testing.assert_array_equal(video.read([10 / FPS], 0.01)[0], expected[10])


def test_times_without_a_frame_are_refused(path):
    write_video(path, make_frames(10), FPS, "h264")
    with VideoFrames(path) as video:
        with pytest.raises(ValueError, match=r"video\.mp4.*ends at 0\.450 s, before .* 0\.500 s"):
            video.read([0.4, 0.5], 0.01)
        with pytest.raises(ValueError, match=r"no frame at 0\.120 s, the next one is at 0\.150"):
            video.read([0.12], 0.01)
        with pytest.raises(ValueError, match="must be finite"):
            video.read([np.nan], 0.01)
        with pytest.raises(ValueError, match="11 frames are asked for, it has 10"):
            video.read(np.arange(11) / FPS, 0.01)
        assert video.read([0.45], 0.01).shape == (1, 48, 64, 3)  # an error does no harm


@pytest.mark.parametrize(
    ("share", "table_first"), [(0, False), (0.5, False), (0.9, False), (0.5, True), (0.999, True)]
)
def test_a_file_cut_short_is_refused_before_decoding(path, share, table_first):
    write_video(path, make_frames(), FPS, "h264")
    if table_first:
        moved = path.with_name("moved.mp4")
        with av.open(str(path)) as source:
            options = {"movflags": "faststart"}
            with av.open(str(moved), "w", format="mp4", options=options) as output:
                stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:
                        packet.stream = stream
                        output.mux(packet)
        path = moved
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"Cannot read '.*\.mp4'"):
        VideoFrames(path)


def test_damaged_frames_are_refused(path):
    write_video(path, make_frames(), FPS, "h264")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 1500
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    with VideoFrames(path) as video, pytest.raises(ValueError, match="Cannot read"):
        video.read(np.arange(30) / FPS, 0.01)


def test_codecs_that_nobody_knows_are_named(path):
    write_video(path, make_frames(3), FPS, "h264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(ValueError, match=r"video\.mp4.*codec unknown to FFmpeg.*known are: av1"):
        VideoFrames(path)
    encode(path, make_frames(3), "libvpx-vp9", {})
    with VideoFrames(path) as video:
        assert video.n_frames == 3
    encode(path, make_frames(3), "mpeg2video", {})
    with pytest.raises(ValueError, match="it holds mpeg2video"):
        VideoFrames(path)


def test_only_mp4_is_opened(path, tmp_path):
    other = tmp_path / "other.mp4"
    write_video(other, make_frames(3), FPS, "h264")
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match="Cannot read"):
        VideoFrames(path)
    with pytest.raises(FileNotFoundError):
        VideoFrames(tmp_path / "none.mp4")


def test_frames_of_absurd_size_are_refused(path, monkeypatch):
    write_video(path, make_frames(3), FPS, "h264")
    monkeypatch.setattr(video_frames, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="frames of 48 x 64 pixels are refused"):
        VideoFrames(path)


def test_what_cannot_be_encoded_is_refused(path):
    with pytest.raises(ValueError, match="Unknown codec 'h263'"):
        write_video(path, make_frames(), FPS, "h263")
    with pytest.raises(ValueError, match=r"even H and W, got \(47, 64, 3\)"):
        write_video(path, make_frames()[:, :47], FPS, "h264")
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(path, [], FPS, "h264")
    with pytest.raises(OSError, match="Could not write the video"):
        write_video(path.with_name("none") / "video.mp4", make_frames(), FPS, "h264")
