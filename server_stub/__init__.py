"""The reference server: a diffusers model behind the Blackbox TI protocol."""
