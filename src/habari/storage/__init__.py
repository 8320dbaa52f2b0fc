"""The only code that administers an object store: one module per kind of store, and the reconciler above them."""
