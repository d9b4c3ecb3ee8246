from pathlib import Path

import pytest
from command import attnedit
from tiny import write_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversion that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = attnedit("convert", write_recipe(folder))
    assert done.returncode == 0, done.stderr
    return folder
