import pickle

import pytest
import torch
from safetensors.torch import save_file

from libero_reward_envs.reward_models.torch_files import check_state_dict, read_torch_file


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_that_asks_for_objects_is_refused_and_runs_nothing(by_torch, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    if by_torch:
        torch.save({"weight": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="Expected only tensors and plain values"):
        read_torch_file(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_cut_off_anywhere_is_refused(name, tmp_path):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)({"w": torch.ones(5000)}, path)
    whole = path.read_bytes()
    assert torch.equal(read_torch_file(path)["w"], torch.ones(5000))
    for size in (0, 1, 3, 9, 100, 4000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            read_torch_file(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    for content in (b"<html>Not found</html>", b"\x89PNG\r\n", b"version https://git-lfs"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            read_torch_file(path)
    with pytest.raises(FileNotFoundError, match="No file"):
        read_torch_file(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, device="meta"),
        torch.zeros(1).expand(10**9),
        torch.tensor([-torch.inf]),
    ],
)
def test_tensors_that_are_no_plain_finite_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"ensor 'w' in 'a\.pt'"):
        check_state_dict({"w": value}, "a.pt")


def test_a_long_list_of_missing_tensors_is_cut_short():
    expected = {f"w{index:02}": torch.zeros(1) for index in range(30)}
    with pytest.raises(ValueError, match=r"'w07'\] and 22 more, unexpected \[\]"):
        check_state_dict({}, "a.pt", expected)
