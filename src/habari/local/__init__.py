"""One machine: the stack of processes, the embedded object store and the isolated spawner."""
