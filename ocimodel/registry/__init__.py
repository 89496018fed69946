"""The distribution client: everything that speaks HTTP to registries.

Source: github.com/opencontainers/distribution-spec v1.1.1.
"""
