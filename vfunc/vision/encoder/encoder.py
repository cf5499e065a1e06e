"""Computes features of pictures by any ViT of timm: the encoder of a vision learner.

Only timm's modules and parameters are used, not its forward pass, which resamples position
embeddings in float32 whatever the precision and wants one size of picture or another set of tokens.
Whether derivatives of second order exist is a matter of attention: timm calls
`F.scaled_dot_product_attention`, whose fused kernels have a first derivative alone; put
`torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` around what is differentiated twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.dense_features import DenseFeatures
from vfunc.vision.encoder.positions import resampled, rotary_positions


class Encoder(nn.Module):
    """A ViT without a head: pictures in, tokens out.

    Tokens are the class token, if there is one, then registers, then patches row by row. The final
    norm applies to all of them; of a model that norms after pooling, that norm does.

    Parameters that no token reaches (classifier, attention pooling) are removed from `vit`, so that
    neither weight decay nor a subset of parameters touches them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, vit: VisionTransformer | Eva, architecture: Architecture | None = None
    ) -> None:
        """Take over a model; it is changed.

        Args:
            vit: a `VisionTransformer` or an `Eva` (DINOv3 is one).
            architecture: the model's architecture; only `save_encoder` needs the name. None
                normalises as for ImageNet.

        Raises:
            UserError: it is another kind of model, its patches are no squares of pixels, or its
                rotary positions are for one grid alone.
        """
        super().__init__()
        _require_plain(vit)
        if isinstance(vit.norm, nn.Identity):
            vit.norm = vit.fc_norm
        vit.fc_norm = nn.Identity()
        vit.reset_classifier(0, global_pool="avg" if vit.cls_token is None else "token")
        self.vit = vit
        self.architecture = architecture
        known, like = architecture or Architecture(""), vit.patch_embed.proj.weight
        for name in ("mean", "std"):
            value = torch.tensor(getattr(known, name), dtype=like.dtype, device=like.device)
            self.register_buffer(name, value.view(3, 1, 1), persistent=False)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.vit.embed_dim

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.vit.blocks)

    @property
    def patch(self) -> int:
        """Pixels along a side of a patch."""
        return cast("int", self.vit.patch_embed.patch_size[0])  # timm: to_2tuple

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: class token and registers."""
        return self.vit.num_prefix_tokens

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels, that the position embeddings are for without resampling."""
        height, width = self.vit.patch_embed.grid_size
        return height * self.patch, width * self.patch

    @property
    def rotary(self) -> bool:
        """Whether attention turns queries and keys by their patch's position (RoPE)."""
        return getattr(self.vit, "rope", None) is not None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of so many pixels.

        Raises:
            UserError: a side is no multiple of the patch.
        """
        if min(height, width) < self.patch or height % self.patch or width % self.patch:
            raise UserError(
                f"pictures of {height} x {width} pixels do not divide into patches of "
                f"{self.patch}: give sizes that are multiples of {self.patch}"
            )
        return height // self.patch, width // self.patch

    def resized(self, side: int | None) -> Encoder:
        """Itself, position embeddings resampled once and for all for squares of so many pixels.

        Raises:
            UserError: the side is no multiple of the patch.
        """
        if side is None or (side, side) == self.image_size:
            return self
        grid, table = self.grid(side, side), self.vit.pos_embed
        if table is not None:
            prefix = 0 if self.vit.no_embed_class else self.prefix_tokens
            new = self._learned(grid, prefix).detach()
            self.vit.pos_embed = nn.Parameter(new, requires_grad=table.requires_grad)
        self.vit.patch_embed.set_input_size((side, side))
        return self

    @typed
    def tokens(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t d"]:
        """All tokens after the last block and the final norm.

        Args:
            images: sRGB in [0, 1], of any size that is a multiple of the patch.

        Raises:
            UserError: the size is not a multiple of the patch.
        """
        return self.encode(self.embed(images), grid=self.grid(*images.shape[-2:]))

    @typed
    def pooled(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n d"]:
        """One vector a picture: the class token, or the mean of the patches where there is none."""
        if self.vit.cls_token is not None:
            return tokens[:, 0]
        return tokens[:, self.prefix_tokens :].mean(1)

    @typed
    def dense(self, images: Float[Tensor, "n 3 h w"], layers: int = 1) -> DenseFeatures:
        """Features of the last blocks, each through the final norm.

        As `get_intermediate_layers(reshape=True, norm=True)` of DINOv2 (arXiv 2304.07193) and
        DINOv3 (arXiv 2508.10104), the maps joined along the channels.

        Args:
            images: see `tokens`.
            layers: number of blocks, counted from the last.

        Raises:
            UserError: there are not so many blocks, or the size is not a multiple of the patch.
        """
        if not 1 <= layers <= self.depth:
            raise UserError(f"features of the last {layers} blocks: this encoder has {self.depth}")
        grid = self.grid(*images.shape[-2:])
        hidden = deque(self._hidden(self.embed(images), None, grid), maxlen=layers)
        normed = [self.vit.norm(x) for x in hidden]
        patches = torch.cat([x[:, self.prefix_tokens :] for x in normed], -1)
        maps = rearrange(patches, "n (gh gw) c -> n c gh gw", gh=grid[0])
        return DenseFeatures(self.pooled(normed[-1]), maps)

    @typed
    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t d"]:
        """All tokens before the first block, learned positions added.

        Raises:
            UserError: the size is not a multiple of the patch.
        """
        vit, grid = self.vit, self.grid(*images.shape[-2:])
        x = vit.patch_embed.proj((images - self.mean) / self.std)
        x = vit.patch_embed.norm(rearrange(x, "n c gh gw -> n (gh gw) c"))
        kinds = [vit.cls_token, getattr(vit, "reg_token", None)]
        prefix = [token.expand(len(x), -1, -1) for token in kinds if token is not None]
        if vit.pos_embed is not None and vit.no_embed_class:
            x = x + self._learned(grid, 0)
        x = torch.cat([*prefix, x], 1)
        if vit.pos_embed is not None and not vit.no_embed_class:
            x = x + self._learned(grid, self.prefix_tokens)
        return vit.norm_pre(vit.pos_drop(x))

    @typed
    def encode(
        self,
        tokens: Float[Tensor, "n t d"],
        kept: Int[Tensor, "n k"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "n t d"]:
        """Blocks and final norm, on all tokens of `embed` or some.

        Args:
            tokens: the prefix tokens, then patches.
            kept: the patches' places, picture by picture, as indices into the row-major grid;
                None if it is all of them. Learned positions are in the tokens already: only rotary
                ones have to know.
            grid: rows and columns of the whole grid, for rotary positions.

        Raises:
            UserError: rotary positions without a grid, or not as many of them as there are patches.
        """
        *_, last = self._hidden(tokens, kept, grid)
        return self.vit.norm(last)

    def _hidden(
        self, tokens: Tensor, kept: Tensor | None, grid: tuple[int, int] | None
    ) -> Iterator[Tensor]:
        """What each block returns."""
        if not self.rotary:
            for block in self.vit.blocks:
                tokens = block(tokens)
                yield tokens
            return
        if grid is None:
            raise UserError("this encoder has rotary positions: tell it the grid of the patches")
        angles = rotary_positions(cast("nn.Module", self.vit.rope), grid, kept, tokens)
        needed, patches = angles.shape[-2], tokens.shape[1] - self.prefix_tokens
        if needed != patches:
            raise UserError(f"{patches} patches, but rotary positions for {needed}")
        by_block = self.vit.rope_mixed
        for i, block in enumerate(self.vit.blocks):
            tokens = block(tokens, rope=angles[i] if by_block else angles)
            yield tokens

    def _learned(self, grid: tuple[int, int], prefix: int) -> Tensor:
        table = cast("Tensor", self.vit.pos_embed)  # `embed` asks whether it is there
        return resampled(table, self.vit.patch_embed.grid_size, grid, prefix)


def count_parameters(module: nn.Module) -> int:
    """The number of entries of all parameters (on the meta device too); tied ones count once."""
    return sum(p.numel() for p in module.parameters())


def _require_plain(vit: VisionTransformer | Eva) -> None:
    # subclasses have forward passes of their own (a second class token, relative positions)
    if type(vit) not in (VisionTransformer, Eva):
        raise UserError(
            f"an encoder is a VisionTransformer or an Eva of timm, not a {type(vit).__name__}"
        )
    embedding = vit.patch_embed
    if type(embedding) is not PatchEmbed or len(set(embedding.patch_size)) != 1:
        raise UserError(
            f"an encoder's patches are squares of pixels, not a {type(embedding).__name__} of "
            f"{getattr(embedding, 'patch_size', '?')}"
        )
    if getattr(vit, "rope", None) is not None and not vit.dynamic_img_size:
        # timm's table of one grid answers for any other
        raise UserError("an encoder with rotary positions is built with dynamic_img_size=True")
