"""Checkpoints of other tools as safetensors and a configuration."""

from __future__ import annotations

from pathlib import Path

from layertool.errors import UsageError
from layertool.files import read_json, whole_folder, write_json
from layertool.models import fairseq, melhubert
from layertool.models.checkpoint_files import SOURCE, write_preprocessor
from layertool.models.foreign import file_sha256
from layertool.models.open import Model


def convert(model: Model | str, out: Path | str) -> Path:
    """Write the network of a checkpoint as a folder with config.json and model.safetensors, whole or not at all.

    ``model``: fairseq:FILE gives a folder for transformers (tensors that only training uses are left out),
    melhubert:FILE one for ``layertool.models.melhubert``. source.json names the file, its sha256 and its step. Raises
    UsageError for any other MODEL, ModelError and StoreError.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, out = Model.open(model), Path(out)
    if not model.text.startswith(("fairseq:", "melhubert:")):
        raise UsageError(f"'{model}' is no checkpoint of another tool: give fairseq:FILE or melhubert:FILE")
    path = model.path
    sha256 = file_sha256(path) if path.is_file() else None
    if (out / SOURCE).exists() and read_json(out / SOURCE, "the source of a converted model").get("sha256") == sha256:
        return out  # it is done
    with whole_folder(out) as temporary:
        if model.kind == "melhubert":
            network, config = melhubert.load(path)
            melhubert.save(network, config, temporary)
            facts: dict = {"step": config.step}
        else:
            network, known = fairseq.read(path)
            network.save_pretrained(temporary)
            write_preprocessor(temporary, known.normalise)
            facts = {
                "step": known.step,
                "normalisation_epsilon": fairseq.EPSILON,
                "is_finetuned": known.is_finetuned,
                "left_out": list(known.training_only),
            }
        write_json(temporary / SOURCE, {"file": path.name, "sha256": sha256, **facts})
    return out
