"""Which folders a run may take."""

from pathlib import Path

import pytest

from attnedit.convert.folder import PROVENANCE, owned, require_ours


@pytest.mark.parametrize("name", ["thesis.tex", "student"])
def test_a_strangers_folder_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=f"must be a new or empty folder .* holds {name}"):
        require_ours(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_new_empty_and_own_folders_are_free(tmp_path: Path) -> None:
    require_ours(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with owned(tmp_path):  # a run that was killed at once leaves a lock
        require_ours(tmp_path)
    (tmp_path / "edit").mkdir()
    (tmp_path / PROVENANCE).write_text("{}")
    require_ours(tmp_path)


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match="run must be a folder"):
        require_ours(tmp_path / "run")
