"""Open-loop predictions: what the world model expects of actions that it did not choose."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch

from moto_pl.envs.observation import cameras_beside
from moto_pl.errors import SettingError
from moto_pl.nn.image import to_float, to_uint8
from moto_pl.ops import Key

from .run import run_agent, run_data
from .video import side_by_side, write_video


class OpenLoopVideo(L.Callback):
    """Writes ``videos/open_loop_<step>.mp4`` at each evaluation: truth above, model in the middle, error below.

    Args:
        context: frames that the model sees before it predicts on its own.
        sequences: sequences side by side; 0 writes no video.
    """

    def __init__(self, context: int = 5, sequences: int = 4) -> None:
        if context < 1:
            raise SettingError("context", context, "Show the model at least 1 frame.")
        self.context, self.sequences = context, sequences

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Predicts sequences of the replay's newest data."""
        model = getattr(pl_module, "world_model", None)
        data = run_data(trainer)
        if not trainer.is_global_zero or model is None or not self.sequences or not data.can_sample:
            return
        batch = data.preview(self.sequences)
        states = model.predict(batch, min(self.context, batch.action.shape[1]), Key(0, 0))
        with torch.no_grad():
            images = model.decoder(states.features).float().transpose(0, 1)  # [B, T, 3 * M, H, W]
        truth = to_float(batch.image)
        error = (images - truth) / 2
        columns = []
        for i in range(len(batch.image)):
            column = torch.cat((to_uint8(truth[i]), to_uint8(images[i]), to_uint8(error[i])), 2)
            frames = cameras_beside(column.permute(0, 2, 3, 1).cpu().numpy())  # [T, 3 * H, M * W, 3]
            columns.append(np.ascontiguousarray(frames))
        path = Path(trainer.default_root_dir) / "videos" / f"open_loop_{run_agent(pl_module).trained_steps:07d}.mp4"
        write_video(path, side_by_side(columns), fps=10)
