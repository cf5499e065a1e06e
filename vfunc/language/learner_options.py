"""Which parameters of a language learner are trained: all, a subset, or adapters in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.conditions import check_subset
from vfunc.config.declared import Computed, Need, option

_ADAPTERS = Need(
    lambda options: options["lora_rank"] > 0, "it is for adapters; give --lora-rank above 0"
)
_FROZEN = Need(
    lambda options: options["train"] != "all", "nothing is frozen; give --train, such as last:6"
)
_UNFROZEN = Need(lambda options: options["train"] == "all", "it is for --train all")
_ESTIMATED_PLAINLY = Need(
    lambda options: options["estimate_mode"] != "train",
    "--estimate-mode train needs the whole learner in every estimate; leave that out",
)
_WORKED = Need(
    lambda options: options["feedback_kind"] != "reward",
    "rewards are of samples that the learner draws, which need it whole; give worked solutions",
)
_ENTRYWISE = Need(
    lambda options: options["optimizer"] != "adafactor",
    "--optimizer adafactor steps by sums over whole rows and columns, and a process holds a part; "
    "give another",
)
_KEPT = Need(
    lambda options: options["cache_edge"] != "no", "nothing is kept; give --cache-edge float32"
)


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """LoRA adapters, trained in the learner's place."""

    lora_rank: int = option("Train LoRA adapters of this rank; 0 trains all.", default=0, least=0)
    lora_alpha: float = option(
        "Scale of the adapters.",
        default=Computed("twice --lora-rank", lambda options: 2.0 * options["lora_rank"]),
        above=0,
        needs=(_ADAPTERS,),
    )
    lora_dropout: float = option(
        "Dropout on the adapters' input.", default=0.05, least=0, below=1, needs=(_ADAPTERS,)
    )


@dataclass(frozen=True, kw_only=True)
class TrainedOptions:
    """What of the learner is trained, and what becomes of the rest."""

    train: str = option(
        "Parameters that are trained at all, as --align names them; the others are frozen. Blocks "
        "below the lowest that is trained run without a graph and without dropout, text by text.",
        default="all",
        metavar="SUBSET",
        check=check_subset,
    )
    shard_learner: bool = option(
        "Spread the blocks below S over the processes that torchrun starts, by FSDP2, each with "
        "its gradient and optimizer state: for learners that do not fit one device. It needs "
        "--align last:N; what is in S, embeddings and the head stay whole in each.",
        default=False,
        needs=(_UNFROZEN, _ESTIMATED_PLAINLY, _WORKED, _ENTRYWISE),
    )
    cache_edge: Literal["no", "float32", "bfloat16"] = option(
        "Keep on disk what these blocks make of each text, in this precision; arms, seeds and runs "
        "share it. float32 changes no number.",
        default="no",
        needs=(_FROZEN,),
    )
    edge_precision: Literal["float32", "bfloat16"] = option(
        "Of the products of these blocks.",
        default=Computed("as --precision", lambda options: options["precision"]),
        needs=(_FROZEN,),
    )
    edge_dir: str | None = option(
        "Where it is kept.",
        default=None,
        shown="the folder vfunc/edges of the user's cache",
        metavar="DIR",
        needs=(_KEPT,),
    )
