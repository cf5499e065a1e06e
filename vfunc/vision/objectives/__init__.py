"""Self-supervised objectives on views, DINO and I-JEPA, and the crops that they compare."""
