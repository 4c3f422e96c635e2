"""`extract-features`: what it writes, stopping and going on, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from libero_reward_envs.cli.main import main
from libero_reward_envs.data import Episode, EpisodeWriter, load_episodes
from libero_reward_envs.data.provenance import Provenance
from libero_reward_envs.encoders.cache import open_feature_cache
from libero_reward_envs.encoders.dataset import encode_dataset
from libero_reward_envs.encoders.openvla import load_openvla_encoders

VIEWS = ("agentview_image", "wrist_image")
TINY = "tiny-random-openvla"
N_EPISODES, N_STEPS = 3, 4
N_FRAMES = N_EPISODES * (N_STEPS + 1)


def make_episode(seed, n_steps=N_STEPS, orientation: str | None = "raw"):
    rng = np.random.default_rng(seed)
    shape = (n_steps + 1, 24, 24, 3)
    observations: dict[str, np.ndarray] = {
        key: rng.integers(0, 256, shape, dtype=np.uint8) for key in VIEWS
    }
    observations["state"] = rng.normal(size=(n_steps + 1, 2)).astype(np.float32)
    provenance = Provenance("test", orientation=orientation).as_json()
    return Episode(
        observations,
        rng.uniform(-1, 1, (n_steps, 7)),
        np.zeros(n_steps),
        False,
        False,
        instruction=f"open drawer {seed % 2}",
        metadata={"provenance": provenance},
    )


def write(path, *episodes):
    with EpisodeWriter(path) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "episodes.h5", *map(make_episode, range(N_EPISODES)))


@pytest.fixture(scope="session")
def encoders(_private_cache):
    return load_openvla_encoders(TINY, image_keys=VIEWS, orientation="raw", device="cpu")


def extract(data, *words):
    views = () if "--image-keys" in words else ("--image-keys", *VIEWS)
    common = ("--openvla-model", TINY, *views, "--device", "cpu")
    main(["extract-features", str(data), *common, *map(str, words)])


def fails(capsys, data, *words):
    with pytest.raises(SystemExit) as stop:
        extract(data, *words)
    assert stop.value.code == 1
    return capsys.readouterr().err


def check_features(data, encoders, root=None):
    """They are there for every frame, and are those that the encoders give."""
    root = root or data.with_name(data.name + ".features")
    dataset = load_episodes(data)
    kept, fresh = encode_dataset(dataset, encoders, root), encode_dataset(dataset, encoders)
    for index in range(len(dataset)):
        found, expected = kept[index].observations, fresh[index].observations
        assert set(found) == {"openvla/vision", "openvla/language", "state"}
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[key], rtol=2.0**-7, atol=1e-3)


@pytest.mark.filterwarnings("error:Not all frames")
def test_features_are_computed_once_and_found_beside_the_data(data, encoders, capsys):
    before = data.read_bytes()
    extract(data, "--batch-size", 4)
    told = capsys.readouterr().out
    assert re.search(rf"{N_FRAMES} of {N_FRAMES} frames encoded now, [\d.e+]+ frames/s\.", told)
    assert f"Features openvla/vision: {data}.features/" in told
    assert f"Features openvla/language: {data}.features/" in told
    assert data.read_bytes() == before
    check_features(data, encoders)
    assert len(open_feature_cache(f"{data}.features", encoders[1])) == 2  # instructions
    extract(data)
    assert f"0 of {N_FRAMES} frames encoded now." in capsys.readouterr().out


@pytest.mark.filterwarnings("error:Not all frames")
def test_settings_have_folders_of_their_own(data, tmp_path, capsys):
    out = tmp_path / "features"
    words = ("--out", out, "--pool", "none", "--dtype", "bfloat16", "--precision", "bfloat16")
    extract(data, *words, "--n-tokens", 70, "--task-description", "close it")
    configs = [json.loads(path.read_text()) for path in out.glob("*/config.json")]
    vision, language = sorted(configs, key=lambda config: -len(config["observation_keys"]))
    assert vision["observation_keys"] == list(VIEWS)
    assert (vision["dtype"], vision["settings"]["precision"]) == ("bfloat16", "bfloat16")
    assert vision["settings"]["orientation"] == "raw"  # as the episodes say
    assert language["settings"]["task_description"] == "close it"
    assert language["shape"][0] == 70
    encoders = load_openvla_encoders(
        TINY,
        image_keys=VIEWS,
        pool="none",
        orientation="raw",
        device="cpu",
        dtype="bfloat16",
        task_description="close it",
        n_tokens=70,
        stored_dtype="bfloat16",
    )
    check_features(data, encoders, out)
    extract(data, "--out", out)
    assert f"{N_FRAMES} of {N_FRAMES} frames encoded" in capsys.readouterr().out.splitlines()[-3]
    assert len(list(out.iterdir())) == 4


@pytest.mark.filterwarnings("error:Not all frames")
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, encoders, capsys):
    data = write(tmp_path / "long.h5", make_episode(0, 149), make_episode(1, 149))
    code = (
        "import sys\n"
        "from libero_reward_envs.cli.main import main\n"
        "from libero_reward_envs.encoders import cache\n"
        "cache._ROWS_PER_CHUNK = 8\n"
        "main(sys.argv[1:])"
    )
    words = ["extract-features", str(data), "--openvla-model", TINY, "--image-keys", *VIEWS]
    words += ["--device", "cpu", "--batch-size", "4"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folder = open_feature_cache(f"{data}.features", encoders[0]).folder
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.safetensors"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    n_safe = len(open_feature_cache(f"{data}.features", encoders[0]))
    assert 16 <= n_safe < 300
    extract(data)
    assert f"{300 - n_safe} of 300 frames encoded now" in capsys.readouterr().out
    check_features(data, encoders)
    assert not list(folder.glob(".*"))


def test_orientation_must_be_known_and_one(data, tmp_path, capsys):
    unknown = write(tmp_path / "unknown.h5", make_episode(0, orientation=None))
    assert "got none of them. Give it by --orientation" in fails(capsys, unknown)
    extract(unknown, "--orientation", "upright")
    mixed = write(tmp_path / "mixed.h5", make_episode(0), make_episode(1, orientation="vla180"))
    assert "got several: raw, vla180. Bring them to one by" in fails(capsys, mixed)
    message = fails(capsys, data, "--orientation", "upright")
    assert "Expected images that are 'upright' for 'openvla/vision', got 'raw'" in message


def test_bad_input_is_told(data, tmp_path, capsys):
    assert "No episodes at" in fails(capsys, tmp_path / "none.h5")
    assert "no observation 'front_image'" in fails(capsys, data, "--image-keys", "front_image")
    words = ("--openvla-model", tmp_path / "none")
    assert "No folder" in fails(capsys, data, *words)
    nameless = make_episode(0)
    nameless = Episode(
        nameless.observations, nameless.actions, nameless.rewards, False, False,
        metadata=nameless.metadata,
    )  # fmt: skip
    path = write(tmp_path / "nameless.h5", nameless)
    assert "Give one for all by --task-description" in fails(capsys, path)
    extract(path, "--task-description", "open it")
