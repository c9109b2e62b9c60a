"""Numbers that galleries show, read back and compared with ones worked out by hand."""

from dataclasses import replace

import pytest

from steepest.study.figures import NothingToDraw
from steepest.study.figures.gallery import LARGEST, MOST
from steepest.study.question.definition import Axis
from tests.steepest.study.figures.artists import WIDTHS, all_of
from tests.steepest.study.synthetic import OPTIMIZERS, make_results, make_study


def leave_image(folder, result, content, file="figures/a_map.png"):
    """Write an image of a run; any bytes will do, or so many zeros."""
    path = folder / result.run_folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else bytes(content))


@pytest.mark.parametrize("file", ["figures/a_map.png", "deep/in/a_map.gif"])
def test_gallery_has_the_bytes_of_one_image_of_each_cell(tmp_path, file):
    study = make_study([OPTIMIZERS, WIDTHS], seeds=2)
    results = make_results(study)
    for place, result in enumerate(results[1:]):  # the first seed of the first cell has left none
        leave_image(tmp_path, result, b"image %d" % place, file)
        leave_image(tmp_path, result, b"another", "figures/b_map.png")
    tuning = replace(results[0], stage="tuning", run_folder="tuning")
    leave_image(tmp_path, tuning, b"of tuning", file)
    drawings = all_of(study, [tuning, *reversed(results[6:]), *results[:6]], tmp_path, kind="gallery", file=file)
    # In the order of the study file; of each cell the first of the results.
    assert [(drawing.title, drawing.image) for drawing in drawings] == [
        ("SGD, 1, seed 1", b"image 0"),
        ("SGD, 2, seed 0", b"image 1"),
        ("Adam, 1, seed 0", b"image 3"),
        ("Adam, 2, seed 1", b"image 6"),
        ("Muon, 1, seed 1", b"image 8"),
        ("Muon, 2, seed 1", b"image 10"),
    ]
    for drawing in drawings:
        assert (drawing.suffix, drawing.group, drawing.figure) == (file[-4:], "A map", None)
        assert drawing.caption == "A map of one seed of each cell, as the run has drawn it."
    assert drawings[0].alternative == "A map of SGD, 1, seed 1."
    named = all_of(study, results, tmp_path, kind="gallery", file=file, title="Maps")
    assert {drawing.group for drawing in named} == {"Maps"}
    assert named[0].title == "SGD, 1, seed 1"


def test_gallery_leaves_out_empty_and_too_large_images(tmp_path):
    study = make_study(seeds=3)
    results = make_results(study)
    sgd, adam, muon = results[:3], results[3:6], results[6:]
    leave_image(tmp_path, sgd[0], b"")
    leave_image(tmp_path, sgd[1], LARGEST + 1)
    leave_image(tmp_path, sgd[2], LARGEST)
    for result in adam:
        leave_image(tmp_path, result, b"")
    (tmp_path / muon[0].run_folder / "figures/a_map.png").mkdir(parents=True)
    leave_image(tmp_path, muon[1], b"1")
    entry = {"kind": "gallery", "file": "figures/a_map.png"}
    assert [(drawing.title, len(drawing.image)) for drawing in all_of(study, results, tmp_path, **entry)] == [
        ("SGD, seed 2", 4_000_000),
        ("Muon, seed 1", 1),
    ]
    with pytest.raises(NothingToDraw, match=r"No run has left figures/a_map\.png of at most 4 MB\."):
        all_of(study, adam, tmp_path, **entry)


def test_gallery_has_room_for_so_many_cells(tmp_path):
    study = make_study([Axis("optimizer", {f"number {place}": {} for place in range(30)})], seeds=1)
    results = make_results(study, lambda *_: (0.9, None))
    for result in results:
        leave_image(tmp_path, result, b"1")
    entry = {"kind": "gallery", "file": "figures/a_map.png"}
    assert MOST == 24
    # Cells without a trial yet do not count.
    assert len(all_of(study, results[:24], tmp_path, **entry)) == 24
    with pytest.raises(NothingToDraw, match="There are 25 cells, and room for 24 images; choose some by `only`"):
        all_of(study, results[:25], tmp_path, **entry)
    only = {"optimizer": [f"number {place}" for place in range(6, 30)]}
    assert len(all_of(study, results, tmp_path, **entry, only=only)) == 24
