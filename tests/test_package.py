"""The wheel holds everything that a command reads, and says what it is."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The project as a wheel, built from a copy so that nothing is left in the tree."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "layertool", source / "layertool", ignore=shutil.ignore_patterns("__pycache__"))
    command = "-m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir".split()
    done = subprocess.run(
        [sys.executable, *command, str(folder), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel):
    inside = set(wheel.namelist())
    there = [path for path in (ROOT / "layertool").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = [str(path.relative_to(ROOT)) for path in there if str(path.relative_to(ROOT)) not in inside]
    assert not missing, "name them in [options.package_data] of setup.cfg"


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    read = {Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if "dist-info/" in name}
    about = Parser().parsestr(read["METADATA"])
    assert about["Name"] == "layertool"
    assert "Apache-2.0" in (about["License-Expression"], about["License"])
    assert "Apache License" in read["LICENSE"]
    assert "layertool = layertool.cli:main" in read["entry_points.txt"]
    assert about["Version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {about['Version']}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
