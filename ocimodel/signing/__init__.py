"""Who says what about an artifact, and whether to believe it.

Evidence is what was found and parsed (`gather`, `evidence`); whether it counts is decided by pure
functions over it (`trust`). Making signatures is the other half: `signer`, `cosign`, `notation`,
`oms`.
"""
