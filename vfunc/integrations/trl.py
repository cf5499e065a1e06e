"""V-pretraining in TRL's `SFTTrainer`."""

from __future__ import annotations

from vfunc.extras import needs
from vfunc.integrations.transformers import ValueTrainerMixin

with needs("trl", "trl"):
    from trl.trainer.sft_trainer import SFTTrainer

__all__ = ["ValueSFTTrainer"]


class ValueSFTTrainer(ValueTrainerMixin, SFTTrainer):
    """TRL's `SFTTrainer` on designed targets: its data, chat templates and adapters.

    `feedback_dataset` is prepared as the training data are.
    """
