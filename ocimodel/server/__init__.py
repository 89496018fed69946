"""An OCI image layout behind the distribution API, for development and air-gapped use.

Source: OCI distribution-spec v1.1.1. There is no authentication and no TLS: it belongs on loopback.
"""

from ocimodel.server.server import DEFAULT_ADDRESS, RegistryServer, parse_address

__all__ = ["DEFAULT_ADDRESS", "RegistryServer", "parse_address"]
