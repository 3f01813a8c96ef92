"""Open-loop predictions: what the world model expects of actions that it did not choose."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch

from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel
from moto_pl.nn.image import to_float, to_uint8
from moto_pl.ops import Key
from moto_pl.replay.sampler import SequenceBatch

from .run import run_agent, run_data
from .video import side_by_side, write_video


@torch.no_grad()
def predict_open_loop(
    model: WorldModel, batch: SequenceBatch, context: int, key: Key
) -> tuple[torch.Tensor, torch.Tensor]:
    """Filters ``context`` frames, then rolls the recorded actions through the prior to the end.

    Args:
        model: the world model.
        batch: sequences [B, T].
        context: frames that are seen, 1 <= context <= T.
        key: names the draws; each step draws its own member of the ensemble.

    Returns:
        Predicted images in [-0.5, 0.5] float32 [B, T, 3, 64, 64] (the first ``context`` are reconstructions) and
        predicted rewards [B, T].
    """
    seen = SequenceBatch(*(part[:, :context] for part in batch))
    states = model.observe(seen, key).states  # [context, B, ...]
    ahead = batch.action[:, context:].transpose(0, 1)  # [H, B, A]
    if len(ahead):
        rolled = model.roll(states.map(lambda x: x[-1]), lambda i, _: ahead[i], len(ahead), key.fold(1)).states
        states = States(*(torch.cat((past, new[1:])) for past, new in zip(states, rolled, strict=True)))
    return model.decoder(states.features).float().transpose(0, 1), model.predict_reward(states).transpose(0, 1)


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
        images, _ = predict_open_loop(model, batch, min(self.context, batch.action.shape[1]), Key(0, 0))
        truth = to_float(batch.image)
        error = (images - truth) / 2
        columns = []
        for i in range(len(batch.image)):
            stacked = torch.cat((to_uint8(truth[i]), to_uint8(images[i]), to_uint8(error[i])), 2)  # [T, 3, 3 * 64, 64]
            columns.append(np.ascontiguousarray(stacked.permute(0, 2, 3, 1).cpu().numpy()))
        path = Path(trainer.default_root_dir) / "videos" / f"open_loop_{run_agent(pl_module).trained_steps:07d}.mp4"
        write_video(path, side_by_side(columns), fps=10)
