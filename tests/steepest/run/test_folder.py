from concurrent.futures import ThreadPoolExecutor
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.run.folder import check_name, create_run_folder, newest_checkpoint, remove_if_empty, remove_run_folder


def test_every_run_gets_a_fresh_folder(tmp_path):
    folders = [create_run_folder(tmp_path / "runs", "task") for _ in range(3)]
    assert [folder.name for folder in folders] == ["version_0", "version_1", "version_2"]


def test_numbers_go_on_after_the_highest(tmp_path):
    for name in ("version_9", "version_10", "version_x", "notes"):
        (tmp_path / "task" / name).mkdir(parents=True)
    assert create_run_folder(tmp_path, "task").name == "version_11"


def test_many_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: create_run_folder(tmp_path / "runs", "task"), range(64)))
    assert len(set(folders)) == 64
    assert all(folder.is_dir() for folder in folders)


def test_runs_that_fail_at_once_do_not_disturb_others(tmp_path):
    def start_and_fail(_):
        folder = create_run_folder(tmp_path / "runs", "task")
        (folder / "config.yaml").write_text("")
        remove_run_folder(folder)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start_and_fail, range(64)))
    assert not (tmp_path / "runs").exists()


def test_only_empty_folders_are_taken_back(tmp_path):
    kept, empty = (create_run_folder(tmp_path / "runs", "task") for _ in range(2))
    (kept / "run.json").write_text("{}")
    remove_if_empty(empty)
    remove_if_empty(kept)
    assert not empty.exists()
    assert (kept / "run.json").exists()


def test_newest_checkpoint(tmp_path):
    for number in (2, 9, 10, 11):
        folder = tmp_path / f"task/version_{number}/checkpoints"
        folder.mkdir(parents=True)
        if number < 11:
            with ZipFile(folder / "last.ckpt", "w") as file:
                file.writestr("data", "weights")
    assert newest_checkpoint(tmp_path, "task", "last").parts[-3] == "version_10"
    newest = tmp_path / "task/version_10/checkpoints/last.ckpt"
    newest.write_bytes(newest.read_bytes()[:-30])
    assert newest_checkpoint(tmp_path, "task", "last").parts[-3] == "version_9"
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt"):
        newest_checkpoint(tmp_path, "task", "best")


@given(st.text(max_size=20))
def test_a_name_that_is_accepted_is_one_plain_folder(name):
    plain = set(name) <= set("_.+=,-") | {letter for letter in name if letter.isalnum()}
    if plain and name and name[0].isascii() and name[0].isalnum():
        assert check_name(name) == name
    else:
        with pytest.raises(ValueError, match="--name") as caught:
            check_name(name)
        assert repr(name) in str(caught.value)
