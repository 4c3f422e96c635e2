import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from libero_reward_envs.yaml_config import (
    apply_overrides,
    build_settings,
    other_keys,
    read_yaml,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] | None = None
    kind: Literal["a", "b"] | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float = 1.0
    name: str = ""
    inner: Inner = dataclasses.field(default_factory=Inner)
    others: Mapping[str, Any] = other_keys()


def write(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_python_numbers_and_none_are_what_they_look_like(tmp_path):
    text = "a: 3e-4\nb: None\nc: 'None'\nd: 1e3\ne: -2E+1\nf: 10\ng: none\nh: a1e3\ni: Nonesuch"
    assert read_yaml(write(tmp_path, text)) == {
        **{"a": 3e-4, "b": None, "c": "None", "d": 1000.0, "e": -20.0, "f": 10},
        **{"g": None, "h": "a1e3", "i": "Nonesuch"},
    }


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {a: 1, a: 2}"])
def test_a_key_twice_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="the key 'a' stands here twice"):
        read_yaml(write(tmp_path, text))


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object/apply:os.system [id]", "a: \x00"])
def test_what_is_no_yaml_or_asks_for_an_object_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="as YAML"):
        read_yaml(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_overrides_win_and_leave_the_document_as_it_was():
    document = {"inner": {"sizes": [1], "kind": "a"}}
    changed = apply_overrides(
        document, ["inner.sizes=[2, 3]", "name=x", "new.a.b=1e-3"], ["inner", "name", "new"]
    )
    assert changed == {
        "inner": {"sizes": [2, 3], "kind": "a"}, "name": "x", "new": {"a": {"b": 1e-3}}
    }  # fmt: skip
    assert document == {"inner": {"sizes": [1], "kind": "a"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.kind", r"Expected 'inner\.<key>=<value>', got 'inner.kind'"),
        ("outer.kind=1", "First may come: inner"),
        ("inner..kind=1", "Expected"),
        ("inner.kind.x=1", "no mapping"),
        ("inner.kind=[1", "as YAML"),
    ],
)
def test_overrides_that_are_none_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        apply_overrides({"inner": {"kind": "a"}}, [override], ["inner"])


def test_other_keys_are_kept_apart():
    built = build_settings(Outer, {"rate": 2, "depth": [1], "inner": {"kind": "b"}}, "x")
    assert built == Outer(rate=2.0, inner=Inner(kind="b"), others={"depth": [1]})
    assert type(built.rate) is float


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"inner": {"kinds": 1}}, r"`x\.inner\.kinds`\. Did you mean 'kind'"),
        ({"inner": {"kind": "c"}}, r"one of a, b for `x\.inner\.kind`, got 'c'"),
        ({"inner": {"sizes": 3}}, r"Expected a list for `x\.inner\.sizes`, got 3"),
        ({"inner": {"sizes": [True]}}, "Expected int"),
        ({"inner": 3}, r"Expected a mapping under `x\.inner`, got 3"),
        ({"rate": "fast"}, r"Expected float for `x\.rate`, got 'fast'"),
        ({"rate": True}, "Expected float"),
        ([1], "Expected a mapping under `x`"),
    ],
)
def test_mistakes_are_named(block, message):
    with pytest.raises(ValueError, match=message):
        build_settings(Outer, block, "x")
