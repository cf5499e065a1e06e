"""A run's folder, made up: everything that the page shows, with text that would break a page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

HOSTILE = "</script><script>alert('x')</script>"
TOKENS = [" so", HOSTILE, "\"'&", "\x00\x1b[2J", "‮abc", "שלום", "x" * 5000, "\n", "", "  ", "é"]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def value_map(arm: str, *, candidates: bool = True) -> dict[str, Any]:
    n = len(TOKENS)
    values = [None, *(0.1 * (k - 4) for k in range(1, n))]
    event = {
        "kind": "value_map", "arm": arm, "at_step": 4, "tokens": [TOKENS], "values": [values],
        "gates": [[None, *(k / n for k in range(1, n))]], "wrong": [[k == 3 for k in range(n)]],
    }  # fmt: skip
    if candidates:
        target = [None if v is None else v + 0.05 for v in values]
        told = [[TOKENS[1], 0.5, -0.3, 0.25, 0.0, 0.7], [" second", 0.25, 0.31, 0.75, 1.0, -0.1]]
        otherwise = [None if v is None else -v for v in values]
        event |= {"target_values": [target], "oracle_values": [target],
                  "candidates": [[None if v is None else told for v in values]],
                  "others": {"deflated": {"values": [otherwise], "target_values": [otherwise],
                                          "oracle_values": [otherwise]}}}  # fmt: skip
    return event


def events_of(arms: list[str], steps: int, unit: str = "tokens") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"kind": "certification", "arm": arms[-1], "verdict": "first_order by linear, gap 2e-12",
         "notes": ["a <b>note</b>"], "seconds": 0.1,
         "rows": [{"subject": "evaluating twice", "verdict": "holds", "engine": "", "gap": None,
                   "resolution": 1e-9, "note": ""}]}
    ]  # fmt: skip
    for place, arm in enumerate(arms):
        for step in range(steps + 1):
            at = {"arm": arm, "step": step, unit: 100 * step, "seconds": 0.5 * step}
            if step % 4 == 0:
                found.append({"kind": "evaluation", **at, "heldout_loss": 1.5 - 0.01 * step * place,
                              "final": step == steps})  # fmt: skip
            if step:
                loss = "nan" if step == 2 else 2.0 - 0.1 * place
                values = {"value": 1e-6 * step, "objective": 2e-6, "gate": 0.1} if place else {}
                found.append({"kind": "step", **at, "train_loss": loss,
                              "units_a_second": 900.0 + step, **values})  # fmt: skip
    for k in range(4):
        found.append({"kind": "probe", "arm": arms[-1], "at_step": 4, "step_kind": "small",
                      "feedback": "same", "predicted": 0.1 * k, "realised": 0.09 * k})  # fmt: skip
    found.append({"kind": "signal", "arm": arms[-1], "mean_cosine": 0.25,
                  "feedback_agreement": 0.5})  # fmt: skip
    return found


def write_run(folder: Path, *, seed: int = 0, finished: bool = True, modality: str = "language",
              candidates: bool = True, arms: tuple[str, ...] = ("baseline", "vpretraining"),
              steps: int = 8) -> Path:  # fmt: skip
    folder.mkdir(parents=True)
    unit = {"language": "tokens", "vision": "images"}[modality]
    config = {"modality": modality, "arms": list(arms), "seed": seed, "budget": f"{steps}steps",
              "stream": f"<img src=x onerror=alert(1)>{HOSTILE}", "estimator": "first_order"}  # fmt: skip
    (folder / "config.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in config.items())
    )
    events = events_of(list(arms), steps, unit)
    if modality == "language":
        events.append(value_map(arms[-1], candidates=candidates))
    else:
        (folder / "plots").mkdir()
        (folder / "plots" / f"value_map_{arms[-1]}.png").write_bytes(PNG)
        events.append({"kind": "value_map", "arm": arms[-1], "at_step": 4, "pixels": "UEs"})
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    results = {
        arm: {"arm": arm, "budget": f"{steps}steps", "steps": steps, unit: 800, "seconds": 4.0,
              "metrics": {"loss": 1.25 - 0.5 * place, "loss_examples": 4}}
        for place, arm in enumerate(arms)
    }  # fmt: skip
    (folder / "arms").mkdir()
    for arm, result in list(results.items())[: None if finished else 1]:
        (folder / "arms" / f"{arm}.json").write_text(json.dumps(result | {"outcomes": {}}))
    (folder / "start.json").write_text(json.dumps({"loss": 1.5}))
    if finished:
        metrics = {
            "config": config, "versions": {"torch": "9.9.9"}, "device": HOSTILE, "threads": 1,
            "data": {"stream": {"sequences": 64}}, "unit": unit,
            "metrics": [{"name": "loss", "title": "held-out\nloss", "unit": "nat",
                         "outcomes": "loss"}],
            "arms": results, "start": {"loss": 1.5},
            "against_baseline": {arms[-1]: {"loss": {"difference": -0.5, "standard_error": 0.1,
                                                     "p_value_holm": 0.01}}},
            "probe": {}, "signal": {},
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def write_score(folder: Path, config: dict[str, Any]) -> None:
    """A score beside runs, measured with these options."""
    folder.mkdir()
    interval = {"value": -0.5, "low": -0.75, "high": 0.25}
    agreement = {"spearman": interval, "regret": {"value": 1.5}}
    scores = [{"row": "unrolled <K>", "reading": "slope", "measure": "test", "horizon": h,
               "share": share, "agreement": agreement} for h in (1, 4) for share in (None, 0.1)]  # fmt: skip
    (folder / "score.json").write_text(
        json.dumps({"settings": [{"setting": "", "scores": scores}]})
    )
    (folder / "asked.json").write_text(json.dumps(config | {"tasks": 8}))
