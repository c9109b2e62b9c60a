"""A study on a real Ray cluster of this machine."""

import pytest

from tests.steepest.study.small_studies import numbers, results, study_command, write_study


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_gives_the_numbers_of_this_machine(tmp_path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: steepest[cluster]")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_study(tmp_path / name, seeds=1)
    words = ["run", "question.yaml", "--report", "false"]
    assert study_command(tmp_path / "here", *words)[0] == 0
    code, out, err = study_command(tmp_path / "there", *words, "--backend", "ray", "--jobs", "2")
    assert (code, err) == (0, "")
    assert "2/2" in out
    assert {key: numbers(result) for key, result in results(tmp_path / "there").items()} == {
        key: numbers(result) for key, result in results(tmp_path / "here").items()
    }
