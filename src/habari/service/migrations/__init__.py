"""The history of the database's tables; run by `habari.service.database` at each start."""
