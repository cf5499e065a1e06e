"""Trains one arm by TRL: budget, step sizes, events, evaluation and checkpoints are the run's."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.nn.utils import get_total_norm

from vfunc.errors import NonFiniteError
from vfunc.extras import needs
from vfunc.language.loading import quiet
from vfunc.language.workload import LanguageWorkload
from vfunc.learner import RandomState
from vfunc.training.arm_run import ArmRun
from vfunc.training.direct.phases import Phase, due, phases_of
from vfunc.training.direct.trl_trainers import grpo_trainer, sft_trainer
from vfunc.training.interrupt import StopRequest, noting_interrupts
from vfunc.training.loop import crosses, evaluate_arm, follow, fraction_spent, report, save
from vfunc.training.state import DirectState
from vfunc.workload import Evaluation

with needs("language", "transformers"):
    from transformers import TrainerCallback

OURS = ("loss", "grad_norm", "learning_rate")
"""What TRL logs and a run has under names of its own."""
LEFT_OUT = ("epoch", "step_time", "num_tokens", "num_input_tokens_seen")
"""What a run counts for itself."""


def run_trl_arm(run: ArmRun) -> Evaluation:
    """Train one arm by TRL to the end of its budget, from wherever its state is.

    Seconds count training alone, TRL's sampling and rewards in it: evaluation, saving and the
    making of a trainer are outside the clock. The state is that of every arm, so that a
    checkpoint is too: an arm that goes on from one is bit for bit, on the CPU, the one that was
    not stopped.

    Args:
        run: the arm; its state is changed in place.

    Returns:
        The final evaluation.

    Raises:
        UserError: something that TRL's trainers do not go with.
        NonFiniteError: something is not finite; the checkpoint on disk is from before that.
        Interrupted: a signal asked to stop; the state after the last whole step is on disk.
    """
    assert isinstance(run.workload, LanguageWorkload)
    phases = phases_of(run.arm, run.workload.direct.sft_share)
    if run.state.counters.step == 0:
        evaluate_arm(run, final=False)
        run.log.checkpoint(run.state)
    with noting_interrupts() as stop:
        follow(run)  # what an interrupt left undone
        while (spent := fraction_spent(run)) < 1.0:
            number = due(phases, spent)
            _begin(run, number, phases[number])
            _train(run, phases[number], stop)
            if stop.requested:
                at = run.state.counters
                raise stop.raised(f"stopped after step {at.step} of {run.arm.name}")
    return evaluate_arm(run, final=True)


def _begin(run: ArmRun, number: int, phase: Phase) -> None:
    """A training's beginning: an optimizer as new, and the learner that it diverges from."""
    state, workload = run.state, run.workload
    assert isinstance(workload, LanguageWorkload)
    if state.direct is not None and state.direct.phase == number:
        return
    state.optimizer.state.clear()
    reference = None
    if phase.kind == "grpo" and workload.direct.grpo_beta:
        live = state.learner.named_parameters()
        reference = {name: p.detach().clone() for name, p in live if p.requires_grad}
    state.direct = DirectState(number, reference)


def _train(run: ArmRun, phase: Phase, stop: StopRequest) -> None:
    """One training, to its end or to a request to stop."""
    assert run.state.direct is not None
    # TRL seeds anew, and its loaders draw: the arm goes on with the random state that it had
    drawn = RandomState.now(next(run.state.learner.parameters()).device)
    with tempfile.TemporaryDirectory(prefix="vfunc-trl-") as folder:
        follower = _Follower(run, phase, stop, drawn)
        if phase.kind == "sft":
            trainer = sft_trainer(run, Path(folder), follower)
        else:
            reference = run.state.direct.reference
            trainer = grpo_trainer(run, Path(folder), follower, reference)
        follower.trainer = trainer
        try:
            with quiet(), warnings.catch_warnings():
                # of calls that TRL makes of transformers: nothing that a run could change
                warnings.simplefilter("ignore", FutureWarning)
                trainer.train()
        finally:
            run.state.optimizer.zero_grad(set_to_none=True)


class _Follower(TrainerCallback):
    """Has a run's counters, events, evaluations and checkpoints follow TRL's steps."""

    trainer: Any

    def __init__(self, run: ArmRun, phase: Phase, stop: StopRequest, drawn: RandomState) -> None:
        self._run, self._phase, self._stop = run, phase, stop
        self._drawn: RandomState | None = drawn
        self._began = 0.0
        self._took: dict[str, float] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`: the clock begins."""
        self._began = time.perf_counter()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`: the step's size, by the run's schedule over this training."""
        run = self._run
        if self._drawn is not None:
            self._drawn.restore(next(run.state.learner.parameters()).device)
            self._drawn = None
        plan, workload = run.plan, run.workload
        assert isinstance(workload, LanguageWorkload)
        if self._phase.kind == "grpo" and workload.direct.grpo_lr is not None:
            plan = replace(plan, lr=workload.direct.grpo_lr)
        size = plan.size(self._phase.fraction(fraction_spent(run)))
        for group in run.state.optimizer.param_groups:
            group["lr"] = size
        self._took = {"lr": size}

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            NonFiniteError: the gradient is not finite; the learner has not moved.
        """
        run = self._run
        held = [p.grad for p in run.state.learner.parameters() if p.grad is not None]
        norm = get_total_norm(held)
        if not norm.isfinite():
            raise NonFiniteError(f"the learner's gradient is {float(norm)} ({run.where})")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`: the counts; the clock stands until the step has been told."""
        run, at = self._run, self._run.state.counters
        seconds = time.perf_counter() - self._began
        units, self.trainer.tokens = self.trainer.tokens, 0
        self._took["units_a_second"] = units / seconds if seconds > 0 else 0.0
        self._took["spent_before"] = fraction_spent(run)
        run.state.counters = replace(
            at,
            step=at.step + 1,
            micro_batch=at.micro_batch + run.options.accumulate,
            units=at.units + units,
            seconds=at.seconds + seconds,
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """See `TrainerCallback`: TRL's figures of a step become the run's, and what is due is done.

        TRL logs after every step, and once more at its end, without a loss.
        """
        if not logs or "loss" not in logs:
            return
        run, before = self._run, self._took.pop("spent_before")
        report(run, {**self._took, **_figures(logs)}, first=False)
        spent = fraction_spent(run)
        if self._stop.requested:
            save(run)
            control.should_training_stop = True
            return
        follow(run)
        if spent == 1.0 or crosses(run.plan.save_every, before, spent):
            save(run)
        if spent >= self._phase.end:
            control.should_training_stop = True
        self._began = time.perf_counter()


def _figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """TRL's numbers of a step, those that a run has too by the run's names."""
    own = {"train_loss": float(logs["loss"]), "gradient_norm": float(logs["grad_norm"])}
    theirs = {
        name: float(x)
        for name, x in logs.items()
        if name not in (*OURS, *LEFT_OUT) and isinstance(x, int | float)
    }
    return own | theirs
