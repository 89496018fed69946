"""ocimodel: ship models as signed OCI artifacts."""
