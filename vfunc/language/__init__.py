"""The language modality: soft next-token targets, cross-entropy feedback, data."""
