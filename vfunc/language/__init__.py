"""The language modality: soft next-token targets, cross-entropy feedback, data."""

from vfunc.extras import needs

needs("language")
