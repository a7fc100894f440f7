"""Features on disk: immutable HDF5 shards, found by digest and fingerprint."""
