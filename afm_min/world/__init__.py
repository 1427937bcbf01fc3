"""The toy world: tasks with worked answers, their checkers, and tools that a model may call."""
