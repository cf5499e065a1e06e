"""Learned views for self-supervised vision, steered by dense feedback (paper, section on vision).

Images are sRGB in [0, 1], channels first; a learner normalises them itself. The designer phi acts
on the learner's *input*: view = c_phi(image). DINO and I-JEPA are the objectives; segmentation,
depth and classification are the feedback.
"""

from vfunc.extras import needs

needs("vision")
