"""Where object models come from."""

import subprocess
import sys
from pathlib import Path

import pytest

from libero_reward_envs.envs import assets
from libero_reward_envs.envs.assets import AssetSet, resolve_assets


def make_asset_folder(path: Path) -> Path:
    for name in assets._FOLDERS:
        (path / name).mkdir(parents=True)
    return path


def test_a_folder_is_used_as_named(tmp_path: Path) -> None:
    folder = make_asset_folder(tmp_path / "mine")
    assert resolve_assets(folder) == resolve_assets(str(folder)) == AssetSet("folder", folder)


@pytest.mark.parametrize("choice", ["auto", "official"])
def test_the_environment_variable_comes_first(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_asset_folder(tmp_path / "mine")
    monkeypatch.setenv(assets.ASSETS_VARIABLE, str(folder))
    assert resolve_assets(choice) == AssetSet("folder", folder)


def test_an_incomplete_folder_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    with pytest.raises(ValueError, match=r"lacks articulated_objects.*textures"):
        resolve_assets(tmp_path)
    with pytest.raises(ValueError, match="Expected LIBERO's asset folder"):
        resolve_assets(tmp_path / "nowhere")


def test_what_liberos_download_has_cached_is_official(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make_asset_folder(tmp_path / ".cache" / "libero" / "assets")
    assert resolve_assets("auto") == AssetSet("official", folder)


def test_without_models_or_network_the_built_in_set_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="no result on them is a LIBERO benchmark number"):
        assert resolve_assets("auto").name == "builtin"
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE is set.*LIBERO_REWARD_ENVS_ASSETS"):
        resolve_assets("official")


def test_an_unreachable_hub_is_given_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "ENDPOINT", "https://localhost")
    with pytest.warns(UserWarning, match="no connection to localhost"):
        assert resolve_assets("auto").name == "builtin"
    assert not (tmp_path / ".cache" / "libero").exists()


def test_the_built_in_set_knows_what_it_is_by_any_path(builtin_assets: AssetSet) -> None:
    assert resolve_assets(builtin_assets.path).name == "builtin"


def test_processes_that_start_together_share_one_built_in_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path))
    code = "from libero_reward_envs.envs.assets import builtin_folder; print(builtin_folder())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in started}
    assert len(folders) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(folders.pop()).name]


def test_a_set_that_was_not_finished_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path))

    def fail(folder: Path) -> None:
        folder.mkdir()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(assets.builtin_assets, "write_builtin_assets", fail)
        with pytest.raises(OSError, match="No space left"):
            assets.builtin_folder()
    assert not list(tmp_path.iterdir())
    assert (assets.builtin_folder() / "articulated_objects").is_dir()


def test_official_is_never_the_built_in_set(
    builtin_assets: AssetSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(assets.ASSETS_VARIABLE, str(builtin_assets.path))
    assert resolve_assets("auto").name == "builtin"
    with pytest.raises(ValueError, match="holds the built-in ones"):
        resolve_assets("official")


def test_a_download_that_another_process_finished_first_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(assets.urllib.request, "getproxies", lambda: {"https": "proxy"})

    def download(*_: object, local_dir: Path, **__: object) -> None:
        make_asset_folder(Path(local_dir))
        make_asset_folder(assets._download_folder())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_assets("auto").name == "official"
    assert [path.name for path in assets._download_folder().parent.iterdir()] == ["assets"]
