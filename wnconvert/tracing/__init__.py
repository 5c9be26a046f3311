"""From a model to its graph, or to the reason why it has none."""
