"""What Habari adds to a user's Jupyter server: the tree of home and buckets, and the environment."""
