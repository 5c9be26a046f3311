"""LoRA and DoRA adapters over a base checkpoint."""
