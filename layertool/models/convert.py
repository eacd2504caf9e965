"""Checkpoints of other tools as safetensors and a configuration."""

from __future__ import annotations

from pathlib import Path

from layertool.files import read_json, whole_folder, write_json
from layertool.models import fairseq, melhubert
from layertool.models.foreign import file_sha256

SOURCE = "source.json"  # what a folder was converted from


def convert(kind: str, path: Path | str, out: Path | str) -> Path:
    """Write the network of a checkpoint as a folder with config.json and model.safetensors, whole or not at all.

    ``kind``: "fairseq" gives a folder for transformers (tensors that only training uses are left out), "melhubert" one for
    ``layertool.models.melhubert``. source.json names the file, its sha256 and its step. Raises ModelError and StoreError.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    path, out = Path(path), Path(out)
    sha256 = file_sha256(path) if path.is_file() else None
    if (out / SOURCE).exists() and read_json(out / SOURCE, "the source of a converted model").get("sha256") == sha256:
        return out  # it is done
    with whole_folder(out) as temporary:
        if kind == "melhubert":
            network, config = melhubert.load(path)
            melhubert.save(network, config, temporary)
            facts: dict = {"step": config.step}
        else:
            network, known = fairseq.read(path)
            network.save_pretrained(temporary)
            write_json(
                temporary / "preprocessor_config.json",
                {
                    "feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": known.normalise,
                    "sampling_rate": 16_000, "feature_size": 1, "padding_value": 0.0, "return_attention_mask": True,
                },
            )  # fmt: skip
            facts = {
                "step": known.step,
                "normalisation_epsilon": fairseq.EPSILON,
                "is_finetuned": known.is_finetuned,
                "left_out": list(known.training_only),
            }
        write_json(temporary / SOURCE, {"file": path.name, "sha256": sha256, **facts})
    return out
