"""What a run will take, computed from a model's configuration alone: memory, disk, floating point operations, time.

Nothing is loaded: the model is built on the meta device, where tensors have shapes and no content, and one micro-batch
passes one block of each kind. What its forward holds at the moments where calibration stops is counted, not guessed,
so that every architecture that can be compressed can be planned.
"""
