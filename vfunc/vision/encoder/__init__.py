"""Vision transformers as the learner's encoder: from timm, a directory, or the package itself."""
