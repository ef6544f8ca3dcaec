"""Training a student: composes a method, its data and the engine, as a configuration says."""
