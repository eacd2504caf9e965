"""Output folders: one lock, one sweep, one guard of what is read, and every way in which a disk is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import small
from commands import refused, succeeds

from layertool import files, folders, results
from layertool.corpora.corpus import Corpus
from layertool.errors import LayertoolWarning, StoreError, UsageError
from layertool.models.open import Model
from layertool.store.export import ExportFolder
from layertool.training.runs import RunFolder

DECIDED = {"kind": "test", "seed": 0}


def run_folder(path: Path) -> RunFolder:
    return RunFolder(path, "run.json", DECIDED, ())


class Store:
    """As much of a store as the folder of an export needs."""

    about = {"configuration_hash": "0"}  # noqa: RUF012


# locks


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("what", ["corpus", "run", "export"])
def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, number, what):
    def none(_file, _how):
        raise OSError(number, os.strerror(number))

    corpus = small.corpus(tmp_path / "source", 1)
    monkeypatch.setattr(folders.fcntl, "flock", none)
    out = tmp_path / "out"
    write = {
        "corpus": lambda: corpus.write(out),
        "run": lambda: run_folder(out).close(),
        "export": lambda: ExportFolder(Store(), out, [], False).__enter__().close(),
    }[what]
    with pytest.warns(LayertoolWarning, match=r"out: this file system has no locks; make sure that nobody else writes"):
        write()


def test_a_lock_that_was_taken_away_is_none(tmp_path, monkeypatch):
    """Its last holder removes the file of a corpus: who has opened it before holds nothing."""
    path = tmp_path / ".lock"
    real = folders.fcntl.flock
    monkeypatch.setattr(folders.fcntl, "flock", lambda *given: (path.unlink(), real(*given)))
    with pytest.raises(StoreError, match="busy"), folders.held(path, shared=False, busy="busy"):
        pass


# folders that were begun


def test_a_run_killed_while_its_first_record_is_written(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.4194999-0123456789ab.part").write_text("{")
    run_folder(tmp_path).close()
    (tmp_path / ".tmpuEKHIf").touch()  # as safetensors leaves it
    run_folder(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "run.json"]


def test_a_folder_of_something_else_is_none_of_a_run(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"is no trained model but holds other things \(thesis.tex\)"):
        run_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_export_that_was_stopped_goes_on(tmp_path):
    paths = [tmp_path / "word.npz", tmp_path / "phone.npz"]
    with suppress(KeyboardInterrupt), ExportFolder(Store(), tmp_path, paths, False):
        paths[0].touch()
        raise KeyboardInterrupt
    with pytest.raises(StoreError, match=r"word.npz exists already"):  # another export does not replace it
        ExportFolder(Store(), tmp_path, paths[:1], False)
    with ExportFolder(Store(), tmp_path, paths, False):
        paths[1].touch()
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    with pytest.raises(StoreError, match=r"word.npz exists already"):
        ExportFolder(Store(), tmp_path, paths, False)


# what killed processes leave

KILLED = """
import os, signal, sys
from pathlib import Path
from layertool.files import whole_file, whole_folder
with whole_file(Path(sys.argv[1])) as file, whole_folder(Path(sys.argv[2])) as folder:
    file.write_text("half")
    folder.mkdir()
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path) -> list[str]:
    """The names that a killed process leaves in a folder where it was writing results."""
    subprocess.run([sys.executable, "-c", KILLED, folder / "r.csv", folder / "m"], check=False)
    left = [path.name for path in folder.iterdir()]
    assert len(left) == 2
    return left


def test_leftovers_go_when_the_next_file_is_written(tmp_path):
    killed(tmp_path)
    results.write([], tmp_path / "r.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


def test_what_others_are_writing_is_left(tmp_path):
    mine, elsewhere = killed(tmp_path)
    own = files.temporary_path(tmp_path / "own")
    # of a process that lives, and of one on another machine that nobody here can ask
    living = tmp_path / f".a.csv.{os.getppid()}-{files._machine()}abcdef.part"
    other = tmp_path / ".b.csv.4194999-ffffffabcdef.part"
    for path in (own, living, other, tmp_path / ".part", tmp_path / ".mine.part"):
        path.touch()
    files.sweep(tmp_path)
    assert not (tmp_path / mine).exists()
    assert not (tmp_path / elsewhere).exists()
    assert {path.name for path in tmp_path.iterdir()} == {own.name, living.name, other.name, ".part", ".mine.part"}
    os.utime(other, (time.time() - 100_000,) * 2)
    files.sweep(tmp_path)
    assert not other.exists()


def test_the_holder_of_a_folder_sweeps_all_of_it(tmp_path):
    """Nobody else writes there, on whatever machine; what lies in folders below it is not its own."""
    run_folder(tmp_path / "run").close()
    (tmp_path / "run" / "store").mkdir(parents=True)
    for name in (".x.1-ffffffabcdef.part", "store/.y.1-ffffffabcdef.part", ".lock"):
        (tmp_path / "run" / name).touch()
    run_folder(tmp_path / "run").close()
    assert not (tmp_path / "run/.x.1-ffffffabcdef.part").exists()
    assert (tmp_path / "run/store/.y.1-ffffffabcdef.part").exists()


# what is read and what is written


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run with a model in it, a link to the model, a folder whose file is a link into it, and a model elsewhere."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "run" / "step-2"
    model.mkdir(parents=True)
    (model / "model.safetensors").touch()
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model.safetensors").symlink_to(model / "model.safetensors")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "step-3").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("out", ["run", "./run/", "alias", "elsewhere/../run"])
@pytest.mark.parametrize(
    "model",
    [
        "run/step-2",
        "run/step-2/",
        "./run/step-2",
        "run/../run/step-2",
        "run/step-2@main",
        "melhubert:run/step-2",
        "melhubert:./run/step-2",
        "fairseq:run/step-2/model.safetensors",
        "fairseq-native:run/step-2/model.safetensors",
        "link",
        "melhubert:link",
        "linked",
        "run/step-3",
        "run",
        "alias/step-2",
        "melhubert:alias",
    ],
)
def test_a_model_is_not_overwritten_by_what_is_made_of_it(run, model, out):
    with pytest.raises(UsageError) as error:
        Model.open(model).check_apart(Path(out))
    assert str(error.value) == f"the model {model} lies in {Path(out)}, which is to be written: choose another -o"


@pytest.mark.parametrize("model", ["elsewhere", "facebook/wav2vec2-base", "mel", "facebook/x@main", "run2/step-2"])
def test_models_that_are_elsewhere_pass(run, model):
    Model.open(model).check_apart(Path("run"))
    Model.open("run/step-2").check_apart(Path("new"))
    Model.open("run/step-2").check_apart(Path("run/step-2/below"))  # nothing of the model is replaced


# no room

NO_ROOM = """
import os, resource, signal, sys
from pathlib import Path
import h5py, matplotlib, numpy as np, pandas as pd, safetensors.torch, torch, zipfile
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from layertool.errors import StoreError
from layertool.files import whole_file
from layertool.store.sheltered import Sheltered

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
values = torch.randn(200_000)
table = pd.DataFrame({"a": values.numpy()})
figure = plt.figure(figsize=(10, 10))
plt.imshow(np.random.rand(400, 400))

def hdf5(temporary):
    sheltered = Sheltered(temporary, path)
    with h5py.File(sheltered, "w") as file:
        file.create_dataset("a", data=values.numpy())
    sheltered.close()
    sheltered.check()

def file(path, write):
    with open(path, "wb") as opened:
        write(opened)

def archive(path):
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("a", values.numpy().tobytes())

writers = {
    "torch": lambda path: torch.save(values, path),
    "torch, old": lambda path: torch.save(values, path, _use_new_zipfile_serialization=False),
    "torch, file": lambda path: file(path, lambda opened: torch.save(values, opened)),
    "safetensors": lambda path: safetensors.torch.save_file({"a": values}, path),
    "parquet": lambda path: table.to_parquet(path),
    "csv": lambda path: table.to_csv(path),
    "text": lambda path: path.write_text("x" * 1_000_000),
    "png": lambda path: figure.savefig(path, format="png"),
    "pdf": lambda path: figure.savefig(path, format="pdf"),
    "npy": lambda path: file(path, lambda opened: np.save(opened, values.numpy())),
    "npz": lambda path: file(path, lambda opened: np.savez(opened, a=values.numpy())),
    "zip": archive,
    "HDF5": hdf5,
}
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for name, write in writers.items():
    try:
        with whole_file(path) as temporary:
            write(temporary)
    except StoreError as error:
        print(name, "|", error)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_every_library_that_finds_no_room_is_told_of_in_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    said = dict(line.split(" | ") for line in done.stdout.splitlines())
    names = {
        "torch",
        "torch, old",
        "torch, file",
        "safetensors",
        "parquet",
        "csv",
        "text",
        "png",
        "pdf",
        "npy",
        "npz",
        "zip",
        "HDF5",
    }
    assert set(said) == names, done.stderr[-2000:]
    for name, sentence in said.items():
        assert sentence.startswith(f"{tmp_path / 'out'} could not be written: "), name
        assert sentence.endswith("; free some room and run the same command again, what is finished is kept"), name
        assert "limit is reached" in sentence, name
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp")] == []


def test_a_folder_says_no_room_of_whatever_is_written_in_it(tmp_path):
    """A checkpoint of transformers' Trainer is written by torch, under many frames of other people's code."""
    lost = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    lost.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(StoreError, match=r"run could not be written: the disk is full; free"),
        run_folder(tmp_path / "run"),
    ):
        raise lost
    with pytest.raises(RuntimeError, match="CUDA out of memory"), run_folder(tmp_path / "run"):
        raise RuntimeError("CUDA out of memory")
    run_folder(tmp_path / "run").close()  # nobody holds it


def test_a_corpus_and_what_it_is_read_as_agree(tmp_path):
    made = small.corpus(tmp_path / "c", 3)
    assert Corpus.read(made.write(tmp_path / "c"), in_full=True).fingerprint == made.fingerprint


# files of results


def test_results_replace_nothing_that_is_read(tmp_path, monkeypatch):
    rows = [results.Result("cca", "pwcca", "m", "c", "word", f"T{k}", k, "phone", 0.5, n=8) for k in range(3)]
    for name in ("a.csv", "b.csv"):
        results.write(rows, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    before = Path("a.csv").read_bytes()
    said = refused("compare", "a.csv", "b.csv", "-o", "./a.csv")
    assert "Error: a.csv is read, and a.csv would replace it: choose another -o" in said
    assert Path("a.csv").read_bytes() == before
    succeeds("compare", "a.csv", "b.csv", "-o", "c.csv")
    succeeds("compare", "a.csv", "b.csv", "-o", "c.csv")  # results of before are replaced


@pytest.mark.parametrize("name", ["segments.parquet", "utterances.parquet", "corpus.json"])
def test_results_replace_no_part_of_a_corpus(tmp_path, name):
    folder = small.corpus(tmp_path / "c", 2).write(tmp_path / "c")
    rows = [results.Result("cca", "pwcca", "m", "c", "word", f"T{k}", k, "phone", 0.5, n=8) for k in range(3)]
    results.write(rows, tmp_path / "a.csv")
    before = (folder / name).read_bytes()
    said = refused("compare", tmp_path / "a.csv", "-o", folder / name)
    assert f"{folder / name} is a part of the corpus {folder}: choose another -o" in said
    assert (folder / name).read_bytes() == before
    for _ in range(2):  # beside them there is room
        succeeds("compare", tmp_path / "a.csv", "-o", folder / "cca.json")
