import dataclasses
from pathlib import Path

import pytest

import libero_reward_envs.cli.train_rrd as train_rrd
from libero_reward_envs.cli.main import main, write_out_flags
from libero_reward_envs.cli.train_rrd_args import TrainRRDArgs


@dataclasses.dataclass
class Inner:
    cuda: bool = False


@dataclasses.dataclass
class Arguments:
    save_final: bool = True
    tag: str = ""
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--save_final", "--save-final"),
        ("--save_final True", "--save-final"),
        ("--save-final=True", "--save-final"),
        ("--save_final=false", "--no-save-final"),
        ("--save_final False --cuda", "--no-save-final --cuda"),
        ("--cuda true --tag True", "--cuda --tag True"),
        ("--no-save_final --tag=False", "--no-save_final --tag=False"),
        ("--cuda maybe", "--cuda maybe"),
        ("--cuda=maybe", "--cuda=maybe"),
    ],
)
def test_flags_are_said_in_several_ways(words: str, expected: str) -> None:
    assert write_out_flags(words.split(), Arguments) == expected.split()


@pytest.mark.parametrize(
    "words",
    [
        "--libero_dataset_path a.h5 --rrd_batch_size 8 --no_save_final --rrd_bias_correction True",
        "--libero-dataset-path a.h5 --rrd-batch-size=8 --no-save-final --rrd-bias-correction",
        "--libero_dataset_path=a.h5 --rrd_batch_size=8 --save_final=False --rrd_bias-correction=1",
    ],
)
def test_dashes_and_underscores_mean_the_same(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[TrainRRDArgs] = []
    monkeypatch.setattr(train_rrd, "main", seen.append)
    if words.endswith("=1"):
        with pytest.raises(SystemExit) as stopped:
            main(["train-rrd", *words.split()])
        assert stopped.value.code == 2
        return
    main(["train-rrd", *words.split()])
    (args,) = seen
    assert args.libero_dataset_path == Path("a.h5")
    assert args.method.rrd_batch_size == 8
    assert args.method.rrd_bias_correction
    assert not args.save_final


def test_help_names_the_flags_and_their_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train-rrd", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for text in ("method options", "schedule options", "policy options", "--libero-dataset-path"):
        assert text in printed
