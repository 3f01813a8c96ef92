"""``moto`` in double precision, which its settings refuse: what differs by more than rounding shows at once.

Every process writes what each gradient step learned from, and what its losses came to, to
``<run>/steps_<processes>_<rank>.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning as L

from moto_pl import cli
from moto_pl.agents import trainer_arguments
from moto_pl.replay.sampler import SequenceBatch

trainer_arguments._PRECISIONS = (*trainer_arguments._PRECISIONS, "64-true")


class Steps(L.Callback):
    """Notes each gradient step's rows, as a hash each, and its losses and figures, of all processes together."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, index: int) -> None:
        self.rows = {
            name: [_hash(part.map(lambda x, i=i: x[i])) for i in range(len(part.reward))]
            for name, part in batch.items()
        }
        self.before = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        path = Path(trainer.default_root_dir) / f"steps_{trainer.world_size}_{trainer.global_rank}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps({"step": self.before, "rows": self.rows, "logged": logged}) + "\n")


def _hash(row: SequenceBatch) -> str:
    return hashlib.blake2b(b"".join(x.contiguous().numpy().tobytes() for x in row if x is not None)).hexdigest()


if __name__ == "__main__":
    sys.exit(cli.main())
