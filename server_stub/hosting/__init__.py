"""Examples of hosting the engine on other people's inference servers: MLServer, and Triton through PyTriton."""
