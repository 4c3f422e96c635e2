from pathlib import Path

import pytest

from libero_reward_envs.cli.main import main
from libero_reward_envs.openvla.processor import OpenVLAProcessor


def test_the_command_writes_a_checkpoint_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["make-tiny-openvla", "--out", str(tmp_path / "tiny")])
    assert "random weights" in capsys.readouterr().out
    assert OpenVLAProcessor.from_pretrained(tmp_path / "tiny").image_processor.n_channels == 6
    with pytest.raises(SystemExit):
        main(["make-tiny-openvla", "--out", str(tmp_path / "tiny")])
    assert "Remove it" in capsys.readouterr().err
