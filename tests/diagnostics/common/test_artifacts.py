"""Files that are whole or not there, whatever fails."""

import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from steepest.common.atomic import replacing
from steepest.diagnostics.common.artifacts import encode_gif, save_figure, save_json


def by_replacing(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("new")


WRITERS: dict[str, Callable[[Path], object]] = {
    "save_json": lambda path: save_json({"new": 1}, path),
    "replacing": by_replacing,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_move_leaves_the_old_file_alone(tmp_path, monkeypatch, name) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        WRITERS[name](path)
    assert {other.name: other.read_text() for other in tmp_path.iterdir()} == {"file.json": "old"}


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_is_whole_when_it_gets_its_name(tmp_path, monkeypatch, name) -> None:
    path = tmp_path / "file.json"
    seen, move = [], os.replace

    def watched(source, target) -> None:
        seen.append((Path(source).parent, Path(source).read_text(), Path(target), path.exists()))
        move(source, target)

    monkeypatch.setattr(os, "replace", watched)
    WRITERS[name](path)
    assert seen == [(tmp_path, path.read_text(), path, False)]
    assert [other.name for other in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read_it_as_any_other_file(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "new" / "file.txt") as temporary:
            temporary.write_text("text")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "file.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_json_has_null_for_what_it_does_not_know(tmp_path) -> None:
    save_json({"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": math.nan, "d": "NaN"}}, tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("\n")
    assert json.loads(text) == {"a": [1.5, None, [None, None]], "b": {"c": None, "d": "NaN"}}


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert {other.name: other.read_text() for other in tmp_path.iterdir()} == {"file.txt": "old"}


def test_a_figure_becomes_two_whole_files_and_an_image(tmp_path) -> None:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], color="black")
    image = save_figure(figure, tmp_path / "figures", "a_figure")
    assert image.shape == (150, 300, 3)  # 150 dots an inch
    assert (image.min(), image.max()) == (0, 255)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["a_figure.png", "a_figure.svg"]
    assert imread(tmp_path / "figures" / "a_figure.png").shape[:2] == image.shape[:2]
    assert "</svg>" in (tmp_path / "figures" / "a_figure.svg").read_text()


def test_an_animation_shows_each_frame_as_long_and_rests_on_the_last() -> None:
    palette = Image.new("RGB", (4, 1))
    palette.putdata([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue", "black")]
    for seconds, each in ((2.0, 500), (0.1, 40)):  # viewers slow down what is faster
        with Image.open(io.BytesIO(encode_gif(frames, palette.quantize(4), seconds))) as image:
            shown = []
            for frame in range(4):
                image.seek(frame)
                shown.append(image.info["duration"])
            assert shown == [each, each, each, 1500]
            assert image.info["loop"] == 0
