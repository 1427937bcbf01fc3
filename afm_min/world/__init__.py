"""The toy world: problems with worked answers, their checkers, and tools that a model may call."""
