"""Models as what is shipped: folded, exported, and compared with the model before they appear."""
