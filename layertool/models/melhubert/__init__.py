"""MelHuBERT (Lin et al. 2022): HuBERT on log mel energies; its network, input, training objective and checkpoints.

    model, config = melhubert.load("checkpoint-epoch-200.ckpt")
    x = torch.from_numpy(melhubert.features(waveform, config.stride))[None]
    model(x).hidden_states                    # the projection, then each block

Facts and golden numbers: spec speat.md 3.
"""

from layertool.models.melhubert.checkpoints import MODEL_TYPE, is_folder, load, save
from layertool.models.melhubert.input import DEFAULT_STATISTICS, GEOMETRIES, features, name_statistics
from layertool.models.melhubert.network import PRESETS, Config, MelHuBERT, Output
from layertool.models.melhubert.objective import masked_prediction_loss, span_mask

__all__ = [
    "DEFAULT_STATISTICS",
    "GEOMETRIES",
    "MODEL_TYPE",
    "PRESETS",
    "Config",
    "MelHuBERT",
    "Output",
    "features",
    "is_folder",
    "load",
    "masked_prediction_loss",
    "name_statistics",
    "save",
    "span_mask",
]
