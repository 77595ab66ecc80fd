"""Files that put the engine behind other servers: each folder holds what its server wants."""
