"""The learner's encoder, a vision transformer from timm, a directory, or the package itself."""
