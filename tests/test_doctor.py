"""layertool doctor and layertool --version: what is installed, what is missing, and what to type."""

import json
import subprocess
import sys
from importlib.metadata import metadata, version

import pytest
import torch
from commands import succeeds

from layertool import __version__, doctor


def found(**changes) -> dict:
    return json.loads(succeeds("doctor", "--json").stdout)


def test_it_names_every_package_and_extra():
    printed = succeeds("doctor").stdout
    for name in ("torch", "transformers", "numpy", "h5py", "click"):
        assert name in printed
        assert version(name) in printed
    for extra in metadata("layertool").get_all("Provides-Extra"):
        assert extra in printed


def test_json_has_the_same():
    report = found()
    assert report["layertool"]["layertool"] == __version__
    assert set(report["extras"]) == set(metadata("layertool").get_all("Provides-Extra"))
    assert all(one["is_right"] for one in report["packages"])
    assert report["device"]["device"] == str(doctor._device()[0]["device"])
    assert int(report["device"]["threads"]) == torch.get_num_threads()


def test_a_missing_extra_comes_with_its_command(monkeypatch):
    there = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "espeakng-loader" else there(name))
    assert found()["extras"]["demo"]["install"] == "pip install 'layertool[demo]'"
    assert "pip install 'layertool[demo]'" in succeeds("doctor").stdout  # rich takes brackets for styles


def test_an_old_package_is_told(monkeypatch):
    there = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.0" if name == "numpy" else there(name))
    problems = found()["problems"]
    assert any("numpy is 1.0" in problem and "pip install 'numpy>=" in problem for problem in problems)
    assert "another version" in succeeds("doctor").stdout


def test_the_environment_is_looked_at(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(doctor.locale, "getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    report = found()
    assert report["environment"]["HF_HOME"] == str(tmp_path / "hub")
    assert any("HF_HUB_OFFLINE is set" in problem for problem in report["problems"])
    assert any("PYTHONUTF8=1" in problem for problem in report["problems"])
    assert "To look at:" in succeeds("doctor").stdout


def test_a_torch_that_cannot_be_loaded_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    facts, problems = doctor._device()
    assert facts == {"device": "none"}
    assert "torch cannot be loaded" in problems[0]


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10e9, 24e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    facts, problems = doctor._device()
    assert (facts["device"], facts["name"], facts["devices"]) == ("cuda:0", "Some GPU", "2")
    assert facts["memory"] == "24.0 GB, 10.0 GB of it free"
    assert not problems


def test_the_version_names_what_decides_numbers():
    lines = succeeds("--version").stdout.splitlines()
    assert lines[0] == f"layertool {__version__}"
    assert [line.split()[0] for line in lines[1:]] == ["Python", "torch", "transformers", "numpy", "h5py"]
    assert f"torch {version('torch')}" in lines


@pytest.mark.parametrize("words", [["--version"], ["completion", "bash"]])
def test_neither_version_nor_completion_loads_anything_heavy(words):
    code = (
        f"import sys; from layertool.cli import cli\ntry: cli({words!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'h5py', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
