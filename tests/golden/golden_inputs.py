"""What the golden commands read besides their own problems: text files, pictures, a tiny ViT.

Numbers are drawn by numpy's legacy generator, whose stream does not change between versions.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def write_inputs(folder: Path) -> None:
    """Everything, into a folder that the commands of a case are carried out in."""
    _write_texts(folder)
    _write_pictures(folder / "pictures")
    _write_learner(folder / "vit")


def _write_texts(folder: Path) -> None:
    sums = [
        (f"{a} + {b} = ?\n", f"{a}+{b}={a + b}\n#### {a + b}") for a in (1, 2, 3) for b in (4, 5)
    ]
    less = [
        (f"{a} - {b} = ?\n", f"{a}-{b}={a - b}\n#### {a - b}") for a in (7, 8, 9) for b in (4, 5)
    ]
    texts = [
        {"text": f"Lea has {a} coins. Lea buys {b}. {a}+{b}={a + b}"}
        for a in (2, 3, 4)
        for b in range(5)
    ]
    _write_lines(folder / "text.jsonl", texts)
    for name, pairs in (("sums", sums), ("differences", less)):
        _write_lines(folder / f"{name}.jsonl", [{"ask": a, "tell": t} for a, t in pairs])
    held_out = [
        {"question": f"{a} + 9 = ?\n", "answer": f"{a}+9={a + 9}\n#### {a + 9}"}
        for a in (5, 6, 7, 8)
    ]
    _write_lines(folder / "held_out.jsonl", held_out)


def _write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def _write_pictures(folder: Path) -> None:
    from PIL import Image

    draw = np.random.RandomState(1)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(24):
        label = np.zeros((40, 40), np.uint8)
        label[i % 20 : i % 20 + 20, 10:30] = 1 + i % 2
        label[:2] = 3
        noise = draw.randint(0, 60, (40, 40, 3))
        picture = (noise + 80 * (label[..., None] % 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{i:02}.png")
        Image.fromarray(label).save(folder / "labels" / f"{i:02}.png")


def _write_learner(folder: Path) -> None:
    """A ViT of three blocks on 32 pixels, as timm saves it; its numbers are all our own."""
    import timm
    from safetensors.numpy import save_file

    arguments = SHAPE | {"num_classes": 0, "dynamic_img_size": True}
    vit = timm.create_model("vit_tiny_patch16_224", **arguments)
    draw, tensors = np.random.RandomState(0), {}
    for name, x in sorted(vit.state_dict().items()):
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[name] = (around + 0.2 * draw.standard_normal(tuple(x.shape))).astype(np.float32)
    folder.mkdir()
    save_file(tensors, str(folder / "model.safetensors"))
    picture = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "num_classes": 0}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": arguments,
        "pretrained_cfg": picture | {"first_conv": "patch_embed.proj", "classifier": "head"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
