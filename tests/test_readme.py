"""The Python of README.md runs as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def runnable(block: str) -> bool:
    return "milk_reward" not in block  # that one needs the two commands above it


@pytest.mark.parametrize("block", [b for b in BLOCKS if runnable(b)], ids=lambda b: b[:30])
@pytest.mark.filterwarnings("ignore")
def test_readme_code_runs(block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_readme_has_its_examples() -> None:
    assert len(BLOCKS) >= 4
