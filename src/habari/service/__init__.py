"""The storage service: the only holder of the object store's admin keys; owns identities, buckets, grants and keys."""
