"""`libero-reward serve-policy` serves what the policy does in a process, until Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy
from libero_reward_envs.agents.policy_client import PolicyClient
from libero_reward_envs.cli.main import main
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a token of some length"
TOLD = "pick up the milk"


def test_it_serves_the_policys_own_actions_and_ends_at_ctrl_c() -> None:
    words = ["serve-policy", "--policy", TINY_OPENVLA, "--unnorm-key", "libero_object"]
    code = "import sys; from libero_reward_envs.cli.main import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--port", "0", "--instruction", TOLD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "LIBERO_REWARD_ENVS_TOKEN": TOKEN,
        },
    )
    watch = threading.Timer(180, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+)/act, with the token", line)
        assert found is not None, line
        client = PolicyClient(found[1], TOKEN)
        policy = OpenVLAPolicy.from_pretrained(
            TINY_OPENVLA, unnorm_key="libero_object", instruction=TOLD, device="cpu"
        )
        assert client.settings == policy.settings
        images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
        for image in images:
            served, _ = client.predict({"agentview_image": image})
            expected, _ = policy.predict(image)
            np.testing.assert_allclose(served, expected, atol=1e-5)
        served, _ = client.predict(images[0], instruction="turn on the stove")
        expected, _ = policy.predict(images[0], instruction="turn on the stove")
        np.testing.assert_allclose(served, expected, atol=1e-5)
        client.close()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    finally:
        watch.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert rest.strip() == "Stopped."
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--host 0.0.0.0", "--no-token"),
        ("--token short", "at least 16 characters"),
        ("--port 70000", "`port`"),
        ("--max-body-mb 0", "`max_body_mb`"),
        ("--policy tiny-random-openvla --unnorm-key libero_objects", "Nearest: libero_object"),
    ],
)
def test_what_cannot_be_served_is_refused(
    words: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LIBERO_REWARD_ENVS_TOKEN", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["serve-policy", *words.split()])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
