"""An artifact read in place: bytes come when they are wanted, and each is verified before.

`blob` reads one blob by its chunks, `bulk` fetches many of them ahead, `model` is what people see.
"""
