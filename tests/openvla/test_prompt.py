from typing import Any

import pytest

from libero_reward_envs.envs.tasks import all_tasks
from libero_reward_envs.openvla.prompt import is_prompt, make_prompt


def test_the_prompt_is_the_published_one() -> None:
    assert make_prompt("put the Bowl on the plate") == (
        "In: What action should the robot take to put the bowl on the plate?\nOut:"
    )


def test_the_first_version_asks_in_a_conversation() -> None:
    prompt = make_prompt("Open the drawer", "v01")
    assert prompt.startswith("A chat between a curious user and an artificial intelligence")
    assert prompt.endswith(
        "questions. USER: What action should the robot take to open the drawer? ASSISTANT:"
    )


def test_white_space_around_an_instruction_is_dropped() -> None:
    assert make_prompt(" open it\n") == make_prompt("open it")


def test_every_instruction_of_libero_makes_a_prompt() -> None:
    for task in all_tasks():
        assert task.instruction in make_prompt(task.instruction)


def test_braces_in_an_instruction_stay() -> None:
    assert "take to {0} %s?" in make_prompt("{0} %s")


def test_prompts_are_told_from_instructions() -> None:
    assert is_prompt(make_prompt("open it"))
    assert is_prompt(make_prompt("open it", "v01"))
    assert not is_prompt("open it")
    assert not is_prompt("In: What action should the robot take to open it?")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [("", "such as"), (" \n", "such as"), ("a " * 5000, "at most 8192 characters, got 9999")],
)
def test_empty_and_endless_instructions_are_refused(instruction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_prompt(instruction)


@pytest.mark.parametrize("instruction", [None, 3, ["open it"], b"open it"])
def test_what_is_no_text_is_refused(instruction: Any) -> None:
    with pytest.raises(TypeError, match=type(instruction).__name__):
        make_prompt(instruction)


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="v02, v01"):
        make_prompt("open it", "v03")
