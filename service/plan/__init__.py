"""The plan for memory: what a checkpoint and an image take, what fits, and which measures make it fit. No torch here.

Weights follow from the headers of the files, activations from a walk through the networks on a tape (``tape``,
``networks``), the rest from the device (``platform``). ``stages`` says what an
image goes through, ``planner`` what it takes at most and which measures make it fit.
"""
